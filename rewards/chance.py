"""Random: a coin instead of a judgement, for the control of an experiment."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from rewards.reward import Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Random:
    """1 with probability `share`, else 0, whatever the completion says (Spurious Rewards, arXiv 2506.10947).

    A pure function of seed, prompt and completion: a resumed run pays the same, and equal completions of one prompt
    are paid alike. What a policy gains under it, it did not learn from the reward.
    """

    seed: int = 0
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"random: share must be between 0 and 1, got {self.share}")

    def __call__(self, sample: Sample, /) -> float:
        text = f"{self.seed}\0{sample.prompt}\0{sample.completion}"
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=7).digest()
        return float(int.from_bytes(digest, "big") < self.share * 2**56)
