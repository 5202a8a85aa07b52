"""Cut a scored batch into micro-batches that waste less: like lengths together, groups without gradient apart.

The gradient is the one of an arbitrary cut: micro-batches keep their size, so every mean over rows keeps its meaning,
and a row whose advantage is 0 adds nothing to a loss without KL, entropy or auxiliary terms. In about half of the
groups of a typical run all rewards are equal; their forward and backward passes are pure cost.

Dimensions: N rows of the generation batch, P prompt positions (left-padded), C completion positions (right-padded).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

SKIP = "without_gradient"
"""Key that marks a micro-batch all of whose rows have advantage 0 and no KL term."""

HAS_KL = "has_kl"
"""Key of the rows (N,) whose KL term has a gradient, where the coefficient differs by row."""

Batch = dict[str, Any]


def micro_batches(
    batch: Mapping[str, Any], updates: int, accumulate: int, *, by_length: bool, skip: bool
) -> list[Batch]:
    """`updates` x `accumulate` micro-batches, those of one optimiser step side by side.

    Rows are dealt to optimiser steps at random (the global generator, as TRL does). Within a step they are sorted by
    length if `by_length`, and rows without gradient are gathered into micro-batches of their own if `skip`; those come
    first, so that the last pass of a step, in which processes exchange gradients, has something to exchange.
    """
    rows = batch["advantages"].shape[0]
    order_N = torch.randperm(rows)
    lengths_N = batch["completion_mask"].sum(-1).cpu()
    live_N = live_rows(batch)
    size = rows // (updates * accumulate)
    cut = []
    for part in order_N.split(rows // updates):
        indices = part.tolist()
        indices.sort(key=lambda i: (bool(live_N[i]) if skip else 0, int(lengths_N[i]) if by_length else 0))
        for start in range(0, len(indices), size):
            chosen = indices[start : start + size]
            micro = _trimmed(take(batch, torch.tensor(chosen), rows))
            micro[SKIP] = skip and not bool(live_N[chosen].any())
            cut.append(micro)
    return cut


def live_rows(batch: Mapping[str, Any]) -> torch.Tensor:
    """Whether each row has a gradient, (N,) on the CPU: its advantage is not 0, or its KL term has one."""
    rows = batch["advantages"].shape[0]
    live_N = (batch["advantages"].reshape(rows, -1) != 0).any(-1).cpu()
    return live_N | batch[HAS_KL].cpu() if HAS_KL in batch else live_N


def take(batch: Mapping[str, Any], chosen: torch.Tensor, rows: int) -> Batch:
    """The `chosen` rows of every column of `rows` rows; what is no such column stays as it is."""
    taken: Batch = {}
    for name, value in batch.items():
        if isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == rows:
            taken[name] = value[chosen.to(value.device)]
        elif isinstance(value, list) and len(value) == rows:
            taken[name] = [value[i] for i in chosen.tolist()]
        else:
            taken[name] = value
    return taken


def _trimmed(batch: Batch) -> Batch:
    """Cut off the columns that are padding in every row."""
    prompts, completions = batch["prompt_mask"], batch["completion_mask"]
    first = int(prompts.any(0).int().argmax()) if bool(prompts.any()) else 0
    width = completions.shape[1]
    # A completion that is masked as truncated has an all-zero mask; one column stays, since logits need one.
    last = max(1, int(completions.any(0).nonzero().max()) + 1 if bool(completions.any()) else 1)
    trimmed = dict(batch)
    for name, value in batch.items():
        if not isinstance(value, torch.Tensor) or value.ndim != 2:
            continue
        if name.startswith("prompt_"):
            trimmed[name] = value[:, first:]
        elif value.shape[1] == width:
            trimmed[name] = value[:, :last]
    return trimmed
