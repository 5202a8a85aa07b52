"""Dynamic sampling: which groups carry no signal, and which further ones take their places. No torch.

DAPO (Yu et al. 2025, arXiv 2503.14476, section 3.2) draws prompts until a batch is full of groups whose rewards
differ. Here the batch keeps its size: in each round a process draws further prompts for its groups without signal, and
puts those that carry signal in their places. Every process draws as many as the one that lacks most, since they score
together.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from pydantic import Field

from stages.stage import StageConfig


class DynamicSampling(StageConfig):
    """`dynamic_sampling` of a reinforcement stage."""

    max_rounds: int = Field(3, ge=1)
    """Most rounds of further prompts behind one batch; what then has no signal stays."""
    enough: float = Field(1.0, gt=0, le=1)
    """Share of groups with signal from which on no further round is drawn."""


def further_prompts(seed: int, step: int, rows: int, skip: int, count: int) -> list[int]:
    """`count` of `rows` prompts, behind the first `skip` of a permutation that only `seed` and `step` decide.

    The permutation starts again where it ends. The data loader's order is not touched.
    """
    order = list(range(rows))
    random.Random(f"{seed}/{step}/further").shuffle(order)
    return [order[(skip + i) % rows] for i in range(count)]


def split(signal: Sequence[bool], processes: int) -> list[list[bool]]:
    """Signal by group over all processes, as each process holds it."""
    share = len(signal) // processes
    return [list(signal[i * share : (i + 1) * share]) for i in range(processes)]


def most_lacking(signal: Sequence[bool], processes: int) -> int:
    """Groups without signal of the process that has most of them."""
    return max(part.count(False) for part in split(signal, processes))


def replacements(signal: Sequence[bool], further: Sequence[bool], processes: int) -> list[list[tuple[int, int]]]:
    """By process: pairs of a group without signal and the further group that takes its place, both counted within the
    process. Every process finds the same."""
    pairs = []
    for held, drawn in zip(split(signal, processes), split(further, processes), strict=True):
        empty = [i for i, has in enumerate(held) if not has]
        full = [i for i, has in enumerate(drawn) if has]
        pairs.append(list(zip(empty, full, strict=False)))
    return pairs
