"""One job: an untrusted program over its input, or an untrusted function under a data set's tests.

The deadline, the caps on output and the verdict on how a process ended are held here, outside the sandbox. Input goes
in as a sealed file in memory, so a job never waits for a writer.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import math
import os
import select
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rewards.sandbox_command import check_mode
from rewards.sandbox_pool import POOLS
from rewards.sandbox_worker import Exit

STDERR_BYTES = 1 << 16
REPORT_BYTES = 4 << 20
CHUNK = 1 << 16
WALL_FACTOR = 2.0
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one job may use."""

    seconds: float = 5.0
    """Processor time of each of its processes, rounded up to whole seconds by the kernel."""
    memory_mb: int = 1024
    """Address space of each of its processes."""
    output_bytes: int = 8 << 20

    @property
    def deadline(self) -> float:
        """Seconds of wall time until it is killed. Longer, so that a busy machine does not fail a program."""
        return WALL_FACTOR * self.seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A program that was run over one input."""

    output: bytes
    errors: bytes
    """The end of what it wrote to standard error."""
    exit: Exit
    timed_out: bool
    overflowed: bool
    """Killed because it printed more than the cap."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A function under its tests."""

    outcomes: Sequence[tuple[str, str]]
    """Outcome and detail in the order of the tests, as far as the checker came. Outcomes: ok, wrong, exception,
    gone (the candidate had ended), row (the data set's fault); done at the very end."""
    candidate: Exit
    timed_out: bool


class _Stream:
    """The reading end of a pipe, collected up to a cap."""

    def __init__(self, reader: io.FileIO, cap: int, *, keep_end: bool = False) -> None:
        self._reader, self._cap, self._keep_end = reader, cap, keep_end
        self.data = bytearray()
        self.open = True

    def fileno(self) -> int:
        return self._reader.fileno()

    @property
    def overflowed(self) -> bool:
        return len(self.data) > self._cap

    def read(self) -> bool:
        """Take one chunk; False where there is none now."""
        chunk = self._reader.read(CHUNK)
        if chunk == b"":
            self.open = False
        if not chunk or (self.overflowed and not self._keep_end):
            return False
        self.data += chunk
        if self._keep_end:
            del self.data[: -self._cap]
        return True

    def read_rest(self) -> bytes:
        """Everything left, once nobody writes any more; at most the cap."""
        while self.read():
            pass
        return bytes(self.data[: self._cap])


def run_script(source: str, stdin: bytes, *, sandbox: str, limits: Limits) -> Run:
    """Run `source` as a main program over `stdin`. Raises SandboxError; the program's errors are in the result."""
    with POOLS[check_mode(sandbox)].slot() as slot, contextlib.ExitStack() as stack:
        worker = slot.worker("candidate")
        output, output_writer = _pipe(stack)
        errors, errors_writer = _pipe(stack)
        printed, complained = _Stream(output, limits.output_bytes), _Stream(errors, STDERR_BYTES, keep_end=True)
        deadline = time.monotonic() + limits.deadline
        files = [_file(stack, stdin), output_writer, errors_writer, _file(stack, _encode(source))]
        worker.start("script", [file.fileno() for file in files], memory=limits.memory_mb << 20, cpu=_cpu(limits))
        ended = False
        while not (ended or printed.overflowed or time.monotonic() >= deadline):
            streams = [stream for stream in (printed, complained) if stream.open]
            ready = _wait([worker.fileno(), *(stream.fileno() for stream in streams)], deadline)
            ended = worker.fileno() in ready
            for stream in streams:
                if stream.fileno() in ready:
                    stream.read()
        exit_ = worker.finish(kill=not ended)
        text = printed.read_rest()
        return Run(
            output=text,
            errors=complained.read_rest(),
            exit=exit_,
            timed_out=not ended and not printed.overflowed,
            overflowed=printed.overflowed,
        )


def run_functions(
    source: str, *, entry_point: str, setup: str, tests: Sequence[str], sandbox: str, limits: Limits
) -> Check:
    """Run `tests` (Python statements, after `setup`) in a checker whose `entry_point` `source` answers from elsewhere.

    Raises SandboxError; whatever the program or the tests do is in the result.
    """
    spec = json.dumps({"entry_point": entry_point, "setup": setup, "tests": list(tests)})
    with POOLS[check_mode(sandbox)].slot() as slot, contextlib.ExitStack() as stack:
        candidate, checker = slot.worker("candidate"), slot.worker("checker")
        null = stack.enter_context(open(os.devnull, "r+b", buffering=0))
        calls, calls_writer = _pipe(stack, blocking=True)
        replies, replies_writer = _pipe(stack, blocking=True)
        reader, report_writer = _pipe(stack)
        report = _Stream(reader, REPORT_BYTES)
        deadline = time.monotonic() + limits.deadline
        theirs = [null, null, null, _file(stack, _encode(source)), calls, replies_writer]
        ours = [null, null, null, _file(stack, _encode(spec)), replies, calls_writer, report_writer]
        memory, cpu = limits.memory_mb << 20, _cpu(limits)
        candidate.start("functions", [file.fileno() for file in theirs], memory=memory, cpu=cpu)
        checker.start("check", [file.fileno() for file in ours], memory=memory, cpu=cpu)
        # The checker learns that the candidate has ended by the end of its stream, so no copy may stay open here.
        for file in (calls, calls_writer, replies, replies_writer, report_writer):
            file.close()
        ended = False
        while not (ended or report.overflowed or time.monotonic() >= deadline):
            ready = _wait([checker.fileno(), *([report.fileno()] if report.open else [])], deadline)
            ended = checker.fileno() in ready
            if report.fileno() in ready:
                report.read()
        checker.finish(kill=not ended)
        return Check(
            outcomes=_outcomes(report.read_rest()),
            candidate=candidate.finish(kill=True),
            timed_out=not ended,
        )


def _outcomes(report: bytes) -> list[tuple[str, str]]:
    """The whole lines of a report. What is not one was cut off by a kill."""
    found = []
    for line in report.splitlines():
        try:
            outcome, detail = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            break
        found.append((str(outcome), str(detail)))
    return found


def _pipe(stack: contextlib.ExitStack, *, blocking: bool = False) -> tuple[io.FileIO, io.FileIO]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reader, blocking)
    return stack.enter_context(io.FileIO(reader, "r")), stack.enter_context(io.FileIO(writer, "w"))


def _file(stack: contextlib.ExitStack, content: bytes) -> io.FileIO:
    """A file in memory that nobody can change, read from its start."""
    file = stack.enter_context(io.FileIO(os.memfd_create("job", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "r+"))
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]
    file.seek(0)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, SEALS)
    return file


def _encode(text: str) -> bytes:
    return text.encode("utf-8", errors="replace")


def _cpu(limits: Limits) -> int:
    return math.ceil(limits.seconds)


def _wait(descriptors: Sequence[int], deadline: float) -> set[int]:
    """Those that are readable, or whose other end is closed, before the deadline (time.monotonic)."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    milliseconds = max(0.0, (deadline - time.monotonic()) * 1000)
    return {descriptor for descriptor, _ in poll.poll(math.ceil(milliseconds))}
