"""Two machines as two network namespaces joined by a virtual cable; they share the disk, the clock and the processors.

Needs root and iproute2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chains import ROOT

ADDRESSES = ("10.213.0.1", "10.213.0.2")
CABLE = "r1cable"
"""What the network device is called on both machines."""


def why_not() -> str | None:
    """Why there cannot be two machines here, or None."""
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    if os.geteuid() != 0:
        return "network namespaces need root"
    done = subprocess.run(["ip", "netns", "add", f"r1try{os.getpid()}"], capture_output=True, text=True)
    if done.returncode != 0:
        return f"network namespaces are refused here: {done.stderr.strip()}"
    _ip("netns", "del", f"r1try{os.getpid()}")
    return None


@contextmanager
def two_machines() -> Iterator[list[str]]:
    """Names of the two namespaces; skips the test, saying why, where there cannot be any."""
    if reason := why_not():
        pytest.skip(reason)
    names = [f"r1m{number}x{os.getpid()}" for number in (0, 1)]
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", CABLE, "netns", names[0], "type", "veth", "peer", "name", CABLE, "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", CABLE)
            for device in ("lo", CABLE):
                _ip("-n", name, "link", "set", device, "up")
        yield names
    finally:  # what still runs there keeps a namespace alive without its name
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def on_machine(name: str, line: Sequence[str], log: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a command on one of them; what it prints goes to `log`."""
    with log.open("wb") as out:
        return subprocess.Popen(
            ["ip", "netns", "exec", name, *line],
            cwd=ROOT,
            env={**env, "GLOO_SOCKET_IFNAME": CABLE},
            stdout=out,
            stderr=subprocess.STDOUT,
        )


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
