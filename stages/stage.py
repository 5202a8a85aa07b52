"""One step of the recipe as data: typed inputs, one typed output, one config class, one function.

No base class to inherit from; a stage is a value in `stages.STAGES`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from data.artifact import Artifact, Contract, Kind

Judges = Literal["preference", "safety"]
"""What a model that scores judges; with " model" behind it, how it is called."""

NUMBERS = (int, float, int | None, float | None)


def checked_number(value: Any, annotation: Any) -> Any:
    """`value`, unless it is a truth value where a number belongs: `batch_size: true` would train with 1."""
    if isinstance(value, bool) and annotation in NUMBERS:
        raise ValueError(f"expected a number, got {str(value).lower()}")
    return value


def unset(value: object) -> bool:
    """`exclude_if` of a key that did not always exist: unset, it is no part of a fingerprint, or what was made before
    there was such a key would be made again."""
    return value is None or value is False


class StageConfig(BaseModel):
    """Base of every stage's configuration: frozen, and strict about unknown keys and what is a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    NO_IDENTITY: ClassVar[frozenset[str]] = frozenset()
    """Keys that change nothing of what the stage makes, and so are no part of its fingerprint."""

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        return checked_number(value, cls.model_fields[str(info.field_name)].annotation)


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """An input that a stage reads. In a configuration the input `data` is wired with the key `data_from`."""

    kind: Kind
    many: bool = False
    """Whether a list of names is allowed."""
    optional: bool = False
    scorer: bool = False
    """Whether it must be a model that scores (a preference or safety model) instead of one that writes text."""
    judges: Judges = "preference"
    """What a scorer must be: a preference model (one score) or a safety model (labels, of which one says safe)."""
    same_tokenizer: bool = False
    """Whether its tokenizer, chat template, EOS and pad must agree with those of `init`."""
    texts: Literal["no", "only", "also"] = "no"
    """Whether it reads documents of raw text (`source: text`) instead of rows with a prompt, or beside them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where and how wide a step runs. Never part of an identity."""

    processes: int = 1
    threads: int | None = None
    """Intra-op threads of torch; None leaves torch's own choice."""
    mixed_precision: str = "no"
    gradient_checkpointing: bool = False
    reward_workers: int = 2
    checkpoint_steps: int = 25
    """Optimiser steps between trainer checkpoints."""
    timeout: int = 1800
    """Seconds that one process waits for another before it gives up."""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What the runner tells a stage beside its config and inputs."""

    seed: int
    convention: str
    """Name of the output convention that the run uses."""
    work: Path
    """Directory that survives a kill: trainer checkpoints and partial shards live here."""
    name: str = "step"
    """The step's name in the configuration, for progress bars and messages."""
    prefill: str = ""
    """What the chat template puts in front of every completion (often the opening reasoning tag)."""
    sandbox: str = "bubblewrap"
    """How candidate programs are isolated: bubblewrap | weak."""
    placement: Placement = field(default_factory=Placement)


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One figure with its sample size and 95 % interval; a figure without an interval repeats its value."""

    value: float
    n: int
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a stage reports when its output directory is filled."""

    contract: Contract
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    """Plain tallies: rows used, rows refused by reason, tokens trained on, ..."""
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds by part: training, sampling, scoring, evaluating, loading."""


Inputs = Mapping[str, Sequence[Artifact]]
"""Input name to the artifacts wired to it, in the order of the configuration."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """An entry of `stages.STAGES`."""

    name: str
    version: int
    """Raised by hand when the code changes what the same configuration makes."""
    summary: str
    """One line for `r1 stages`."""
    config: type[StageConfig]
    needs: Mapping[str, Input]
    makes: Kind
    run: Callable[[Any, Inputs, Path, Context], Outcome]
    """`run(config, inputs, out, context)` fills the existing empty directory `out`; heavy imports happen inside."""
    generative: bool = True
    """Whether a model that it makes writes text; the runner then evaluates it (one that scores does not)."""
    judges: Judges = "preference"
    """What a model that it makes and that writes no text judges."""
    torch: bool = True
    """Whether it computes with torch, whose generators the runner then seeds before `run`."""
    check: Callable[[Any, Collection[str], Placement], None] | None = None
    """`check(config, wired, placement)` raises ValueError for what can be known to fail from the configuration alone;
    `wired` names the inputs that are wired. Cheap: it runs whenever a configuration is read."""
    mix: Callable[[Any, Collection[str]], Sequence[Mapping[str, Any]]] | None = None
    """`mix(config, wired)` lists the rewards that it scores with, defaults included; None: it scores nothing."""
    preflight: Callable[[Any], None] | None = None
    """`preflight(config)` is a check that may import torch; it runs before the first step of a run that includes it."""
