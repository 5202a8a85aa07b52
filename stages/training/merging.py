"""Put rows of one scored batch in the places of rows of another, whose padding may differ.

Dimensions: N rows, P prompt positions (left-padded), C completion positions (right-padded).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import pad


def with_rows(
    batch: Mapping[str, Any], other: Mapping[str, Any], places: Sequence[int], sources: Sequence[int], pad_id: int
) -> dict[str, Any]:
    """`batch` whose row `places[k]` is row `sources[k]` of `other`. What is no column of rows stays as it is in
    `batch`, `num_items_in_batch` included."""
    rows, other_rows = batch["advantages"].shape[0], other["advantages"].shape[0]
    widths = (batch["completion_mask"].shape[1], other["completion_mask"].shape[1])
    merged = dict(batch)
    for name, value in batch.items():
        if isinstance(value, list) and len(value) == rows:
            column = list(value)
            for place, source in zip(places, sources, strict=True):
                column[place] = other[name][source]
            merged[name] = column
        elif isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == rows:
            theirs = other[name]
            assert theirs.shape[0] == other_rows, name
            if value.ndim == 2 and (name.startswith("prompt_") or (value.shape[1], theirs.shape[1]) == widths):
                width = max(value.shape[1], theirs.shape[1])
                filler = pad_id if name.endswith("_ids") else 0
                value, theirs = (_widened(x, width, name.startswith("prompt_"), filler) for x in (value, theirs))
            column_N = value.clone()
            column_N[list(places)] = theirs[list(sources)]
            merged[name] = column_N
    return merged


def _widened(value: torch.Tensor, width: int, left: bool, filler: int) -> torch.Tensor:
    missing = width - value.shape[1]
    return pad(value, (missing, 0) if left else (0, missing), value=filler)
