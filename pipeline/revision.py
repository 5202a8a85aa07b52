"""The version of the code, for records: the package's, and the git revision where there is a repository."""

from __future__ import annotations

import functools
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@functools.cache
def code_revision() -> str:
    """For example "0.1.0+git.afdcb0b.dirty"; never raises."""
    try:
        package = version("r1-pipeline")
    except PackageNotFoundError:
        package = "0"
    root = Path(__file__).resolve().parent
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10)
        if commit.returncode != 0:
            return package
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return package
    return f"{package}+git.{commit.stdout.strip()}{'.dirty' if changes.stdout.strip() else ''}"
