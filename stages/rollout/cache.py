"""A key-value cache that grows in place.

transformers' DynamicLayer copies its whole content for each new token. Here keys and values are views into a buffer
with room to spare, so that one token costs one small write. Everything else is DynamicLayer's.
"""

from __future__ import annotations

from typing import Any

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Positions of room that a full buffer gains."""


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer, (batch, heads, positions, head dimension)."""

    keys: Any
    values: Any

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[Any, Any] | None = None

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._buffers is None or end > self._buffers[0].shape[-2]:
            self._buffers = (
                self._grown(self.keys, key_states, start, end),
                self._grown(self.values, value_states, start, end),
            )
        keys, values = self._buffers
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    @staticmethod
    def _grown(old: Any, new: Any, start: int, end: int) -> Any:
        # A prompt fills its buffer exactly: it is about to be expanded to the group, and that makes a copy anyway.
        batch, heads, _, width = new.shape
        buffer = new.new_empty(batch, heads, end + ROOM if start else end, width)
        if start:
            buffer[:, :, :start] = old
        return buffer

    def batch_select_indices(self, indices: Any) -> None:
        super().batch_select_indices(indices)
        self._buffers = None

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._buffers = None

    def reorder_cache(self, beam_idx: Any) -> None:
        super().reorder_cache(beam_idx)
        self._buffers = None


def growing_cache(config: Any) -> Any:
    """The cache that `config` asks for, with its plain layers replaced; sliding windows and others stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
