"""Rows of two domains of one's own, medicine and finance: seeded, the same for the same (split, seed, index).

    from data.applied.world import rows
    for row in rows("train", 1000, seed=0, convention="think_answer"): ...

The example of cross-domain mixing (configs/cross-domain.yaml). As in data/tiny, a problem's identity decides whether it
is held out, so that `train` and `test` share none.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from data.adapters import nearest
from data.applied import finance, medicine
from data.records import Row
from data.template import CONVENTIONS, Convention
from data.tiny.problems import Kind, draw
from data.tiny.world import problem_row

KINDS: Mapping[str, tuple[Kind, ...]] = {"medicine": medicine.KINDS, "finance": finance.KINDS}
LANGUAGES = ("en", "zh")


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """What the rows of one split hold."""

    completion: bool = True
    test: bool = False
    """Held-out problems, each at most once."""


SPLITS: Mapping[str, Split] = {"train": Split(), "test": Split(completion=False, test=True)}

_MOST_REPEATS = 2000
"""Successive draws that may repeat a test problem before the split counts as used up."""


def rows(split: str, count: int, seed: int = 0, convention: str = "think_answer") -> Iterator[Row]:
    """`count` rows of a split; fewer or more of them are a prefix of the same sequence.

    Raises ValueError for an unknown split or convention, or when `test` has no further problem to ask.
    """
    for name, table, what in ((split, SPLITS, "split"), (convention, CONVENTIONS, "convention")):
        if name not in table:
            raise ValueError(f"the applied world has no {what} {name!r}{nearest(name, table)}")
    return _rows(split, SPLITS[split], count, seed, CONVENTIONS[convention])


def _rows(name: str, split: Split, count: int, seed: int, convention: Convention) -> Iterator[Row]:
    asked: set[str] = set()
    made = index = repeats = 0
    while made < count:
        rng = random.Random(f"{seed}/applied/{name}/{index}")
        index += 1
        problem = draw(rng.choice(KINDS[rng.choice(tuple(KINDS))]), rng, test=split.test)
        language = rng.choice(LANGUAGES)
        if split.test and problem.identity in asked:
            repeats += 1
            if repeats > _MOST_REPEATS:
                raise ValueError(f"the split {name!r} of the applied world has only {made} problems, {count} wanted")
            continue
        asked.add(problem.identity)
        made, repeats = made + 1, 0
        row = problem_row(problem, rng, language, convention if split.completion else None)
        yield {"id": f"applied-{name}-{seed}-{index - 1}", **row, "source": "applied"}
