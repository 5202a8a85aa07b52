"""The knobs that every training stage has in common. Anything else of TRL's passes through `trl:`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    Field,
    field_validator,
    model_validator,
)

from stages.rollout.options import EngineConfig
from stages.rollout.server_weights import WeightSync
from stages.stage import Placement, StageConfig, unset
from stages.training.adapter_options import ADAPTERS, IA3, AnyAdapters, Bottleneck, LoRA, PrefixTuning
from stages.training.curriculum import CurriculumConfig
from stages.training.dynamic_sampling import DynamicSampling
from stages.training.early_stopping import EarlyStopping
from stages.training.kl import KLTier, refuse_unfit
from stages.training.mtp import MTP, refuse_adapters, refuse_sharding
from stages.training.probe import ProbeConfig
from stages.training.sentries import SentryConfig, check_sentries


def checked_pattern(text: str) -> str:
    """`text`, a regular expression that is searched in parameter names. Raises ValueError where it is none."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None
    return text


Pattern = Annotated[str, AfterValidator(checked_pattern)]


class Freeze(StageConfig):
    """Partial freezing: what is named here keeps the weights it came with."""

    embeddings: bool = False
    layers: int = Field(0, ge=0)
    """The first N decoder layers."""
    names: tuple[Pattern, ...] = ()
    """Regular expressions searched in parameter names."""


class RateGroup(StageConfig):
    """Parameters with a learning rate of their own."""

    names: Pattern
    """A regular expression searched in parameter names."""
    rate: float = Field(ge=0)
    """Peak rate, under the step's own schedule."""


class LayerRates(StageConfig):
    """Layer-wise learning rates: falling from the top, or group by group; one of the two."""

    decay: float | None = Field(None, gt=0, le=1)
    """The layer d below the top learns at `decay ** d` times the step's rate (Howard and Ruder 2018, section 3.2)."""
    groups: tuple[RateGroup, ...] = ()
    """The first group whose pattern is found in a parameter's name says its rate; the rest learn at the step's."""

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Self:
        if (self.decay is None) == (not self.groups):
            raise ValueError("layer_rates takes decay or groups, one of the two")
        return self


class TrainingConfig(StageConfig):
    """Base of the configurations of stages that train."""

    learning_rate: float = Field(gt=0)
    micro_batch_size: int = Field(32, ge=1)
    """The most sequences in one forward pass of one process."""
    warmup_ratio: float = Field(0.05, ge=0, le=1)
    """Share of the optimiser steps over which the rate climbs from 0."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled L2 regularisation (AdamW); biases and norms are exempt."""
    max_grad_norm: float = Field(1.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    """Attention dropout, and hidden dropout where the model has one."""
    freeze: Freeze = Freeze()
    layer_rates: LayerRates | None = None
    lora: LoRA | None = None
    ia3: IA3 | None = Field(None, exclude_if=unset)
    """Learned vectors on keys, values and feed-forward activations instead of full fine-tuning."""
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] = "sdpa"
    trl: Mapping[str, Any] = Field(default_factory=dict)
    """Any other argument of the TRL trainer's own config."""

    @property
    def adapters(self) -> AnyAdapters | None:
        """What learns beside a frozen model; None is full fine-tuning."""
        return next((kind for name in ADAPTERS if (kind := getattr(self, name, None)) is not None), None)

    @model_validator(mode="after")
    def _adapters_freeze_the_rest(self) -> Self:
        named = [name for name in ADAPTERS if getattr(self, name, None) is not None]
        if len(named) > 1:
            raise ValueError(f"{named[0]} and {named[1]} are both ways to train few parameters; leave one of them out")
        if named and self.freeze != Freeze():
            raise ValueError(
                f"freeze has no effect with {named[0]}, whose adapters are all that learns; leave one of them out"
            )
        return self


