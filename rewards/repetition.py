"""Repetition: a penalty for n-grams that were said before."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rewards.reward import Sample

_TOKEN = re.compile(r"[㐀-鿿぀-ヿ]|[A-Za-z]{1,20}|\d|[^\w\s]|_")


@dataclass(frozen=True, kw_only=True, slots=True)
class Repetition:
    """Minus the share of repeated n-grams, -1 to 0 (Demystifying Long CoT, arXiv 2502.03373, appendix C).

    The tokens are words, Han characters, digits and signs, so a run of one character counts as well. A share
    up to `free` costs nothing: honest calculation repeats itself a little.
    """

    size: int = 8
    free: float = 0.1

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 <= self.free < 1:
            raise ValueError(f"repetition: needs size >= 1 and 0 <= free < 1, got {self.size} and {self.free}")

    def __call__(self, sample: Sample, /) -> float:
        tokens = _TOKEN.findall(sample.completion.casefold())
        total = len(tokens) - self.size + 1
        if total < 2:
            return 0.0
        unique = len({tuple(tokens[i : i + self.size]) for i in range(total)})
        repeated = 1.0 - unique / total
        return -max(0.0, (repeated - self.free) / (1.0 - self.free))
