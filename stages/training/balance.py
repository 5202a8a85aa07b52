"""Give every process as many rows with a gradient as the others, so that none waits while another works.

Prompts fall to processes before anyone knows which groups will have all rewards equal. A micro-batch is skipped on all
processes or on none: unevenly spread, rows without gradient save less than they could, the less the more processes
there are. Only as many rows change places as must, and each carries its columns with it.

Dimensions: N rows of one process's share of the generation batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object

from stages.training.batching import Batch, live_rows, take
from stages.training.merging import with_rows

Place = tuple[int, int]
"""(process, row of its share)."""


def exchanges(live: Sequence[Sequence[bool]]) -> list[tuple[Place, Place]]:
    """Pairs of a row with gradient and one without that change places, from `live` by process and row. After them the
    processes' numbers of rows with gradient differ by one at most. Every process finds the same pairs."""
    full = [[row for row, has in enumerate(share) if has] for share in live]
    empty = [[row for row, has in enumerate(share) if not has] for share in live]
    counts = [len(rows) for rows in full]
    pairs = []
    while max(counts) - min(counts) > 1:
        rich, poor = counts.index(max(counts)), counts.index(min(counts))
        pairs.append(((rich, full[rich].pop()), (poor, empty[poor].pop())))
        counts[rich] -= 1
        counts[poor] += 1
    return pairs


def balanced(batch: Mapping[str, Any], accelerator: Any, pad_id: int) -> Batch:
    """This process's share after the exchanges; equal to `batch` where there is one process."""
    if accelerator.num_processes == 1:
        return dict(batch)
    rows = batch["advantages"].shape[0]
    live = [[bool(has) for has in share] for share in gather_object([live_rows(batch).tolist()])]
    moves = [*(pair := exchanges(live)), *[(there, here) for here, there in pair]]  # each row of a pair moves
    if not moves:
        return dict(batch)
    me = accelerator.process_index
    leaving = [row for (process, row), _ in moves if process == me]
    sent: list[Batch] = gather_object([_to(take(batch, torch.tensor(leaving, dtype=torch.long), rows), "cpu")])
    received = dict(batch)
    for process, other in enumerate(sent):
        theirs = [there for (source, _), there in moves if source == process]
        arriving = [(k, row) for k, (target, row) in enumerate(theirs) if target == me]
        if arriving:
            sources, places = zip(*arriving, strict=True)
            received = with_rows(received, _to(other, accelerator.device), places, sources, pad_id)
    return received


def _to(batch: Batch, device: Any) -> Batch:
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
