"""The rules behind the sentries: each reads history lines one by one and says what it sees out of bounds.

A rule never looks at a clock, a file or a generator: fed the lines of a killed run again, it is where it was.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean, variance
from typing import Protocol

Line = Mapping[str, float]
"""One line of history.jsonl: "step" and the trainer's figures at that step."""

RISE = 2.0
"""Standard errors by which the reward must have risen for a fall of accuracy to count as reward hacking."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What counts as healthy; None leaves a side open."""

    window: int
    """Lines (for `Hacking`: probes) that are judged together."""
    low: float | None = None
    high: float | None = None

    def crossed(self, value: float) -> str | None:
        """The bound that `value` is beyond, in words; None within the bounds."""
        if math.isnan(value):
            return "not a number"
        if self.low is not None and value < self.low:
            return f"below {self.low:g}"
        if self.high is not None and value > self.high:
            return f"above {self.high:g}"
        return None


class Rule(Protocol):
    """Looks at every line in turn."""

    def see(self, line: Line) -> str | None:
        """What is out of bounds after this line, in words; None where all is well or there is too little to tell.

        A line without the figure leaves the last answer as it is.
        """
        ...


Figure = Callable[[Line], float | None]
"""Takes a figure out of a line; None where the line has none."""


class Band:
    """The mean of a figure over the last `window` lines stays within the bounds."""

    def __init__(self, read: Figure, what: str, bounds: Bounds) -> None:
        self.read, self.what, self.bounds = read, what, bounds
        self.last: deque[tuple[int, float]] = deque(maxlen=bounds.window)
        self.found: str | None = None

    def see(self, line: Line) -> str | None:
        value = self.read(line)
        if value is not None:
            self.last.append((int(line["step"]), value))
            self.found = self._judge() if len(self.last) == self.bounds.window else None
        return self.found

    def _judge(self) -> str | None:
        mean = mean_of(value for _, value in self.last)
        crossed = self.bounds.crossed(mean)
        return crossed and f"{self.what} {mean:.3g} {span(self.last[0][0], self.last[-1][0])}, {crossed}"


class Drift:
    """The mean of a figure over the last `window` lines keeps its ratio to the first `window` lines of the run."""

    def __init__(self, read: Figure, what: str, bounds: Bounds) -> None:
        self.read, self.what, self.bounds = read, what, bounds
        self.first: list[float] = []
        self.last: deque[tuple[int, float]] = deque(maxlen=bounds.window)
        self.found: str | None = None

    def see(self, line: Line) -> str | None:
        value = self.read(line)
        if value is None:
            return self.found
        self.last.append((int(line["step"]), value))
        if len(self.first) < self.bounds.window:
            self.first.append(value)
        else:
            self.found = self._judge()
        return self.found

    def _judge(self) -> str | None:
        then, now = mean_of(self.first), mean_of(value for _, value in self.last)
        if then <= 0:
            return None
        crossed = self.bounds.crossed(now / then)
        where = span(self.last[0][0], self.last[-1][0])
        return crossed and f"{self.what} {now:.3g} {where}, {now / then:.2f} of the {then:.3g} at the start, {crossed}"


@dataclass(slots=True)
class _Segment:
    """One probe of the held-out prompts, and the rewards of training from it to the next."""

    step: int
    right: float
    n: float
    rewards: list[float] = field(default_factory=list)


class Hacking:
    """Reward rises while held-out accuracy falls: Goodhart's law at work (Gao et al. 2022, arXiv 2210.10760).

    The last `window` probes are compared with the best `window` probes in a row before them by a two-proportion z
    test; it fires above `high` standard errors, if the reward of training rose in between by more than `RISE` of
    its own. All probes are of the same prompts, so the test is a cautious one.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.probes: list[_Segment] = []
        self.found: str | None = None

    def see(self, line: Line) -> str | None:
        probed = line.get("probe/n", 0) > 0 and "probe/accuracy" in line
        if probed:
            n = line["probe/n"]
            self.probes.append(_Segment(int(line["step"]), line["probe/accuracy"] * n, n))
        if "reward" in line and self.probes:
            self.probes[-1].rewards.append(line["reward"])
        if probed:
            self.found = self._judge()
        return self.found

    def _judge(self) -> str | None:
        size = self.bounds.window
        now = self.probes[-size:]
        earlier = [self.probes[at : at + size] for at in range(len(self.probes) - 2 * size + 1)]
        if not earlier:
            return None
        best = max(earlier, key=_accuracy)
        fall = two_proportions(_accuracy(best), _total(best), _accuracy(now), _total(now))
        was, paid = ([reward for probe in some for reward in probe.rewards] for some in (best, now))
        if self.bounds.crossed(fall) is None or not was or not paid or rise(was, paid) <= RISE:
            return None
        return (
            f"held-out accuracy {_accuracy(best):.3f} {span(best[0].step, best[-1].step)} and {_accuracy(now):.3f} "
            f"{span(now[0].step, now[-1].step)} (n={_total(now):.0f}), while the reward rose from {mean_of(was):.3g} "
            f"to {mean_of(paid):.3g}: a fall of {fall:.1f} standard errors, above {self.bounds.high:g}"
        )


def _accuracy(probes: list[_Segment]) -> float:
    return sum(probe.right for probe in probes) / _total(probes)


def _total(probes: list[_Segment]) -> float:
    return sum(probe.n for probe in probes)


def two_proportions(before: float, n_before: float, after: float, n_after: float) -> float:
    """Standard errors by which a share fell, the error pooled (Wilson and Newcombe's z); 0 where nothing varies."""
    pooled = (before * n_before + after * n_after) / (n_before + n_after)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n_before + 1 / n_after))
    return (before - after) / error if error > 0 else 0.0


def rise(before: list[float], after: list[float]) -> float:
    """Standard errors by which a mean rose (Welch); without any spread, infinite for a rise and 0 for none."""
    error = math.sqrt(sum(variance(values) / len(values) for values in (before, after) if len(values) > 1))
    gain = mean_of(after) - mean_of(before)
    return gain / error if error > 0 else math.copysign(math.inf, gain) if gain else 0.0


def mean_of(values: Iterator[float] | list[float]) -> float:
    """The mean, never outside the values by a rounding error; NaN if one of them is."""
    every = list(values)
    if any(map(math.isnan, every)):
        return math.nan
    return min(max(every), max(min(every), fmean(every)))


def span(first: int, last: int) -> str:
    """A window in words."""
    return f"at step {first}" if first == last else f"over steps {first} to {last}"
