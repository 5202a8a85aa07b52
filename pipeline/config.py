"""The configuration of a run as frozen, strict values; what each stage's own keys mean is in stages/.

    config = load(Path("configs/tiny.yaml"), ["steps.cold_start.epochs=1", "seed=3"])

Relative paths of models and data are relative to the file that states them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from data.template import CONVENTIONS
from pipeline import launch_files
from pipeline.messages import explain, nearest, shorten
from pipeline.names import NAME
from pipeline.reading import anchor_paths, read
from pipeline.site import Site
from stages.stage import Placement, checked_number

PINNED = re.compile(r"[0-9a-f]{40}")
UNPINNED = "unpinned"
"""A `revision` that is valid in a configuration and refused when the model is needed, as for datasets."""


SHARDING = ("zero", "accelerate_config", "deepspeed")
"""Keys of `launch` that say how `accelerate launch` spreads a model; one of them at most is set."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        return checked_number(value, cls.model_fields[str(info.field_name)].annotation)


class Launch(_Strict):
    """Where and how wide a step runs. Never part of a fingerprint."""

    processes: int = Field(default=1, ge=1)
    """Training processes, over all machines."""
    machines: int = Field(default=1, ge=1)
    """Machines that share the processes evenly; each is given the same `r1 run` and its own --machine-rank."""
    own_process: bool = False
    """Run the step as a child even where one process is enough, so that its memory is given back."""
    threads: int | None = Field(default=None, ge=1)
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    gradient_checkpointing: bool = False
    reward_workers: int = Field(default=2, ge=1)
    checkpoint_steps: int = Field(default=25, ge=1)
    """Optimiser steps between trainer checkpoints, which a killed step resumes from."""
    timeout: int = Field(default=1800, ge=1)
    """Seconds that one process waits for another before the step is given up."""
    zero: Literal[2, 3] | None = None
    """Stage of DeepSpeed ZeRO: short for the bundled accelerate_config zero2 or zero3."""
    accelerate_config: str | None = None
    """A file of `accelerate config`: bundled by its name, or one's own, relative to the configuration."""
    deepspeed: str | None = None
    """A DeepSpeed JSON file: bundled by its name, or one's own, relative to the configuration."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Handed to the stage as it is."""

    @field_validator("mixed_precision", mode="before")
    @classmethod
    def _no_is_a_word(cls, value: object) -> object:
        return "no" if value is False else value  # YAML reads a bare `no` as false

    @field_validator("accelerate_config", "deepspeed")
    @classmethod
    def _is_bundled_or_a_file(cls, value: str | None, info: ValidationInfo) -> str | None:
        return launch_files.checked(str(info.field_name), value) if value else value

    @model_validator(mode="after")
    def _parts_agree(self) -> Launch:
        if self.processes % self.machines:
            raise ValueError(f"processes = {self.processes} does not divide by machines = {self.machines}")
        named = [key for key in SHARDING if getattr(self, key)]
        if len(named) > 1:
            raise ValueError(f"{named[0]} and {named[1]} exclude each other; set one of them to null")
        return self

    @property
    def files(self) -> dict[str, str]:
        """The files that `accelerate launch` is given, by key."""
        accelerate = f"zero{self.zero}" if self.zero else self.accelerate_config
        named = {"accelerate_config": accelerate, "deepspeed": self.deepspeed}
        return {key: file for key, file in named.items() if file}

    @property
    def here(self) -> bool:
        """Whether the step runs in the runner's own process."""
        return self.processes == 1 and not self.own_process and not self.files

    def placement(self, base_dir: Path) -> Placement:
        """What the stage is told of it."""
        return Placement(
            processes=self.processes,
            threads=self.threads,
            mixed_precision=self.mixed_precision,
            gradient_checkpointing=self.gradient_checkpointing,
            reward_workers=self.reward_workers,
            checkpoint_steps=self.checkpoint_steps,
            timeout=self.timeout,
            extra={**self.extra, **{k: str(launch_files.resolve(k, v, base_dir)) for k, v in self.files.items()}},
        )


class ModelSource(_Strict):
    """A given checkpoint: a directory, or a repository of the Hub pinned to a commit."""

    path: str | None = None
    hub: str | None = None
    revision: str | None = None
    evaluate: bool = True

    @model_validator(mode="after")
    def _one_pinned_source(self) -> ModelSource:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give either `path` or `hub`")
        if self.hub is not None and self.revision != UNPINNED and not PINNED.fullmatch(self.revision or ""):
            raise ValueError(
                f"`revision` must be a commit of {self.hub} (40 hex digits), got {shorten(self.revision)}: "
                "an unpinned source has no identity"
            )
        if self.path is not None and self.revision is not None:
            raise ValueError("`revision` belongs to `hub`; a path is identified by its content")
        return self


class RunConfig(_Strict):
    """A whole run. `steps` and `evaluate` are checked against the table of stages by graph.py."""

    name: str
    seed: int = Field(default=0, ge=0, lt=2**32)
    convention: str = "think_answer"
    prefill: bool | str = False
    """True: the chat template opens the reasoning block; a text is prefilled as it is."""
    sandbox: Literal["bubblewrap", "weak"] = "bubblewrap"
    vars: dict[str, Any] = Field(default_factory=dict)
    models: dict[str, ModelSource] = Field(default_factory=dict)
    data: dict[str, dict[str, Any]] = Field(default_factory=dict)
    evaluate: dict[str, Any] | Literal[False] | None = None
    steps: tuple[dict[str, Any], ...] = ()
    launch: Launch = Field(default_factory=lambda: Launch())
    slurm: Site = Field(default_factory=lambda: Site())
    """What `r1 launch --slurm` needs to know of a cluster. Never part of a fingerprint."""
    base_dir: str = ""
    """Folder that remaining relative paths start from; by default that of the configuration."""

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        return _checked_name(value)

    @field_validator("models", "data")
    @classmethod
    def _are_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            _checked_name(name)
        return value

    @field_validator("convention")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in CONVENTIONS:
            raise ValueError(f"unknown convention {value!r}{nearest(value, CONVENTIONS)}")
        return value

    @property
    def prefill_text(self) -> str:
        """What the chat template puts in front of every completion."""
        if isinstance(self.prefill, str):
            return self.prefill
        opening = CONVENTIONS[self.convention].reasoning_open
        return f"{opening}\n" if self.prefill and opening else ""


def _checked_name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a name: letters, digits, - and _ only")
    return value


def load(file: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and check a configuration. Raises ValueError with one line naming file, key and nearest name."""
    file = file.expanduser().resolve()
    tree = read(file, overrides)
    if tree.get("name") is None:
        tree["name"] = file.stem
    if isinstance(base := tree.get("base_dir", ""), str):
        anchor_paths(tree, file.parent / base)
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ValueError(explain(error, RunConfig, str(file))) from None
    base_dir = (file.parent / config.base_dir).resolve()
    return config.model_copy(update={"base_dir": str(base_dir)})


def dump(config: RunConfig, steps: Sequence[Mapping[str, Any]]) -> str:
    """The fully resolved configuration as JSON; `steps` hold every key of their stage, defaults included."""
    tree = config.model_dump(mode="json") | {"steps": [dict(step) for step in steps]}
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"
