"""A dynamic curriculum: prompts are drawn from easy to hard, and where the policy is neither sure nor lost.

Tiers are difficulties. The easiest is open at the start; the next one opens when the running pass rate of the hardest
open tier reaches `unlock`. Among open tiers a prompt is drawn in proportion to p(1 - p), the variance of the reward of
a prompt that passes with probability p: a tier that always or never passes gives groups without gradient. No torch.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from stages.stage import StageConfig

FLOOR = 0.02
"""Least weight of an open tier, so that none is forgotten and a falling pass rate is noticed."""


class CurriculumConfig(StageConfig):
    """`curriculum` of a reinforcement stage."""

    unlock: float = Field(0.5, gt=0, lt=1)
    """Pass rate of the hardest open tier at which the next one opens."""
    memory: float = Field(0.9, ge=0, lt=1)
    """Share of a tier's running pass rate that survives one more observed batch."""
    open_tiers: int = Field(1, ge=1)
    """Tiers open at the start."""


class Curriculum:
    """Which prompts come next. Equal on every rank, as long as every rank sees the same passes."""

    def __init__(self, difficulties: Sequence[float], config: CurriculumConfig, seed: int) -> None:
        """`difficulties[i]` is that of prompt i."""
        self.config = config
        self.seed = seed
        self.tier_of = list(difficulties)
        self.rows: dict[float, list[int]] = {tier: [] for tier in sorted(set(difficulties))}
        for index, tier in enumerate(difficulties):
            self.rows[tier].append(index)
        for number, indices in enumerate(self.rows.values()):
            random.Random(f"{seed}/order/{number}").shuffle(indices)
        self.open = min(config.open_tiers, len(self.rows))
        self.pass_rate: dict[float, float] = {}
        self.drawn: dict[float, int] = dict.fromkeys(self.rows, 0)

    def weights(self) -> dict[float, float]:
        """Open tier to its share of the next prompts; a tier nobody has tried yet counts as p = 0.5."""
        raw = {}
        for tier in list(self.rows)[: self.open]:
            p = self.pass_rate.get(tier, 0.5)
            raw[tier] = max(FLOOR, p * (1 - p))
        total = sum(raw.values())
        return {tier: weight / total for tier, weight in raw.items()}

    def pick(self, step: int, count: int, again: int = 0) -> list[int]:
        """Indices of the next `count` prompts. Within a tier every prompt comes once before any comes again.

        `again` numbers further draws of the same step.
        """
        weights = self.weights()
        chance = random.Random(f"{self.seed}/{step}/{again}" if again else f"{self.seed}/{step}")
        picked = []
        for tier in chance.choices(list(weights), list(weights.values()), k=count):
            rows = self.rows[tier]
            picked.append(rows[self.drawn[tier] % len(rows)])
            self.drawn[tier] += 1
        return picked

    def observe(self, indices: Sequence[int], passes: Sequence[float]) -> None:
        """Learn from one scored batch: `passes[k]` is 1.0 where the completion of prompt `indices[k]` was right."""
        seen: dict[float, list[float]] = {}
        for index, passed in zip(indices, passes, strict=True):
            seen.setdefault(self.tier_of[index], []).append(passed)
        for tier, values in seen.items():
            rate = sum(values) / len(values)
            memory = self.config.memory if tier in self.pass_rate else 0.0
            self.pass_rate[tier] = memory * self.pass_rate.get(tier, 0.0) + (1 - memory) * rate
        tiers = list(self.rows)
        while self.open < len(tiers) and self.pass_rate.get(tiers[self.open - 1], 0.0) >= self.config.unlock:
            self.open += 1

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {
            "open": self.open,
            "pass_rate": [[tier, rate] for tier, rate in self.pass_rate.items()],
            "drawn": [[tier, count] for tier, count in self.drawn.items()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state`."""
        self.open = state["open"]
        self.pass_rate = dict(state["pass_rate"])
        self.drawn = dict(state["drawn"])
