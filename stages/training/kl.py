"""Layered KL: one coefficient per tier of rows, fixed or steered towards a target. No torch.

A tier is a set of domains, a band of difficulty, or both. A row belongs to the first tier that it fits, and to the rest
with the coefficient `beta` where it fits none. The controller is the proportional one of Ziegler et al. 2019
(arXiv 1909.08593, section 2.2): e = clip((KL - target) / target, -0.2, 0.2), beta <- beta (1 + gain e).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from data.records import Row
from stages.stage import StageConfig

ERROR_CLIP = 0.2
"""Most that a relative error counts in one update."""

REST = "rest"
"""Label of the rows that fit no tier."""


class KLTier(StageConfig):
    """One entry of `kl_tiers`."""

    name: str = ""
    """Under which it is logged; empty: made of its domains and difficulties."""
    domains: tuple[str, ...] = ()
    """Domains of its rows; all, if empty."""
    difficulty: tuple[float, float] | None = None
    """Least and greatest difficulty of its rows, both included; rows without one do not fit. None: any row."""
    beta: float = Field(ge=0)
    """Coefficient of the tier, or its first value where there is a target."""
    target: float | None = Field(None, gt=0)
    """KL per token, in nats, that the coefficient is steered to; None: it stays."""
    gain: float = Field(0.1, gt=0)
    """K of the controller: share of the clipped error that moves the coefficient at one optimiser step."""
    span: float = Field(100.0, ge=1)
    """The coefficient stays between `beta / span` and `beta x span`."""

    @property
    def label(self) -> str:
        """Its name in logs and messages."""
        band = "" if self.difficulty is None else f"{self.difficulty[0]:g}-{self.difficulty[1]:g}"
        return self.name or ":".join(filter(None, ("+".join(self.domains), band))) or "all"

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.difficulty is not None and self.difficulty[0] > self.difficulty[1]:
            raise ValueError(f"difficulty: {self.difficulty[0]:g} is above {self.difficulty[1]:g}")
        if self.target is not None and self.beta == 0:
            raise ValueError("target: the controller multiplies, and beta = 0 stays 0; give beta a first value")
        return self

    def fits(self, domain: str | None, difficulty: float | None) -> bool:
        """Whether a row belongs here, if no earlier tier takes it."""
        if self.domains and domain not in self.domains:
            return False
        if self.difficulty is None:
            return True
        return difficulty is not None and self.difficulty[0] <= difficulty <= self.difficulty[1]


def refuse_unfit(tiers: Sequence[KLTier], beta: float) -> None:
    """Raise ValueError for tiers that share a label, and for coefficients that are all 0."""
    labels = Counter([tier.label for tier in tiers] + [REST])
    for label, count in labels.items():
        if count > 1:
            raise ValueError(f"kl_tiers: {label!r} occurs twice; tell the two apart with `name`")
    if tiers and beta == 0 and not any(tier.beta for tier in tiers):
        raise ValueError("kl_tiers: every coefficient is 0; leave the tiers out")


def tier_numbers(tiers: Sequence[KLTier], rows: Sequence[Row]) -> list[int]:
    """The tier of each row; `len(tiers)` is the rest. Raises ValueError for a tier that no row belongs to."""
    numbers = []
    for row in rows:
        domain, difficulty = row.get("domain") or "general", row.get("difficulty")
        fitting = (i for i, tier in enumerate(tiers) if tier.fits(domain, difficulty))
        numbers.append(next(fitting, len(tiers)))
    for empty in sorted(set(range(len(tiers))) - set(numbers)):
        domains = ", ".join(sorted({row.get("domain") or "general" for row in rows}))
        raise ValueError(f"kl_tiers: no row belongs to {tiers[empty].label!r}; domains of the rows: {domains}")
    return numbers


class KLControllers:
    """The coefficient of every tier, the rest last. Equal on every rank, as long as every rank sees the same KL."""

    def __init__(self, tiers: Sequence[KLTier], beta: float) -> None:
        self.tiers = [*tiers, KLTier(name=REST, beta=beta)]
        self.betas = [tier.beta for tier in self.tiers]

    def update(self, measured: Sequence[float | None]) -> None:
        """Learn from one optimiser step: the mean KL per token of each tier, None where it had no token."""
        for i, (tier, kl) in enumerate(zip(self.tiers, measured, strict=True)):
            if tier.target is None or kl is None:
                continue
            error = max(-ERROR_CLIP, min(ERROR_CLIP, (kl - tier.target) / tier.target))
            wanted = self.betas[i] * (1 + tier.gain * error)
            self.betas[i] = max(tier.beta / tier.span, min(tier.beta * tier.span, wanted))

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {"betas": dict(zip([tier.label for tier in self.tiers], self.betas, strict=True))}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state`."""
        self.betas = [state["betas"][tier.label] for tier in self.tiers]
