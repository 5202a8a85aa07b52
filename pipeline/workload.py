"""How much one step trains and samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stages.rollout.options import SHARE_BESIDE_TRAINER

BATCH_TOKENS = 65536
"""Default of the transformers engine's `batch_tokens`."""
VLLM_SHARE = 0.9
"""Share of the memory that vLLM takes unless told otherwise, where it is alone on its accelerators."""
SHARE_OF_LONGEST = 0.5
"""Mean length over the longest allowed, where --mean-tokens does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumptions:
    """What the configuration does not say."""

    mean_tokens: int | None = None
    """Of a training sequence or a completion; None: half of the most allowed."""
    longest_tokens: int | None = None
    """Of a training sequence or a completion, where none is as long as allowed."""
    prompt_tokens: int = 256
    rows: int = 10_000
    """Of a data set whose size is not stated."""
    rows_of: Mapping[str, int] = field(default_factory=dict)
    """The same by name."""

    def longest(self, allowed: int) -> int:
        """Length of the longest where `allowed` is."""
        return min(allowed, self.longest_tokens or allowed)

    def mean(self, longest: int) -> float:
        """Mean length where the longest has `longest`."""
        return min(longest, self.mean_tokens) if self.mean_tokens else longest * SHARE_OF_LONGEST


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """Passes of the optimiser."""

    sequences: float
    mean: float
    """Tokens in one of them."""
    longest: int
    extra_forwards: int = 0
    """Passes without gradient over the same tokens: of the reference, and of the policy before its update."""

    @property
    def tokens(self) -> float:
        """Seen by forward and backward passes."""
        return self.sequences * self.mean


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """Completions that are sampled."""

    source: str
    """Name of the model that is sampled."""
    sequences: float
    mean: float
    """Tokens of a completion."""
    longest: int
    prompt: int
    call: float
    """Sequences that one call of the sampler is asked for, over all processes."""
    in_trainer: bool = False
    """Whether it is the policy in training, whose optimiser stays meanwhile."""
    engine: str = "transformers"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shards(self) -> int:
        """Accelerators that share one vLLM."""
        return int(self.options.get("tensor_parallel_size", 1))

    @property
    def batch_tokens(self) -> int:
        """The most positions that the transformers engine decodes side by side."""
        return int(self.options.get("batch_tokens", BATCH_TOKENS))

    @property
    def share(self) -> float:
        """Of the memory that vLLM takes."""
        default = SHARE_BESIDE_TRAINER if self.in_trainer else VLLM_SHARE
        return float(self.options.get("gpu_memory_utilization", default))

    @property
    def tokens(self) -> float:
        """Written by the model."""
        return self.sequences * self.mean

    @property
    def width(self) -> int:
        """Positions of the longest sequence."""
        return self.prompt + self.longest


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """Of one step."""

    training: Training | None = None
    drawing: Drawing | None = None
