"""Warm guests, kept between jobs: a slot has one for the candidate and one for the checker, and does one job."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Iterator, Mapping

from rewards.sandbox_command import Mode
from rewards.sandbox_worker import Side, Worker

JOBS_PER_SLOT = 2000
"""After so many jobs a slot's guests are replaced, which bounds whatever a long life could accumulate."""


class Slot:
    """Two guests that work on one job at a time. They share no process, no user id and no namespace."""

    def __init__(self, mode: Mode) -> None:
        self._mode = mode
        self._workers: dict[Side, Worker] = {}
        self._jobs = 0

    def worker(self, side: Side) -> Worker:
        if side not in self._workers:
            self._workers[side] = Worker(self._mode, side)
        self._jobs += 1
        return self._workers[side]

    @property
    def worn(self) -> bool:
        return self._jobs >= JOBS_PER_SLOT or any(worker.busy for worker in self._workers.values())

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def forget(self) -> None:
        for worker in self._workers.values():
            worker.forget()
        self._workers.clear()


class Pool:
    """Idle slots of one mode; as many exist as threads have ever worked at once."""

    def __init__(self, mode: Mode) -> None:
        self._mode = mode
        self._idle: list[Slot] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def slot(self) -> Iterator[Slot]:
        with self._lock:
            slot = self._idle.pop() if self._idle else Slot(self._mode)
        healthy = False
        try:
            yield slot
            healthy = not slot.worn
        finally:
            if healthy:
                with self._lock:
                    self._idle.append(slot)
            else:
                slot.close()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for slot in idle:
            slot.close()

    def after_fork(self) -> None:
        """In a forked child: the guests are the parent's."""
        self._lock = threading.Lock()
        for slot in self._idle:
            slot.forget()
        self._idle = []


POOLS: Mapping[Mode, Pool] = {"bubblewrap": Pool("bubblewrap"), "weak": Pool("weak")}


def close() -> None:
    """End all idle guests. They come back when needed."""
    for pool in POOLS.values():
        pool.close()


def _after_fork() -> None:
    for pool in POOLS.values():
        pool.after_fork()


atexit.register(close)
os.register_at_fork(after_in_child=_after_fork)
