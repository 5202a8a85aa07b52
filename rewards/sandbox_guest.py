"""The small process that starts untrusted programs: one fork per job, locked down before any of its code runs.

It runs inside the sandbox under a bare interpreter, so it knows only the standard library; the parent sends
it its own source (rewards/sandbox_worker.py). It never reads what a job is about: a job's source and input come
through descriptors that only the forked child opens, so nothing of one job is left for the next to find.
Nothing can be written to a file in here, by the filter and by Landlock, so no file is left either.
"""

from __future__ import annotations

import atexit
import base64
import builtins
import ctypes
import fcntl
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any

Role = Callable[[], None]
"""What a job's process runs once it is locked down."""

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
SECCOMP_MODE_FILTER = 2
LANDLOCK_CREATE, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT = 444, 445, 446
LANDLOCK_READ = 1 | 4 | 8  # execute (to map libraries), read a file, list a directory
MAX_FILES = 64
RULES_FD, STATUS_FD = 60, 59  # above every descriptor that a job gets
POLL_MS = 2000
PRELOADED = (
    "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "fractions", "functools", "heapq",
    "itertools", "math", "operator", "random", "re", "statistics", "string", "typing",
)  # fmt: skip
"""Imported once, before the first fork: most programs use one of them, and an import costs more than a fork."""

libc = ctypes.CDLL(None, use_errno=True)


def _call(what: str, *arguments: Any) -> int:
    result = int(getattr(libc, what)(*arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}{arguments[:1]}: {os.strerror(number)}")
    return result


class Lockdown:
    """What is taken from a child before it runs untrusted code. Prepared once, applied in every child."""

    def __init__(self, program: bytes, readable: list[str]) -> None:
        self._instructions = ctypes.create_string_buffer(program, len(program))
        # struct sock_fprog: a count of 8-byte instructions, padding, and their address
        self._filter = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(self._instructions))
        self.landlock_abi = max(0, int(libc.syscall(LANDLOCK_CREATE, None, 0, 1)))
        self._rules = self._landlock(readable) if self.landlock_abi else None

    def _landlock(self, readable: list[str]) -> int:
        """A rule set that leaves nothing but reading below `readable`."""
        abi = self.landlock_abi
        handled = (1 << 13) - 1  # the rights of the first version; refer, truncate and device control came later
        for version, right in ((2, 1 << 13), (3, 1 << 14), (5, 1 << 15)):
            handled |= right if abi >= version else 0
        attributes = struct.pack("Q", handled)
        if abi >= 4:
            attributes += struct.pack("Q", 3)  # bind and connect TCP
        if abi >= 6:
            attributes += struct.pack("Q", 3)  # abstract sockets and signals to the outside
        rules = _call("syscall", LANDLOCK_CREATE, attributes, len(attributes), 0)
        for path in readable:
            try:
                target = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue
            access = LANDLOCK_READ if os.path.isdir(path) else LANDLOCK_READ & ~8
            _call("syscall", LANDLOCK_ADD_RULE, rules, 1, struct.pack("=Qi", access, target), 0)
            os.close(target)
        os.dup2(rules, RULES_FD, inheritable=False)
        os.close(rules)
        return RULES_FD

    def apply(self, job: dict[str, Any], parent: int) -> None:
        """Lock this process down for good. Raises OSError if any part cannot be had."""
        _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            raise OSError("the parent is gone")
        _call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
        memory, cpu = int(job["memory"]), int(job["cpu"])
        limits = {
            resource.RLIMIT_AS: (memory, memory),
            resource.RLIMIT_CPU: (cpu, cpu + 1),
            resource.RLIMIT_CORE: (0, 0),
            resource.RLIMIT_FSIZE: (0, 0),
            resource.RLIMIT_STACK: (64 << 20, 64 << 20),
        }
        if job["own_uid"]:  # otherwise the processes of the person who trains would count
            limits[resource.RLIMIT_NPROC] = (128, 128)
        for which, (soft, hard) in limits.items():
            ceiling = resource.getrlimit(which)[1]
            if ceiling != resource.RLIM_INFINITY:
                soft, hard = min(soft, ceiling), min(hard, ceiling)
            resource.setrlimit(which, (soft, hard))
        _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if self._rules is not None:
            _call("syscall", LANDLOCK_RESTRICT, self._rules, 0)
            os.close(self._rules)
        _call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, self._filter, 0, 0)


