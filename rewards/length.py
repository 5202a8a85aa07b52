"""Length: a corridor for the length of a completion, and DAPO's soft punishment near the sampler's limit."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rewards.reward import Sample

_WORD = re.compile(r"[㐀-鿿]|[^\W_]+|[^\w\s]")


def words_in(text: str) -> int:
    """Words, Han characters and signs: a length for callers that counted no tokens."""
    return len(_WORD.findall(text))


@dataclass(frozen=True, kw_only=True, slots=True)
class Length:
    """1 between `minimum` and `maximum` tokens, falling linearly to 0 at no tokens and at twice the maximum.

    Counts words, Han characters and signs where the tokens were not counted.
    """

    minimum: int = 0
    maximum: int = 4096

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum or self.maximum < 1:
            raise ValueError(f"length: needs 0 <= minimum <= maximum, got {self.minimum} and {self.maximum}")

    def __call__(self, sample: Sample, /) -> float:
        size = sample.tokens if sample.tokens is not None else words_in(sample.completion)
        if size < self.minimum:
            return size / self.minimum
        return max(0.0, min(1.0, 2.0 - size / self.maximum))


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlong:
    """0 well below the sampler's limit, falling to -1 over the last `buffer` tokens (DAPO, arXiv 2503.14476, eq. 13).

    -1 for a truncated completion. None where tokens or limit are not known.
    """

    buffer: int = 512

    def __post_init__(self) -> None:
        if self.buffer < 1:
            raise ValueError(f"overlong: buffer must be at least 1 token, got {self.buffer}")

    def __call__(self, sample: Sample, /) -> float | None:
        if sample.truncated:
            return -1.0
        if sample.tokens is None or sample.limit is None:
            return None
        start = sample.limit - min(self.buffer, sample.limit)
        if sample.tokens <= start:
            return 0.0
        return max(-1.0, (start - sample.tokens) / (sample.limit - start))
