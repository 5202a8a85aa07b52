"""Mixtures of rows by weight: exact proportions, the same stream for the same seed, and a position to go on from.

Each group (a domain, or a source) is walked in its own seeded order, and the groups are merged so that every
prefix of the stream is as close to the weights as whole rows allow (the Sainte-Lague sequence). The stream's
state is one number, how many rows have been taken: `start` continues it. Rows that lie in files: mixing_files.py.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

from data.adapters import nearest
from data.records import Row

log = logging.getLogger(__name__)

Unit = Literal["rows", "tokens"]
Length = Callable[[Row], int]
"""Size of a row in the unit of the mixture; tokens, as the caller's tokenizer counts them."""

NumberedLength = Callable[[int], int]
"""Size of the row of a number."""

Numbers: TypeAlias = "array[int]"
"""Unsigned integers of 8 bytes each; in a list, one takes 36."""


def numbers(values: Iterable[int] = ()) -> Numbers:
    """Row numbers."""
    return array("Q", values)


REPLAY = "(replay)"
"""Name of the group that holds the rows of earlier phases."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """One stretch of a mixture with its own weights."""

    name: str
    weights: Mapping[str, float]
    """Ratios by group, 6:2:1 say; they are scaled to sum to 1. Groups without a weight are left out."""
    count: int | None = None
    """Size in the unit `by`; None: as much as the rows give without repetition."""
    by: Unit = "rows"
    replay: float = 0.0
    """Share of the phase that repeats rows of the phases before it, against forgetting."""
    repeat: bool = False
    """Whether a group may be walked more than once."""
    reuse: bool = False
    """Whether a group with too few new rows may give rows of earlier phases again; never one twice in this phase."""


def quotas(weights: Mapping[str, float | Fraction], total: int) -> dict[str, int]:
    """Whole numbers that sum to `total` in proportion to `weights`, by largest remainder; ties go to the first name."""
    shares = _shares(weights)
    exact = {name: share * total for name, share in shares.items()}
    floors = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(shares, key=lambda name: floors[name] - exact[name])
    for name in by_remainder[: total - sum(floors.values())]:
        floors[name] += 1
    return floors


def _shares(weights: Mapping[str, float | Fraction]) -> dict[str, Fraction]:
    """Weights scaled to sum to 1, exactly. Groups of weight 0 are left out."""
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weights: {name} must be a finite number that is not negative, got {weight}")
    positive = {name: Fraction(str(weight)) for name, weight in weights.items() if weight > 0}
    if not positive:
        raise ValueError("weights: at least one must be above 0")
    total = sum(positive.values())
    return {name: weight / total for name, weight in positive.items()}


def mix(
    rows: Iterable[Row],
    weights: Mapping[str, float],
    count: int | None,
    seed: int,
    *,
    by: Unit = "rows",
    key: str = "domain",
    length: Length | None = None,
    repeat: bool = False,
    start: int = 0,
) -> Iterator[Row]:
    """One phase: `count` rows (or, `by="tokens"`, about `count` tokens) in proportion to `weights` over column `key`.

    By rows, each group gets its quota exactly. By tokens, each group gets at least its share and exceeds it by less
    than its longest row. Raises ValueError, before the first row, for a weight without rows and for a group
    that is too short while `repeat` is off.
    """
    phase = Phase(name="mixture", weights=weights, count=count, by=by, repeat=repeat)
    return (row for _, row in mix_phases(rows, [phase], seed, key=key, length=length, start=start))


def mix_phases(
    rows: Iterable[Row],
    phases: Sequence[Phase],
    seed: int,
    *,
    key: str = "domain",
    length: Length | None = None,
    start: int = 0,
) -> Iterator[tuple[str, Row]]:
    """Phase name and row, phase after phase, from the `start`-th row of the whole stream on.

    A later phase goes on in each group where an earlier one stopped, so that, replay apart, nothing comes
    twice before everything has come once.
    """
    held = list(rows)
    groups: dict[str, Numbers] = {}
    for number, row in enumerate(held):
        groups.setdefault(group_of(row, key), numbers()).append(number)
    sizes = None if length is None else lambda number: length(held[number])
    orders = plan_phases(groups, phases, seed, key=key, length=sizes, name=lambda number: held[number].get("id"))
    stream = ((phase.name, held[n]) for phase, order in zip(phases, orders, strict=True) for n in order)
    return itertools.islice(stream, start, None)


def group_of(row: Row, key: str) -> str:
    """The group of a row by its column `key`. Raises ValueError where it has none."""
    if row.get(key) is None:
        raise ValueError(f"mixture: row {row.get('id')!r} has no column {key!r} to weigh it by")
    return str(row[key])


def plan_phases(
    groups: Mapping[str, Sequence[int]],
    phases: Sequence[Phase],
    seed: int,
    *,
    key: str = "domain",
    length: NumberedLength | None = None,
    name: Callable[[int], object] = lambda number: number,
) -> list[Numbers]:
    """The row numbers of each phase in order, out of the row numbers of each group; 8 bytes for a row and phase.

    What rows hold is never looked at, so they may lie in files (mixing_files.py). `name` is for messages.
    """
    pools = {group: _Pool(members, f"{seed}/{group}") for group, members in groups.items()}
    orders: list[Numbers] = []
    for phase in phases:
        before = numbers(itertools.chain.from_iterable(orders))
        earlier = _Pool(before, f"{seed}/{REPLAY}/{len(before)}")
        orders.append(numbers(_draw(phase, {**pools, REPLAY: earlier}, length, key, name)))
    return orders


class _Pool:
    """The rows of one group, by number, and how far they have been walked; each round has its own seeded order."""

    def __init__(self, rows: Sequence[int], seed: str) -> None:
        self.rows = rows
        self.seed = seed
        self.taken = 0
        self.ahead = numbers()
        """Places in `rows` still to come in this round, the next one last."""

    def next(self) -> int:
        if not self.ahead:
            self.ahead = self._shuffled(range(len(self.rows)))
        self.taken += 1
        return self.rows[self.ahead.pop()]

    def begin(self) -> None:
        """What has been taken in this round comes again behind the rest of it: the next `len(rows)` all differ."""
        if self.ahead:
            left = set(self.ahead)
            self.ahead = self._shuffled(i for i in range(len(self.rows)) if i not in left) + self.ahead

    def fresh(self, size: NumberedLength) -> int:
        """Size of what has never been taken."""
        if self.taken >= len(self.rows):
            return 0
        if self.taken == 0:
            return self.size(size)
        return sum(size(self.rows[i]) for i in self.ahead[self.taken - len(self.rows) :])

    def size(self, size: NumberedLength) -> int:
        """Size of all rows."""
        return sum(map(size, self.rows))

    def _shuffled(self, indices: Iterable[int]) -> Numbers:
        order = numbers(indices)
        random.Random(f"{self.seed}/{self.taken}").shuffle(order)
        return order[::-1]


def _draw(
    phase: Phase,
    pools: Mapping[str, _Pool],
    length: NumberedLength | None,
    key: str,
    name: Callable[[int], object],
) -> Iterator[int]:
    """The rows of one phase, merged so that every prefix keeps the proportions."""
    size = _size(phase, length, name)
    targets = {group: Fraction(target) for group, target in _targets(phase, pools, size, key).items()}
    if phase.reuse:
        for group in targets:
            pools[group].begin()
    scale = math.lcm(*(target.numerator for target in targets.values() if target))
    streams = [
        _placed(pools[group], target, int(scale / target), order, size)
        for order, (group, target) in enumerate(targets.items())
        if target
    ]
    return (number for _, _, number in heapq.merge(*streams))


def _placed(
    pool: _Pool, target: Fraction, step: int, order: int, size: NumberedLength
) -> Iterator[tuple[int, int, int]]:
    """(place, order, row): the middle of each row as a share of the target, times a number that all groups share.

    Whole numbers compare exactly and ten times as fast as fractions.
    """
    total = 0
    while total < target:
        number = pool.next()
        amount = size(number)
        yield (2 * total + amount) * step, order, number
        total += amount


def _size(phase: Phase, length: NumberedLength | None, name: Callable[[int], object]) -> NumberedLength:
    if phase.by == "rows":
        return lambda number: 1
    if length is None:
        raise ValueError(f"phase {phase.name!r}: a mixture by tokens needs a function that counts them")

    def positive(number: int) -> int:
        amount = length(number)
        if amount <= 0:
            raise ValueError(f"phase {phase.name!r}: row {name(number)!r} has a length of {amount} tokens")
        return amount

    return positive


def _targets(phase: Phase, pools: Mapping[str, _Pool], size: NumberedLength, key: str) -> dict[str, int | Fraction]:
    """How much each group gives to the phase, in the phase's unit."""
    shares = _shares(phase.weights)
    known = [name for name in pools if name != REPLAY]
    for name in shares:
        if name not in known:
            raise ValueError(f"phase {phase.name!r}: no rows whose {key} is {name!r}{nearest(name, known)}")
    if phase.count is not None and phase.count < 1:
        raise ValueError(f"phase {phase.name!r}: count must be at least 1, got {phase.count}")
    if not 0 <= phase.replay < 1:
        raise ValueError(f"phase {phase.name!r}: replay must be at least 0 and below 1, got {phase.replay}")
    if phase.replay:
        replay = Fraction(str(phase.replay))
        shares = {name: share * (1 - replay) for name, share in shares.items()} | {REPLAY: replay}
    left = {name: pools[name].size(size) if phase.reuse else pools[name].fresh(size) for name in shares}
    total = phase.count if phase.count is not None else min(int(left[n] / share) for n, share in shares.items())
    if total < 1:
        scarce = min(left, key=lambda name: left[name] / shares[name])
        raise ValueError(f"phase {phase.name!r}: {scarce!r} has no row left to give")
    by_rows = quotas(shares, total) if phase.by == "rows" else None
    targets: dict[str, int | Fraction] = {n: by_rows[n] if by_rows else share * total for n, share in shares.items()}
    for name, target in targets.items():
        if left[name] < target:
            _short(phase, name, left[name], int(target), bool(pools[name].rows))
    return targets


def _short(phase: Phase, name: str, left: int, target: int, any_rows: bool) -> None:
    told = f"phase {phase.name!r}: {name!r} has {left} {phase.by} left, the mixture needs {target}"
    if not phase.repeat or not any_rows:
        raise ValueError(f"{told}; take fewer, lower its weight, or set repeat: true")
    log.warning("%s; rows are repeated", told)
