"""The sandbox modes that this machine can run, as pytest parameters."""

from __future__ import annotations

import shutil
import subprocess

import pytest


def _why_no_bubblewrap() -> str:
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        return "bubblewrap is not installed (apt-get install bubblewrap)"
    trial = subprocess.run([bwrap, "--unshare-all", "--ro-bind", "/", "/", "true"], capture_output=True, text=True)
    return f"bubblewrap cannot make namespaces here: {trial.stderr.strip()}" if trial.returncode else ""


NO_BUBBLEWRAP = _why_no_bubblewrap()
needs_bubblewrap = pytest.mark.skipif(bool(NO_BUBBLEWRAP), reason=NO_BUBBLEWRAP)
MODES = ["weak", pytest.param("bubblewrap", marks=needs_bubblewrap)]
