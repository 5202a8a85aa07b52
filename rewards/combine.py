"""Mix: rewards with weights, gates, domains and schedules; the breakdown always stands beside the sum.

The sum of one sample is `sum(weight * factor(step) * score)` over the rewards that apply to it. A reward that does
not apply (None) contributes nothing, and the weights of the others stay as they are unless `renormalise` is set.
A score of None for any other reason (an unreadable gold, a broken sandbox) makes the sum None: such a sample
trains nothing.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rewards.reward import BatchReward, JudgingReward, Sample, Status, Verdict

if TYPE_CHECKING:
    from rewards.scoring import ScoringPool


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """A factor on a weight over training steps: straight lines between points, constant outside them."""

    points: tuple[tuple[int, float], ...]
    """(step, factor), steps rising."""

    def __post_init__(self) -> None:
        steps = [step for step, _ in self.points]
        if not steps or steps != sorted(set(steps)):
            raise ValueError(f"schedule: needs at least one step, each once and rising, got {steps}")
        if not all(math.isfinite(factor) for _, factor in self.points):
            raise ValueError("schedule: every factor must be a finite number")

    def factor(self, step: int | None) -> float:
        """The factor at `step`; the last one where no step is given (scoring outside training)."""
        if step is None:
            return self.points[-1][1]
        after = bisect_right([at for at, _ in self.points], step)
        if after == 0:
            return self.points[0][1]
        if after == len(self.points):
            return self.points[-1][1]
        (left, low), (right, high) = self.points[after - 1], self.points[after]
        return low + (high - low) * (step - left) / (right - left)


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """One reward of a mix."""

    name: str
    reward: Any
    """A Reward, JudgingReward or BatchReward."""
    weight: float = 1.0
    gate: tuple[str, ...] = ()
    """Rewards of the mix that must be exactly 1 for this one to pay; one that does not apply holds nothing back."""
    domains: tuple[str, ...] = ()
    """Domains of the rows it applies to; all, if empty."""
    schedule: Schedule | None = None

    def weight_at(self, step: int | None) -> float:
        """The weight at a training step."""
        return self.weight * (self.schedule.factor(step) if self.schedule else 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Breakdown:
    """The scores of one sample."""

    total: float | None
    """What the trainer is paid; None where the sample must train nothing."""
    scores: Mapping[str, float | None]
    """What each reward said, before gates and weights."""
    statuses: Mapping[str, Status]
    details: Mapping[str, str] = field(default_factory=dict)
    """Reasons, where a reward gave one."""
    paid: Mapping[str, float] = field(default_factory=dict)
    """What each reward contributed to the total, after gate and weight."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """Rewards that are scored together. Picklable as far as its rewards are."""

    terms: tuple[Term, ...]
    renormalise: bool = False
    """Divide the sum by the weights of the rewards that apply."""

    def __post_init__(self) -> None:
        names = self.names
        if not names:
            raise ValueError("rewards: the list is empty")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"rewards: {name!r} occurs twice; tell the two apart with `label`")
        for term in self.terms:
            for gate in term.gate:
                if gate not in names or gate == term.name:
                    raise ValueError(
                        f"rewards: {term.name}: gate {gate!r} is none of the other rewards ({', '.join(names)})"
                    )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rewards in their order."""
        return tuple(term.name for term in self.terms)

    def score(
        self, samples: Sequence[Sample], step: int | None = None, pool: ScoringPool | None = None
    ) -> list[Breakdown]:
        """One breakdown a sample, in order."""
        columns = {term.name: self._column(term, samples, pool) for term in self.terms}
        rows = zip(*columns.values(), strict=True)
        return [self._combine(dict(zip(columns, row, strict=True)), step) for row in rows]

    def _column(self, term: Term, samples: Sequence[Sample], pool: ScoringPool | None) -> list[Verdict]:
        """Verdicts of one reward on all samples."""
        verdicts = [Verdict(score=None, status=Status.NOT_APPLICABLE, detail="another domain")] * len(samples)
        chosen = [i for i, sample in enumerate(samples) if not term.domains or sample.domain in term.domains]
        for index, verdict in zip(chosen, judge_each(term.reward, [samples[i] for i in chosen], pool), strict=True):
            verdicts[index] = verdict
        return verdicts

    def _combine(self, verdicts: Mapping[str, Verdict], step: int | None) -> Breakdown:
        paid: dict[str, float] = {}
        applicable = 0.0
        void = False
        gates = {gate for term in self.terms for gate in term.gate}
        for term in self.terms:
            weight = term.weight_at(step)
            verdict = verdicts[term.name]
            if verdict.score is None:
                broken = verdict.status is not Status.NOT_APPLICABLE
                void = void or (broken and (weight != 0 or term.name in gates))
                continue
            held = any(verdicts[gate].score not in (None, 1.0) for gate in term.gate)
            paid[term.name] = 0.0 if held else weight * verdict.score
            applicable += abs(weight)
        total = None if void or not paid else math.fsum(paid.values())
        if total is not None and self.renormalise and applicable:
            total /= applicable
        return Breakdown(
            total=total,
            scores={name: verdict.score for name, verdict in verdicts.items()},
            statuses={name: verdict.status for name, verdict in verdicts.items()},
            details={name: verdict.detail for name, verdict in verdicts.items() if verdict.detail},
            paid=paid,
        )


def judge_each(reward: Any, samples: Sequence[Sample], pool: ScoringPool | None = None) -> list[Verdict]:
    """Verdicts of any kind of reward on any number of samples, in order."""
    if not samples:
        return []
    batch: Callable[..., list[Verdict]] | None = getattr(reward, "judge_batch", None)
    if batch is not None:
        return batch(samples, pool)
    if isinstance(reward, BatchReward):
        return reward.score_batch(samples)
    workers = pool.workers if pool is not None else 2
    many: Callable[..., list[Verdict]] | None = getattr(reward, "judge_many", None)
    if many is not None:
        return many(samples, workers)
    if isinstance(reward, JudgingReward):
        if workers == 1 or len(samples) == 1:
            return [reward.judge(sample) for sample in samples]
        with ThreadPoolExecutor(workers, thread_name_prefix="judge") as threads:
            return list(threads.map(reward.judge, samples))
    return [as_verdict(reward(sample)) for sample in samples]


def as_verdict(score: float | None) -> Verdict:
    """The verdict of a reward that gives no reason. A number that is not finite is an exception, never a score."""
    if score is None:
        return Verdict(score=None, status=Status.NOT_APPLICABLE)
    value = float(score)
    if not math.isfinite(value):
        return Verdict(score=None, status=Status.EXCEPTION, detail=f"the reward returned {value}")
    return Verdict(score=value)
