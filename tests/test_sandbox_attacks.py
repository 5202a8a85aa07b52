"""Every attack of sandbox_attacks.py must hold, in every mode, for root's programs and for an ordinary user's."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox_attacks import ATTACKS, attack_all
from tests.sandbox_modes import MODES

SCRIPT = Path(__file__).with_name("sandbox_attacks.py")
NOBODY = 65534
UNHARMFUL = {
    "abstract unix socket",
    "another program",
    "datagram pair that addresses the host",
    "own environment",
    "password file",
    "process table",
    "tcp to localhost",
    "udp datagram",
    "unix socket by path",
    "world-readable file of the host",
    "write where everybody may",
}
"""Attacks that may be let loose on this machine to see that they would succeed without the sandbox."""


@functools.cache
def results(mode: str) -> dict[str, str]:
    return attack_all(mode)


def as_nobody(script: Path, mode: str) -> Any:
    """What a script prints as JSON in a process that gave up root before it started, under an interpreter that it can
    read."""
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        ["/usr/bin/python3", str(script), mode],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@functools.cache
def results_of_nobody(mode: str) -> dict[str, str]:
    found: dict[str, str] = as_nobody(SCRIPT, mode)
    return found


def _nobody_can_run() -> str:
    if os.geteuid() != 0:
        return "not root: the other tests already run as an ordinary user"
    try:
        run = subprocess.run(
            ["/usr/bin/python3", "-c", f"import sys; open({str(SCRIPT)!r}); sys.exit(sys.version_info < (3, 11))"],
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            capture_output=True,
            check=False,
        )
    except OSError as error:
        return f"no system Python: {error}"
    return "an ordinary user has no Python 3.11 here, or cannot read the repository" if run.returncode else ""


WHY_NOT = _nobody_can_run()


def test_there_are_enough_attacks() -> None:
    assert len(ATTACKS) >= 40
    assert set(ATTACKS) > UNHARMFUL


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [*ATTACKS, "nothing left in the directory", "the secret is unchanged"])
def test_attack_holds(mode: str, name: str) -> None:
    assert results(mode)[name] == ""


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [*ATTACKS, "nothing left in the directory", "the secret is unchanged"])
def test_attack_holds_for_an_ordinary_user(mode: str, name: str) -> None:
    assert results_of_nobody(mode)[name] == ""


@pytest.fixture
def host(tmp_path: Path) -> dict[str, str]:
    return {
        "DIRECTORY": str(tmp_path),
        "PARENT": str(os.getpid()),
        "SECRET": "s",
        "REPOSITORY": str(SCRIPT.parents[1]),
        "ABSTRACT": f"r1-control-{os.getpid()}",
    }


@pytest.mark.parametrize("name", sorted(UNHARMFUL))
def test_attack_would_succeed_without_the_sandbox(
    name: str, host: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack that fails everywhere proves nothing."""
    import socket

    (tmp_path / "secret").write_text("s")
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as stream,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram,
    ):
        monkeypatch.chdir(tmp_path)  # a path of a socket must be short
        stream.bind("socket")
        stream.listen()
        kind = datagram if name.startswith("datagram") else abstract
        kind.bind("\0" + host["ABSTRACT"])
        if kind is abstract:
            kind.listen()
        source = ATTACKS[name].replace("@DIRECTORY@/socket", "socket")
        for key, value in {**host, "PORT": str(server.getsockname()[1])}.items():
            source = source.replace(f"@{key}@", value)
        environment = {"PATH": os.environ.get("PATH", ""), "A_TOKEN": "s"}
        run = subprocess.run(
            [sys.executable, "-c", source], capture_output=True, text=True, timeout=30, env=environment
        )
    assert "BROKEN" in run.stdout, run.stderr
