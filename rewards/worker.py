"""A scoring worker: reads one job at a time from a pipe, answers, and never outlives its parent.

Started by rewards/scoring.py as `python -m rewards.worker PARENT_PID MEMORY_BYTES`. It holds no timer: the
parent keeps the deadline and kills. Frames on both pipes are a four-byte length and JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import struct
import sys
from typing import BinaryIO

_PR_SET_PDEATHSIG = 1
HEADER = struct.Struct("<I")


def read_frame(source: BinaryIO) -> object | None:
    """The next message, or None at the end of the stream."""
    header = source.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    body = source.read(HEADER.unpack(header)[0])
    return json.loads(body)


def frame(message: object) -> bytes:
    """One message as it goes over a pipe."""
    body = json.dumps(message).encode()
    return HEADER.pack(len(body)) + body


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends, however it ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    """Serve jobs until the pipe closes."""
    parent, memory = int(sys.argv[1]), int(sys.argv[2])
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb")
    quiet = os.open(os.devnull, os.O_RDWR)
    os.dup2(quiet, 0)
    os.dup2(quiet, 1)  # whatever a library prints must not reach the pipe
    _warm_up()
    sink.write(frame("ready"))
    sink.flush()
    while (job := read_frame(source)) is not None:
        assert isinstance(job, list)
        sink.write(frame(_serve(*job)))
        sink.flush()


def _warm_up() -> None:
    """Pay for the imports before the first deadline starts."""
    sys.setrecursionlimit(3000)
    with contextlib.suppress(Exception):
        from rewards.symbolic import equal

        equal("\\sqrt{2}+x", "x+\\sqrt{2}")


def _serve(task: str, arguments: list[object]) -> list[object]:
    """Score, status and detail. Untrusted input is a wrong answer, never a crash."""
    try:
        module, _, name = task.partition(":")
        score, status, detail = getattr(importlib.import_module(module), name)(*arguments)
    except MemoryError:
        return [0.0, "out_of_memory", "the comparison ran out of memory"]
    except BaseException as error:  # math-verify's own timeout is no Exception
        return [0.0, "exception", f"{type(error).__name__}: {error}"[:200]]
    return [score, str(status), detail]


if __name__ == "__main__":
    main()
