"""Cut prompts and their completions into batches under a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stages.rollout.engine import Sampling


@dataclass(frozen=True, slots=True)
class Unit:
    """Some completions of one prompt: what a batch is made of."""

    prompt: int
    ids: list[int]
    first: int
    """Number of the first completion among the prompt's n."""
    count: int


def batches(prompts: Sequence[list[int]], sampling: Sampling, budget: int) -> list[list[Unit]]:
    """Cut the work into batches of prompts of similar length, longest first, each within `budget` positions if it can.

    Longest first: a run that needs too much memory fails at once instead of near its end.
    """
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    made: list[list[Unit]] = []
    room = 0
    for i in order:
        width = len(prompts[i]) + sampling.max_tokens
        first = 0
        while first < sampling.n:
            if room < width:
                made.append([])
                room = max(budget, width)
            count = min(sampling.n - first, room // width)
            made[-1].append(Unit(i, prompts[i], first, count))
            room -= count * width
            first += count
    return made
