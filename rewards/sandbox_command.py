"""The command line that starts a guest: which interpreter, as which user, inside what.

Two modes. `bubblewrap` puts the guest into namespaces of its own: no network, no other process, a file system of
nothing but the interpreter. `weak` has none of that and leans on the user id, the system call filter and Landlock.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal, get_args

Mode = Literal["bubblewrap", "weak"]

FIRST_UID, LAST_UID = 61000, 64999
ENVIRONMENT = {
    "PATH": "/usr/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # one program, one verdict: the order of a set must not decide
    "MALLOC_ARENA_MAX": "1",  # otherwise each thread reserves address space, which the memory limit counts
}


def check_mode(mode: str) -> Mode:
    """`mode` if this machine can run it. Raises ValueError with one line that says what to do."""
    if mode not in get_args(Mode):
        raise ValueError(f"sandbox: {mode!r} is unknown, choose one of {', '.join(get_args(Mode))}")
    if sys.platform != "linux":
        raise ValueError(f"sandbox: {mode} needs Linux, this is {sys.platform}")
    if mode == "bubblewrap" and shutil.which("bwrap") is None:
        raise ValueError(
            "sandbox: bubblewrap is not installed; run `apt-get install bubblewrap` (or your system's equivalent), "
            "or choose `sandbox: weak` and accept that programs are isolated less"
        )
    return mode  # type: ignore[return-value]


@cache
def interpreter() -> tuple[Path, Path]:
    """Python for the guest, and its prefix: this environment's own where another user may read it, else the system's.

    Raises ValueError if there is neither.
    """
    base = Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()
    system = Path("/usr/bin/python3").resolve()
    for executable, prefix in ((base, Path(sys.base_prefix).resolve()), (system, Path("/usr"))):
        if executable.is_file() and _reachable(executable) and _reachable(prefix):
            return executable, prefix
    raise ValueError(f"sandbox: another user cannot read {base}; install the system's python3 (/usr/bin/python3)")


def _reachable(path: Path) -> bool:
    """Whether the guest's user can get there. Root hands the work to a user who owns nothing."""
    if os.geteuid() != 0:
        return os.access(path, os.R_OK | os.X_OK)
    return all(stat.S_IMODE(part.stat().st_mode) & stat.S_IXOTH for part in (path, *path.parents))


def readable_paths() -> list[str]:
    """What Landlock leaves to be read: the interpreter, its libraries and the harmless devices."""
    system = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
    return list(dict.fromkeys([*system, str(interpreter()[1])]))


def command(mode: Mode, bootstrap: str) -> list[str]:
    """Arguments that run `bootstrap` (Python source) as a guest whose standard input is the control socket."""
    executable, prefix = interpreter()
    python = [str(executable), "-s", "-S", "-B", "-c", bootstrap]
    return python if mode == "weak" else [*_bubblewrap(prefix), *python]


def _bubblewrap(prefix: Path) -> Sequence[str]:
    bwrap = shutil.which("bwrap") or "bwrap"
    arguments = [bwrap, "--unshare-all", "--unshare-user", "--die-with-parent", "--cap-drop", "ALL"]
    if "--disable-userns" in _help(bwrap):
        arguments.append("--disable-userns")
    arguments += ["--hostname", "sandbox", "--ro-bind", "/usr", "/usr"]
    for path in map(Path, ("/lib", "/lib64", "/lib32", "/bin", "/sbin")):
        if path.is_symlink():
            arguments += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    arguments += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    if not prefix.is_relative_to("/usr"):
        # At its own path: a Python found elsewhere than where it was built loads another one's library.
        arguments += ["--ro-bind", str(prefix), str(prefix)]
    arguments += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--chdir", "/tmp"]
    return [*arguments, "--remount-ro", "/tmp", "--remount-ro", "/dev", "--remount-ro", "/"]


@cache
def _help(bwrap: str) -> str:
    return subprocess.run([bwrap, "--help"], capture_output=True, text=True, check=False).stdout


def reserve_uid() -> tuple[int, socket.socket]:
    """A user id that no other guest on this machine has, and the lock that keeps it so until it is closed.

    Only root can give a guest a user id. The kernel counts processes per user id, so sharing one would let
    one program use up another's allowance. Raises OSError if all are taken.
    """
    for uid in range(FIRST_UID, LAST_UID + 1):
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0r1-sandbox-uid-{uid}")
        except OSError:
            lock.close()
            continue
        return uid, lock
    raise OSError(f"all user ids from {FIRST_UID} to {LAST_UID} are taken by other sandboxes")
