"""The processes behind a scoring pool and the loop that keeps them busy: hand out, collect, kill, replace."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from rewards.reward import Status, Verdict
from rewards.worker import HEADER, frame

if TYPE_CHECKING:
    from rewards.scoring import ScoringPool

_ROOT = Path(__file__).resolve().parents[1]
_START_LIMIT = 60.0
"""Seconds a worker may take until it is ready."""
_FAILED_STARTS = 3
"""Workers in a row that die before they are ready until the pool gives up."""
_RETIRE_AFTER = 20_000
"""Jobs after which a worker is replaced: whatever a library caches is freed."""

Key = tuple[str, tuple[str, ...]]
"""A task and its arguments."""


@dataclass(eq=False, slots=True)
class Job:
    key: Key
    done: threading.Event = field(default_factory=threading.Event)
    verdict: Verdict | None = None
    error: str = ""


class Worker:
    """One child process and its two pipes."""

    def __init__(self, memory: int) -> None:
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        command = [sys.executable, "-m", "rewards.worker", str(os.getpid()), str(memory)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, cwd=_ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        os.set_blocking(self.stdout.fileno(), False)
        self.buffer = bytearray()
        self.ready = False
        self.job: Job | None = None
        self.served = 0
        self.deadline = time.monotonic() + _START_LIMIT

    def messages(self) -> Iterator[object]:
        """Whole messages that have arrived. Raises EOFError when the process has gone."""
        chunk = os.read(self.stdout.fileno(), 1 << 16)
        if not chunk:
            raise EOFError
        self.buffer += chunk
        while len(self.buffer) >= HEADER.size:
            size = HEADER.unpack_from(self.buffer)[0]
            if len(self.buffer) < HEADER.size + size:
                return
            body = bytes(self.buffer[HEADER.size : HEADER.size + size])
            del self.buffer[: HEADER.size + size]
            yield json.loads(body)

    def last_words(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read()[-4000:].decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no message"

    def end(self) -> None:
        """Kill and reap; closes the pipes."""
        with contextlib.suppress(OSError):
            self.process.kill()
        with contextlib.suppress(OSError):
            self.stdin.close()
        self.stdout.close()
        self.process.wait()
        self.errors.close()


class Manager:
    """What the pool's thread does: hand out, collect, kill, replace."""

    def __init__(self, pool: ScoringPool) -> None:
        self.pool = pool
        self.fleet: list[Worker] = []
        self.selector = selectors.DefaultSelector()
        self.selector.register(pool._wake_read, selectors.EVENT_READ)
        self.failed_starts = 0

    def loop(self) -> None:
        while not self.pool._closing:
            while len(self.fleet) < min(self.pool.workers, self._wanted()) + self.pool.spare:
                self._spawn()
            self._hand_out()
            for key, _ in self.selector.select(self._patience()):
                if key.data is None:
                    os.read(key.fd, 4096)
                else:
                    self._collect(key.data)
            self._enforce()
            if self.failed_starts >= _FAILED_STARTS:
                return

    def _wanted(self) -> int:
        """Workers that the jobs at hand can keep busy: no more are started than are of use."""
        with self.pool._lock:
            waiting = len(self.pool._queue)
        return max(1, waiting + sum(worker.job is not None for worker in self.fleet))

    def _spawn(self) -> None:
        worker = Worker(self.pool.memory)
        self.fleet.append(worker)
        self.selector.register(worker.stdout, selectors.EVENT_READ, worker)

    def _hand_out(self) -> None:
        busy = sum(worker.job is not None for worker in self.fleet)
        for worker in list(self.fleet):
            if busy >= self.pool.workers:
                return
            if not worker.ready or worker.job is not None:
                continue
            with self.pool._lock:
                if not self.pool._queue:
                    return
                job = self.pool._queue.popleft()
            worker.job = job
            worker.deadline = time.monotonic() + self.pool.deadline
            busy += 1
            try:
                worker.stdin.write(frame([job.key[0], list(job.key[1])]))
                worker.stdin.flush()
            except OSError:
                self._lose(worker, Status.KILLED, "the worker died")

    def _patience(self) -> float | None:
        ends = [worker.deadline for worker in self.fleet if worker.job is not None or not worker.ready]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _collect(self, worker: Worker) -> None:
        try:
            for message in worker.messages():
                if message == "ready":
                    worker.ready = True
                    self.failed_starts = 0
                    continue
                assert isinstance(message, list)
                score, status, detail = message
                self._finish(worker, Verdict(score=score, status=Status(status), detail=detail))
                worker.served += 1
                if worker.served >= _RETIRE_AFTER:
                    self._discard(worker)
        except EOFError:
            self._lose(worker, Status.KILLED, "the worker died")

    def _enforce(self) -> None:
        now = time.monotonic()
        for worker in list(self.fleet):
            if now < worker.deadline or (worker.ready and worker.job is None):
                continue
            if worker.job is not None:
                self.pool.kills += 1
            self._lose(worker, Status.TIMEOUT, f"not decided within {self.pool.deadline:g} s")

    def _lose(self, worker: Worker, status: Status, detail: str) -> None:
        """Take a worker out; its job, if any, scores 0 (a wrong answer, counted apart)."""
        if not worker.ready:
            self.failed_starts += 1
            if self.failed_starts >= _FAILED_STARTS:
                worker.process.kill()
                worker.process.wait()
                self.fail(f"scoring workers cannot be started: {worker.last_words()}")
        self._finish(worker, Verdict(score=0.0, status=status, detail=detail))
        self._discard(worker)

    def _finish(self, worker: Worker, verdict: Verdict) -> None:
        job, worker.job = worker.job, None
        if job is None:
            return
        self.pool._settle(job, verdict)

    def _discard(self, worker: Worker) -> None:
        if worker in self.fleet:
            self.selector.unregister(worker.stdout)
            self.fleet.remove(worker)
            worker.end()

    def fail(self, reason: str) -> None:
        """Wake every caller with an error."""
        with self.pool._lock:
            jobs = list(self.pool._running.values())
            self.pool._running.clear()
            self.pool._queue.clear()
        for job in jobs:
            job.error = reason
            job.done.set()

    def end(self) -> None:
        self.fail("the scoring pool was closed while it was scoring")
        for worker in list(self.fleet):
            self._discard(worker)
        self.selector.close()