def serve(control: socket.socket, lockdown: Lockdown, roles: Mapping[str, Role]) -> None:
    """Run one job after another until the parent closes `control`."""
    wake, wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    zygote = os.getpid()
    while True:
        message, files, _, _ = socket.recv_fds(control, 4096, 16)
        if not message:
            return
        if not files:
            continue  # a request to kill a job that had just ended by itself
        job = json.loads(message)
        status, status_writer = os.pipe2(os.O_CLOEXEC)
        child = os.fork()
        if child == 0:
            _become(job, files, status_writer, zygote, lockdown, roles)
        for descriptor in (*files, status_writer):
            os.close(descriptor)
        with open(status, "rb") as file:  # ends when the child is locked down, or has died
            problem = file.read()
        report = _supervise(child, control, wake)
        if problem != b"ready":
            report["error"] = problem.decode(errors="replace") or "a program's process died before it was locked down"
        control.send(json.dumps(report).encode())


def _supervise(child: int, control: socket.socket, wake: int) -> dict[str, Any]:
    """Wait for the child; kill it when told to, and when the parent is gone."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(wake, select.POLLIN)
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            break
        for descriptor, _ in poll.poll():
            if descriptor == wake:
                os.read(wake, 4096)
            else:
                gone = not control.recv(4096)
                os.kill(child, signal.SIGKILL)
                if gone:
                    os._exit(0)
    code = os.waitstatus_to_exitcode(status)
    return {
        "code": max(code, 0),
        "signal": max(-code, 0),
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss * 1024,
    }


def _become(
    job: dict[str, Any], files: list[int], status: int, zygote: int, lockdown: Lockdown, roles: Mapping[str, Role]
) -> None:
    """Turn this fresh fork into the job's process, with `files` as its descriptors 0, 1, 2, ... Never returns."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(status, STATUS_FD, inheritable=False)
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 32) for descriptor in files]
        for target, descriptor in enumerate(high):
            os.dup2(descriptor, target, inheritable=False)
        os.closerange(len(files), STATUS_FD)
        _open_standard_streams()
        lockdown.apply(job, zygote)
        os.write(STATUS_FD, b"ready")
        os.close(STATUS_FD)
    except BaseException as error:
        os.write(STATUS_FD, f"{type(error).__name__}: {error}".encode()[:1000])
        os._exit(code)
    try:
        code = _run_to_exit(roles[job["role"]])
    finally:
        os._exit(code)


def _open_standard_streams() -> None:
    sys.stdin = sys.__stdin__ = _text(0, "r")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _text(1, "w")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _text(2, "w")  # type: ignore[misc]


def _text(descriptor: int, mode: str) -> Any:
    return open(descriptor, mode, encoding="utf-8", errors="backslashreplace", closefd=False)


def _run_to_exit(role: Role) -> int:
    """Run the role, then end as an interpreter does: exit code, running threads, exit handlers, buffers."""
    code = 0
    try:
        role()
    except SystemExit as leaving:
        if isinstance(leaving.code, int):
            code = leaving.code & 0xFF
        elif leaving.code is not None:
            print(leaving.code, file=sys.stderr)
            code = 1
    except BaseException:
        code = 1
        traceback.print_exc(limit=-3)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def main(control: socket.socket, config: dict[str, Any], roles: Mapping[str, Role]) -> None:
    """Say what this interpreter is, then serve. `config` comes from rewards/sandbox_worker.py."""
    _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, MAX_FILES))
    for name in PRELOADED:
        importlib.import_module(name)
    sys.path[:] = [path for path in sys.path if path.startswith("/")]
    sys.argv = ["solution.py"]
    # Without the site module these two are missing, and programs end with them.
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
    lockdown = Lockdown(base64.b64decode(config["filter"]), config["readable"])
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 2)  # from here on nobody reads what bubblewrap or this process might complain about
    ready = {"version": list(sys.version_info[:3]), "uid": os.getuid(), "landlock": lockdown.landlock_abi}
    control.send(json.dumps(ready).encode())
    gc.freeze()
    serve(control, lockdown, roles)