class BesideConfig(TrainingConfig):
    """Base of the configurations of stages whose model may learn what stays beside its weights."""

    prefix_tuning: PrefixTuning | None = Field(None, exclude_if=unset)
    """Learned keys and values before every sequence instead of full fine-tuning; they stay beside the weights."""
    bottleneck: Bottleneck | None = Field(None, exclude_if=unset)
    """Small modules behind the blocks of each layer instead of full fine-tuning; they stay beside the weights."""

    @model_validator(mode="after")
    def _a_prefix_has_no_layer_of_names(self) -> Self:
        if self.prefix_tuning is not None and self.layer_rates is not None:
            raise ValueError("layer_rates has no effect with prefix_tuning, which is one matrix; leave one of them out")
        return self


class SupervisedConfig(TrainingConfig):
    """Base of the configurations of stages that learn from completions or pairs."""

    batch_size: int = Field(64, ge=1)
    """Sequences per optimiser step over all processes."""
    epochs: float = Field(1.0, gt=0)
    max_length: int = Field(4096, ge=8)
    """Tokens of prompt and completion; a longer row is left out and counted."""


class CompletionConfig(SupervisedConfig, BesideConfig):
    """Base of the configurations of stages that learn to write completions."""

    early_stopping: EarlyStopping | None = None
    """Hold rows out, end when their loss no longer falls, keep the weights that had the lowest; None learns all."""
    mtp: MTP | None = Field(None, exclude_if=unset)
    """Predict tokens further ahead too, by modules that are left behind at the end; None predicts the next one only."""

    @model_validator(mode="after")
    def _modules_go_with_full_fine_tuning(self) -> Self:
        refuse_adapters(self.mtp, self.adapters)
        return self


CISPO_CAP = 5.0
"""Default cap of the ratio in CISPO, that of ScaleRL (arXiv 2510.13786); TRL's own default is `epsilon`, which would
scale every gradient down to it."""

RewardSpec = Mapping[str, Any]
"""One entry of `rewards:`, see rewards.build."""


SAMPLER_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "transformers": ("separate",),
    "vllm_server": ("weight_sync", "weights"),
}
"""Keys of `engine_options` that only training has, beside those of every stage that samples."""


NOT_OURS: Mapping[str, tuple[Any, ...]] = {
    "min_p": (None, 0),
    "repetition_penalty": (None, 1),
    "generation_kwargs": (None, {}),
    "cache_implementation": (None,),
    "use_transformers_paged": (None, False),
    "use_transformers_continuous_batching": (None, False),
}
"""Arguments of TRL's own sampling to the values that ask for nothing: the engines here know none of them."""


class CanaryConfig(StageConfig):
    """Compare sampler and trainer on fixed tokens after a weight sync; a gap stops the run."""

    tolerance: float = Field(0.05, gt=0)
    """The largest mean absolute gap of log-probability a token; two precisions of one model differ by 0.01 to 0.02."""
    every: int = Field(1, ge=1)
    """Weight syncs from one comparison to the next."""


