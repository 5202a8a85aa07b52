"""Counts the bytes of live tensor storages, so that a test can measure memory on a CPU to the byte.

The resident size of a process depends on the allocator, on threads and on pages that are never touched; the sum over
live storages does not. Memory that an operator takes inside itself is not seen.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Bytes of storages that operators have made since it was entered and that still live: now, and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self.count(leaf)
        return made

    def count(self, tensor: torch.Tensor) -> None:
        """Take a tensor into account that was made before."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def restart(self) -> None:
        """Forget the peak so far."""
        self.peak = self.now

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
