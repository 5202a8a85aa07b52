"""One runner per run directory; a second one refuses and says who is there.

The lock is a POSIX record lock: the kernel drops it when its process dies, however it dies, and forked children
do not inherit it. Who holds it stands in a second file, because closing any handle on a locked file frees the lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pipeline.slurm_queue import job_is_over

_LOCK = "lock"
_HOLDER = "lock.json"


@contextmanager
def hold(run_dir: Path) -> Iterator[None]:
    """Hold the run directory. Raises ValueError naming host, pid and since when if somebody else does.

    A lock left by a dead process of this host is taken over. One left by another host is not, because some shared
    file systems do not carry locks between hosts; unless it belonged to a job of Slurm, which says that the job ended.
    """
    file = run_dir / _HOLDER
    handle = os.open(run_dir / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"{run_dir} is in use{_who(_read(file))}") from None
        left = _read(file)
        if left and left.get("host") != socket.gethostname() and not _is_over(left.get("job")):
            raise ValueError(f"{run_dir} is in use{_who(left)}; if that process is gone, delete {file}")
        since = datetime.now(UTC).isoformat(timespec="seconds")
        me = {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "job": os.environ.get("SLURM_JOB_ID")}
        file.write_text(json.dumps(me), encoding="utf-8")
        try:
            yield
        finally:
            file.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _read(file: Path) -> dict[str, object]:
    try:
        holder = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_over(job: object) -> bool:
    return isinstance(job, str) and job_is_over(job)


def _who(holder: dict[str, object]) -> str:
    if not holder:
        return ""
    return f": process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')}"