class ReinforcementConfig(BesideConfig, EngineConfig):
    """Base of the two reinforcement stages: GRPO (Shao et al. 2024, arXiv 2402.03300, section 4.1)."""

    NO_IDENTITY: ClassVar[frozenset[str]] = frozenset({"sentries"})

    learning_rate: float = Field(3e-6, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "constant"
    steps: int = Field(100, ge=1)
    """Optimiser steps."""
    prompts_per_step: int = Field(32, ge=1)
    """Prompts behind one round of sampling, over all processes."""
    num_generations: int = Field(5, ge=2)
    """Completions per prompt: the group whose mean is the baseline."""
    updates_per_generation: int = Field(1, ge=1)
    """Optimiser steps that one round of sampling serves (DeepSeek-R1: 16)."""
    max_completion_tokens: int = Field(512, ge=1)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    beta: float = Field(0.001, ge=0)
    """Coefficient of the KL penalty against the reference, the k3 estimator (equation 4 of the paper above)."""
    kl_tiers: tuple[KLTier, ...] = ()
    """Layered KL: coefficients of their own for domains and difficulties; `beta` is that of the rest."""
    reference_reset_steps: int | None = Field(None, ge=1)
    """Replace the reference by the policy every so many steps (DeepSeek-R1: 400)."""
    epsilon: float = Field(0.2, gt=0)
    epsilon_high: float | None = Field(None, gt=0)
    """Upper clipping bound where it differs (clip-higher, DAPO, arXiv 2503.14476). With cispo: the cap of the ratio
    itself, CISPO_CAP by default."""
    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo"] = "grpo"
    importance_sampling: Literal["token", "sequence"] = "token"
    """"sequence" is GSPO (arXiv 2507.18071)."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """What the advantage is divided by; "none" is Dr. GRPO (arXiv 2503.20783)."""
    mask_truncated: bool = False
    """Leave completions that hit the token limit out of the loss (DAPO's overlong filtering)."""
    curriculum: CurriculumConfig | None = None
    """Draw prompts from easy to hard by running pass rates; None takes them in a seeded random order."""
    dynamic_sampling: DynamicSampling | None = None
    """Replace groups whose rewards are all equal by further prompts (DAPO, arXiv 2503.14476, section 3.2)."""
    rewards: tuple[RewardSpec, ...] = ()
    """Empty: the recipe's own mix, rewards.DEFAULT."""
    skip_without_gradient: bool = True
    """Leave out the passes of completions whose advantage is 0, where nothing but the advantage has a gradient."""
    length_bucketing: bool = True
    """Put completions of like length into one micro-batch."""
    canary: CanaryConfig | None = CanaryConfig()
    """Watch over a sampler with weights of its own; None trusts it."""
    importance_cap: float | None = Field(2.0, gt=0)
    """Truncated importance sampling (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
    training"): where the sampler has weights of its own, a token's loss is weighted by min(trainer's probability /
    sampler's, this). None is off."""
    probe: ProbeConfig | None = ProbeConfig()
    """Prompts held out and sampled now and then; None is off."""
    sentries: dict[str, SentryConfig] = Field(default_factory=dict)
    """What the sentries do, and within which bounds (stages/training/sentries.py); they only watch."""

    @field_validator("sentries")
    @classmethod
    def _sentries_exist(cls, settings: dict[str, SentryConfig]) -> dict[str, SentryConfig]:
        check_sentries(settings)
        return settings

    @property
    def own_sampler(self) -> bool:
        """Whether the completions come from an engine with weights of its own, which must follow the trainer's."""
        return self.engine != "transformers" or bool(self.engine_options.get("separate"))

    def option_names(self) -> tuple[str, ...] | None:
        known = super().option_names()
        return known and (*known, *SAMPLER_OPTIONS.get(self.engine, ()))

    @property
    def update_batch(self) -> int:
        """Completions behind one optimiser step, over all processes."""
        return self.prompts_per_step * self.num_generations // self.updates_per_generation

    @property
    def greatest_beta(self) -> float:
        """The greatest KL coefficient of any row; 0: no reference is needed."""
        return max([self.beta, *(tier.beta for tier in self.kl_tiers)])

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        sampled = self.prompts_per_step * self.num_generations
        if sampled % self.updates_per_generation:
            raise ValueError(
                f"prompts_per_step x num_generations = {sampled} does not divide by "
                f"updates_per_generation = {self.updates_per_generation}"
            )
        if self.epsilon_high is not None and self.epsilon_high < self.epsilon:
            raise ValueError(f"epsilon_high = {self.epsilon_high} is below epsilon = {self.epsilon}")
        if self.loss_type == "cispo" and self.epsilon_high is not None and self.epsilon_high < 1:
            raise ValueError(f"epsilon_high = {self.epsilon_high} caps the ratio itself with cispo, and must reach 1")
        return self

    @model_validator(mode="after")
    def _kl_has_a_reference(self) -> Self:
        refuse_unfit(self.kl_tiers, self.beta)
        if self.kl_tiers and "beta" in self.trl:
            raise ValueError("trl.beta contradicts kl_tiers; use beta")
        if self.reference_reset_steps is not None and self.greatest_beta == 0:
            raise ValueError("reference_reset_steps has no effect with beta = 0, which needs no reference")
        return self

    @model_validator(mode="after")
    def _bottlenecks_stay_where_they_are(self) -> Self:
        if self.bottleneck is not None and self.own_sampler:
            raise ValueError(
                "bottleneck: adapters that cannot be merged are sampled by the trainer itself; take engine: "
                "transformers, without engine_options.separate"
            )
        if self.bottleneck is not None and self.trl.get("sync_ref_model"):
            raise ValueError("trl.sync_ref_model does not work with bottleneck, whose reference is the model below")
        if self.bottleneck is not None and self.reference_reset_steps is not None:
            raise ValueError("reference_reset_steps does not work with bottleneck, whose reference is the model below")
        return self

    @model_validator(mode="after")
    def _groups_can_be_replaced(self) -> Self:
        if self.dynamic_sampling is not None and self.scale_rewards == "batch":
            raise ValueError("dynamic_sampling replaces groups, whose advantages scale_rewards: batch ties together")
        return self

    @model_validator(mode="after")
    def _engine_can_follow(self) -> Self:
        for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
            if self.engine == "vllm" and self.engine_options.get(name, 1) != 1:
                raise ValueError(
                    f"engine_options: in reinforcement learning an engine in process has one device; "
                    f"{name} belongs to servers, engine: vllm_server"
                )
        if self.trl.get("use_vllm"):
            raise ValueError("trl.use_vllm would start a second vLLM beside the engines here; write engine: vllm")
        for name, value in self.trl.items():
            of_vllm = name.startswith("vllm_") and not name.startswith("vllm_importance_sampling_")
            if of_vllm or (name in NOT_OURS and value not in NOT_OURS[name]):
                raise ValueError(f"trl.{name} would change nothing: the engines here sample, and not TRL's own")
        if self.prefix_tuning is not None and self.own_sampler:
            own = "" if self.engine != "transformers" else " with engine_options.separate"
            raise ValueError(
                f"prefix_tuning: a sampler with weights of its own (engine: {self.engine}{own}) has no prefix; "
                "take engine: transformers"
            )
        if (way := self.engine_options.get("weight_sync", "disk")) not in get_args(WeightSync):
            raise ValueError(f"engine_options: weight_sync is {' or '.join(get_args(WeightSync))}, not {way!r}")
        return self


def check_supervised(config: SupervisedConfig, wired: Collection[str], placement: Placement) -> None:
    """Stage.check: a batch is shared evenly by the processes, and what recomputes passes has no prefix to lose."""
    _divides("batch_size", config.batch_size, placement)
    if isinstance(config, CompletionConfig):
        refuse_sharding(config.mtp, placement)
    _keeps_the_prefix(config, placement)


def check_reinforcement(config: ReinforcementConfig, wired: Collection[str], placement: Placement) -> None:
    """Stage.check: the completions of an optimiser step are shared evenly by the processes, and as `check_supervised`
    for a prefix."""
    _keeps_the_prefix(config, placement)
    _divides("prompts_per_step x num_generations / updates_per_generation", config.update_batch, placement)
    if config.dynamic_sampling is not None:
        _divides("dynamic_sampling: prompts_per_step", config.prompts_per_step, placement)


def _keeps_the_prefix(config: TrainingConfig, placement: Placement) -> None:
    asked = {"launch": placement.gradient_checkpointing, "trl": config.trl.get("gradient_checkpointing")}
    for where, value in asked.items():
        if value and isinstance(config.adapters, PrefixTuning):
            raise ValueError(
                f"{where}.gradient_checkpointing does not work with prefix_tuning, whose prefix is a cache"
            )


def _divides(name: str, size: int, placement: Placement) -> None:
    if size % placement.processes:
        raise ValueError(f"{name} = {size} does not divide by launch.processes = {placement.processes}")
