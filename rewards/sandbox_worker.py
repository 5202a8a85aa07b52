"""The parent's handle on a guest: start it, hand it one job at a time, kill the job, take the report.

A guest is a process group of its own that dies with this process: its control socket closes, and the kernel
signals it. It is started from one long-lived thread, because that signal is tied to the thread that started it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from rewards import sandbox_seccomp
from rewards.sandbox_command import ENVIRONMENT, Mode, command, readable_paths, reserve_uid

Side = Literal["candidate", "checker"]

START_SECONDS = 30.0
KILL_SECONDS = 10.0
MODULES: Mapping[Side, tuple[str, ...]] = {
    "candidate": ("sandbox_wire", "sandbox_candidate", "sandbox_guest"),
    "checker": ("sandbox_wire", "sandbox_checker", "sandbox_guest"),
}
"""What each side's interpreter is given, in the order of import. The candidate's never holds the checker's."""

BOOTSTRAP = """
import json, socket, sys, types
control = socket.socket(fileno=0)
config = json.loads(control.recv(1 << 20))
sys.modules["rewards"] = types.ModuleType("rewards")
for name, source in config["modules"]:
    module = sys.modules["rewards." + name] = types.ModuleType("rewards." + name)
    exec(compile(source, name + ".py", "exec"), module.__dict__)
sys.modules["rewards.sandbox_guest"].main(control, config, sys.modules["rewards.sandbox_" + config["side"]].ROLES)
"""


class SandboxError(RuntimeError):
    """The sandbox failed, whatever the program did. Never the model's fault."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exit:
    """How a job's process ended."""

    code: int
    signal: int
    cpu_seconds: float
    memory: int
    """Peak resident bytes."""


class Worker:
    """One guest. Not safe for two threads at once."""

    def __init__(self, mode: Mode, side: Side) -> None:
        """Start a guest and wait until it is ready. Raises SandboxError with what it said if it is not."""
        self._uid_lock: socket.socket | None = None
        self._busy = False
        self._process = _starter().submit(self._start, mode, side).result()
        self.version, self.uid, self.landlock_abi = (self._hello[name] for name in ("version", "uid", "landlock"))

    def _start(self, mode: Mode, side: Side) -> subprocess.Popen[bytes]:
        uid = None
        self._own_uid = os.geteuid() == 0
        if self._own_uid:
            try:
                uid, self._uid_lock = reserve_uid()
            except OSError as error:
                raise SandboxError(str(error)) from None
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = command(mode, BOOTSTRAP)
        try:
            with theirs:
                process = subprocess.Popen(
                    arguments,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env=ENVIRONMENT,
                    cwd="/",
                    start_new_session=True,
                    user=uid,
                    group=uid,
                    extra_groups=None if uid is None else [],
                )
        except OSError as error:
            self._release()
            raise SandboxError(f"{arguments[0]}: {error}") from None
        try:
            self._hello = self._introduce(process, side)
        except SandboxError:
            _kill_group(process)
            self._release()
            raise
        return process

    def _introduce(self, process: subprocess.Popen[bytes], side: Side) -> dict[str, Any]:
        config = {
            "side": side,
            "modules": _sources(side),
            "filter": base64.b64encode(sandbox_seccomp.build(os.uname().machine)).decode(),
            "readable": readable_paths(),
        }
        assert process.stderr is not None
        message = b""
        with contextlib.suppress(OSError):
            self._control.send(json.dumps(config).encode())
            if select.select([self._control], [], [], START_SECONDS)[0]:
                message = self._control.recv(1 << 16)
        if not message:
            _kill_group(process)
            said = process.stderr.read().decode(errors="replace").strip().splitlines()
            raise SandboxError(f"the sandbox did not start: {said[-1] if said else 'no answer'}")
        process.stderr.close()
        return dict(json.loads(message))

    def start(self, role: str, files: Sequence[int], *, memory: int, cpu: int) -> None:
        """Begin a job whose descriptors 0, 1, 2, ... are `files`. `memory` in bytes, `cpu` in seconds."""
        assert not self._busy, "one job at a time"
        job = {"role": role, "memory": memory, "cpu": cpu, "own_uid": self._own_uid}
        try:
            socket.send_fds(self._control, [json.dumps(job).encode()], files)
        except OSError as error:
            raise SandboxError(f"the sandbox is gone: {error}") from None
        self._busy = True

    def fileno(self) -> int:
        """Readable once the job has ended."""
        return self._control.fileno()

    @property
    def busy(self) -> bool:
        """Whether a job's report is still to be taken."""
        return self._busy

    def finish(self, *, kill: bool = False) -> Exit:
        """Wait for the job to end, killing it first if asked to. Raises SandboxError if there is no report."""
        if kill:
            with contextlib.suppress(OSError):
                self._control.send(b"kill")
        message = b""
        with contextlib.suppress(OSError):
            if select.select([self._control], [], [], KILL_SECONDS)[0]:
                message = self._control.recv(1 << 16)
        self._busy = False
        if not message:
            raise SandboxError("the sandbox died while a program ran in it")
        report = json.loads(message)
        if "error" in report:
            raise SandboxError(report["error"])
        return Exit(**report)

    def close(self) -> None:
        """End the guest and whatever runs in it."""
        self._control.close()
        _kill_group(self._process)
        self._release()

    def forget(self) -> None:
        """Let go of the guest without ending it: after a fork it belongs to the parent alone."""
        self._control.close()
        self._process.returncode = 0
        if self._uid_lock is not None:
            self._uid_lock.close()

    def _release(self) -> None:
        self._control.close()
        if self._uid_lock is not None:
            self._uid_lock.close()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@cache
def _sources(side: Side) -> list[tuple[str, str]]:
    here = Path(__file__).parent
    return [(name, (here / f"{name}.py").read_text(encoding="utf-8")) for name in MODULES[side]]


_starters: dict[int, Executor] = {}
_starters_lock = threading.Lock()


def _starter() -> Executor:
    """The one thread of this process that starts guests."""
    with _starters_lock:
        if os.getpid() not in _starters:
            _starters.clear()
            _starters[os.getpid()] = ThreadPoolExecutor(1, thread_name_prefix="sandbox-starter")
        return _starters[os.getpid()]
