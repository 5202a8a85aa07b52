"""A pool of killable worker processes that scores what could hang, crash or eat memory.

One job at a time goes to a worker over a pipe; the parent holds the deadline, kills and replaces. The workers are
fresh interpreters, never forks of a process with torch or threads in it. Every process that scores (each rank
under accelerate, each fork) has its own pool.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from types import TracebackType

from rewards.reward import Status, Verdict
from rewards.worker_fleet import Job, Key, Manager

_CACHE = 20_000
"""Verdicts remembered across batches."""


class ScoringPool:
    """Workers that score; a context manager. Safe from any thread; a fork gets workers of its own.

    `workers` jobs run at a time; a spare process is kept warm, so a kill costs no waiting. One stuck job costs at
    most `deadline` seconds of one worker and scores 0 with status `timeout`.
    """

    def __init__(self, workers: int = 2, deadline: float = 2.0, memory_mb: int = 2048, spare: int = 1) -> None:
        if workers < 1 or not 0 < deadline < math.inf:
            raise ValueError(f"a scoring pool needs workers >= 1 and deadline > 0, got {workers} and {deadline}")
        self.workers, self.deadline, self.memory, self.spare = workers, deadline, memory_mb << 20, spare
        self.kills = 0
        """Workers killed at their deadline so far."""
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._queue: deque[Job] = deque()
        self._running: dict[Key, Job] = {}
        self._cache: OrderedDict[Key, Verdict] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._wake_read = self._wake_write = -1
        self.manager: Manager | None = None

    def __enter__(self) -> ScoringPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[ScoringPool], tuple[int, float, int, int]]:
        return ScoringPool, (self.workers, self.deadline, self.memory >> 20, self.spare)

    def run(self, task: str, items: Sequence[tuple[str, ...]]) -> list[Verdict]:
        """Verdicts of `task` ("module:function", returning score, status, detail) on each item, in order.

        Equal items are computed once. Raises RuntimeError if workers cannot be started.
        """
        if self._pid != os.getpid():
            self._reset()
        slots: list[Verdict | Job] = []
        with self._lock:
            if self._closing:
                raise RuntimeError("the scoring pool is closed")
            for item in items:
                slots.append(self._admit((task, item)))
            if any(isinstance(slot, Job) for slot in slots):
                self._start()
        return [slot if isinstance(slot, Verdict) else self._wait(slot) for slot in slots]

    def _admit(self, key: Key) -> Verdict | Job:
        known = self._cache.get(key)
        if known is not None:
            self._cache.move_to_end(key)
            return known
        job = self._running.get(key)
        if job is None:
            job = self._running[key] = Job(key)
            self._queue.append(job)
        return job

    def _settle(self, job: Job, verdict: Verdict) -> None:
        with self._lock:
            self._running.pop(job.key, None)
            if verdict.status not in (Status.TIMEOUT, Status.KILLED):  # these may be the machine's fault
                self._cache[job.key] = verdict
            while len(self._cache) > _CACHE:
                self._cache.popitem(last=False)
        job.verdict = verdict
        job.done.set()

    def _wait(self, job: Job) -> Verdict:
        while not job.done.wait(timeout=5.0):
            thread = self._thread
            if thread is None or not thread.is_alive():
                raise RuntimeError("the scoring pool was closed while it was scoring")
        if job.verdict is None:
            raise RuntimeError(job.error)
        return job.verdict

    def _start(self) -> None:
        """Start the one thread that owns the workers. It spawns them too: the kernel's parent-death signal is sent
        when the thread that started a child ends, so no caller's thread may do it."""
        if self._thread is None or not self._thread.is_alive():
            self._wake_read, self._wake_write = os.pipe()
            os.set_blocking(self._wake_write, False)
            self._thread = threading.Thread(target=self._manage, name="scoring-pool", daemon=True)
            self._thread.start()
            atexit.register(self.close)
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"x")

    def close(self) -> None:
        """Kill the workers and join the thread. Callers that still wait get a RuntimeError."""
        if self._pid != os.getpid():
            return
        thread = self._thread
        self._closing = True
        if thread is not None and thread.is_alive():
            with contextlib.suppress(OSError):
                os.write(self._wake_write, b"x")
            thread.join(timeout=10)
        atexit.unregister(self.close)

    def _manage(self) -> None:
        manager = self.manager = Manager(self)
        try:
            manager.loop()
        except Exception as error:
            manager.fail(f"the scoring pool failed: {type(error).__name__}: {error}")
        finally:
            manager.end()
            os.close(self._wake_read)
            os.close(self._wake_write)


_shared: ScoringPool | None = None
_shared_lock = threading.Lock()


def shared_pool() -> ScoringPool:
    """The pool of this process for callers that brought none; started at its first use."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = ScoringPool()
        return _shared
