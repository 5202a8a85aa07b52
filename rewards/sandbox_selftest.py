"""Attacks on our own sandbox, run before it is trusted. A broken sandbox otherwise looks like failing programs."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from rewards.sandbox_command import Mode, check_mode, interpreter
from rewards.sandbox_run import Limits, Run, run_functions, run_script
from rewards.sandbox_worker import SandboxError

Line = tuple[str, bool, str]
"""What is tested, whether it holds, and what was seen."""

OLDEST_PYTHON = (3, 9)
LIMITS = Limits(seconds=5.0)

TOLERATED: Mapping[Mode, frozenset[str]] = {
    "bubblewrap": frozenset(),
    # Without Landlock (Linux before 5.13) nothing but file permissions hides this user's files.
    "weak": frozenset({"host files unreadable"}),
}
"""Lines that a mode may fail; they are logged."""

_ATTEMPT = """
try:
    {attempt}
    print("DONE")
except (OSError, ValueError) as error:
    print("refused:", error)
"""

_DEAF_LOOP = """
import signal
for number in range(1, 32):
    try:
        signal.signal(number, signal.SIG_IGN)
    except OSError:
        pass
while True:
    pass
"""


def self_test(mode: str) -> list[Line]:
    """Every line of the test, in order. Raises ValueError where `mode` cannot be had here at all."""
    chosen = check_mode(mode)
    interpreter()
    lines: list[Line] = []
    for name, probe in _PROBES.items():
        try:
            ok, detail = probe(chosen)
        except SandboxError as error:
            ok, detail = False, str(error)
        lines.append((name, ok, detail))
        if name == "starts" and not ok:
            break
    return lines


def _run(mode: Mode, source: str, stdin: bytes = b"", limits: Limits = LIMITS) -> Run:
    return run_script(source, stdin, sandbox=mode, limits=limits)


def _said(run: Run) -> str:
    text = (run.output or run.errors).decode(errors="replace").strip()
    return text.splitlines()[-1][:200] if text else f"no output ({run.exit})"


def _refused(mode: Mode, attempt: str, imports: str) -> tuple[bool, str]:
    said = _said(_run(mode, f"import {imports}\n" + _ATTEMPT.format(attempt=attempt)))
    return said.startswith("refused:"), said


def _starts(mode: Mode) -> tuple[bool, str]:
    said = _said(_run(mode, "import sys; print(*sys.version_info[:2])"))
    try:
        version = tuple(int(part) for part in said.split())
    except ValueError:
        return False, said
    mine = sys.version_info[:2]
    note = "" if version == mine else f", training runs on {mine[0]}.{mine[1]}"
    return version >= OLDEST_PYTHON, f"Python {'.'.join(map(str, version))}{note}"


def _user(mode: Mode) -> tuple[bool, str]:
    said = _said(_run(mode, "import os; print(os.getuid(), os.geteuid(), os.getgid())"))
    return bool(said) and "0" not in said.split() and all(part.isdigit() for part in said.split()), f"ids {said}"


def _known(mode: Mode) -> tuple[bool, str]:
    doubled = _run(mode, "print(int(input()) * 2)", b"21\n").output == b"42\n"
    tests = ["assert double(21) == 42", "assert double(1) == 3"]
    source = "def double(x):\n    return 2 * x"
    check = run_functions(source, entry_point="double", setup="", tests=tests, sandbox=mode, limits=LIMITS)
    outcomes = [outcome for outcome, _ in check.outcomes]
    return doubled and outcomes == ["ok", "wrong", "done"], f"script {doubled}, function {outcomes}"


def _network(mode: Mode) -> tuple[bool, str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        return _refused(mode, f"socket.create_connection({address!r}, timeout=1)", "socket")


def _reading(mode: Mode) -> tuple[bool, str]:
    with tempfile.NamedTemporaryFile(dir="/var/tmp" if os.path.isdir("/var/tmp") else None) as file:
        file.write(b"secret")
        file.flush()
        os.chmod(file.name, 0o644)
        return _refused(mode, f"open({file.name!r}).read()", "os")


def _writing(mode: Mode) -> tuple[bool, str]:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        target = Path(directory) / "written"
        ok, said = _refused(mode, f"open({str(target)!r}, 'w').write('x')", "os")
        return ok and not target.exists(), said


def _forking(mode: Mode) -> tuple[bool, str]:
    return _refused(mode, "os.fork()", "os")


def _signals(mode: Mode) -> tuple[bool, str]:
    return _refused(mode, "os.kill(os.getppid(), 0)", "os")


def _environment(mode: Mode) -> tuple[bool, str]:
    said = _said(_run(mode, "import os; print(*sorted(os.environ))"))
    return set(said.split()) <= {"PATH", "LANG", "PWD", "PYTHONHASHSEED", "MALLOC_ARENA_MAX", "LC_CTYPE"}, said


def _loop(mode: Mode) -> tuple[bool, str]:
    run = _run(mode, _DEAF_LOOP, limits=Limits(seconds=0.1))
    return run.timed_out and run.exit.signal == 9, f"timed out: {run.timed_out}, signal {run.exit.signal}"


def _output(mode: Mode) -> tuple[bool, str]:
    run = _run(mode, "while True: print('x' * 1000)", limits=Limits(output_bytes=1 << 16))
    return run.overflowed and len(run.output) <= 1 << 16, f"{len(run.output)} bytes kept"


def _memory(mode: Mode) -> tuple[bool, str]:
    said = _said(
        _run(mode, "try:\n    bytearray(4 << 30)\n    print('DONE')\nexcept MemoryError:\n    print('refused')")
    )
    return said == "refused", said


_PROBES: Mapping[str, Callable[[Mode], tuple[bool, str]]] = {
    "starts": _starts,
    "user is not root": _user,
    "known programs pass": _known,
    "network refused": _network,
    "host files unreadable": _reading,
    "host files unwritable": _writing,
    "new processes refused": _forking,
    "signals refused": _signals,
    "environment empty": _environment,
    "endless loop killed": _loop,
    "endless output cut off": _output,
    "memory limited": _memory,
}
