"""Ways to train few parameters beside a frozen model; each is a key of its own in a training step."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from stages.stage import StageConfig, unset


class LoRA(StageConfig):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) instead of full fine-tuning; merged when the step ends."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"
    dora: bool = Field(False, exclude_if=unset)
    """Learn the norm of each row of a weight apart from its direction (Liu et al. 2024, arXiv 2402.09353)."""
    rslora: bool = Field(False, exclude_if=unset)
    """Scale by alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski 2023, arXiv 2312.03732)."""


class IA3(StageConfig):
    """Vectors that rescale activations (Liu et al. 2022, arXiv 2205.05638, section 3.3); merged when the step ends.

    The defaults are the paper's places, keys, values and the inner activation of the feed-forward layer, under the
    names of Llama, Mistral and Qwen.
    """

    target_modules: tuple[str, ...] = ("k_proj", "v_proj", "down_proj")
    """Linear layers that are rescaled, by the ends of their names."""
    feedforward_modules: tuple[str, ...] = ("down_proj",)
    """Those of them whose input is rescaled; the output of the others is."""

    @model_validator(mode="after")
    def _inputs_are_targets(self) -> Self:
        if not self.target_modules:
            raise ValueError("ia3.target_modules names no layer")
        if left := sorted(set(self.feedforward_modules) - set(self.target_modules)):
            raise ValueError(f"ia3.feedforward_modules: {left[0]!r} is not among target_modules")
        return self


class PrefixTuning(StageConfig):
    """Learned keys and values before the first token of a sequence (Li and Liang 2021, arXiv 2101.00190, section 4).

    They cannot be merged into weights, and lie in a folder of their own beside them. Without the paper's
    reparametrisation (section 4.3): what is learned are the keys and values themselves.
    """

    tokens: int = Field(20, ge=1)
    """Positions of the prefix, in every layer."""


class Bottleneck(StageConfig):
    """Small modules behind the blocks of each layer (Houlsby et al. 2019, arXiv 1902.00751, section 2.1).

    They are not linear, cannot be merged into weights, and lie in a folder of their own beside them.
    """

    size: int = Field(64, ge=1)
    """Width of the bottleneck."""
    placement: Literal["feedforward", "both"] = "feedforward"
    """Behind the feed-forward block alone (Pfeiffer et al. 2020, arXiv 2005.00247), or behind attention too."""


AnyAdapters = LoRA | IA3 | PrefixTuning | Bottleneck

ADAPTERS = ("lora", "ia3", "prefix_tuning", "bottleneck")
"""Keys of a training step, at most one of which is set."""
