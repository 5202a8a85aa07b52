"""Which part of a sampled batch a rank holds, so that several ranks sample what one would. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby


def share_of(prompts: Sequence[list[int]], group: int, rank: int) -> tuple[list[tuple[list[int], int]], int]:
    """(prompt, completions) in order, and the number of the first prompt in the batch of all ranks.

    `prompts` holds this rank's prompts, one entry a completion; ranks hold equal shares of the batch, in their order.
    Where a share is no multiple of `group`, ranks share a prompt's completions: such a part counts as a prompt of its
    own, and another number of ranks samples something else.
    """
    if len(prompts) % group == 0:
        groups = [(prompts[i], group) for i in range(0, len(prompts), group)]
        if all(ids == prompts[i * group + k] for i, (ids, _) in enumerate(groups) for k in range(1, group)):
            return groups, rank * len(groups)
    groups = [(ids, len(list(same))) for ids, same in groupby(prompts)]
    return groups, rank * len(prompts)
