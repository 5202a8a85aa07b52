"""Sampled answers of which a safety model can hardly tell whether they are safe, for a person to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages.selection import Candidate

MARGIN = 0.2
"""Distance in probability from a safety model's threshold up to which a person should look."""


def hardly_told(candidates: Sequence[Candidate], safety: Mapping[str, float]) -> list[Candidate]:
    """The right candidates whose probability of being safe is within MARGIN of a threshold, the closest first."""
    gaps = {}
    for candidate in candidates:
        scores = candidate.scored.scores
        own = [abs(score - least) for name, least in safety.items() if (score := scores.get(name)) is not None]
        if candidate.scored.correct == 1 and own and min(own) <= MARGIN:
            gaps[candidate.id] = min(own)
    return sorted((c for c in candidates if c.id in gaps), key=lambda c: gaps[c.id])
