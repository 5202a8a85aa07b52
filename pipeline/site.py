"""`slurm:` in a configuration: what only a cluster's users know (partition, account, limits), and nothing of a recipe.

The same keys may stand in a file of their own (`r1 launch --site FILE`), and some are flags; a flag beats the file,
the file beats the configuration. Like `launch:` it is placement and no part of a fingerprint.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.messages import explain, nearest
from pipeline.reading import read

_TIME = re.compile(r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}")
"""What `sbatch --time` takes: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]."""


class Site(BaseModel):
    """Values of one cluster."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None
    """Limit of one job, as `sbatch --time` takes it."""
    memory: str | None = None
    """Memory of a node that a job asks for, as `sbatch --mem` takes it."""
    gpus_per_node: int | None = Field(default=None, ge=0)
    """None: as many as a step's processes on one machine, or its engine's parallel size; 0 is a cluster of CPUs."""
    cpus_per_task: int | None = Field(default=None, ge=1)
    vllm_nodes: int = Field(default=1, ge=0)
    """Nodes of their own for the servers of a step whose engine is `vllm_server`; 0 shares the step's first node."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that share one copy of the model in those servers; the node's other GPUs hold further copies."""
    vllm: str | None = None
    """The program `vllm`; None: the one beside the interpreter that writes the files."""
    vllm_options: tuple[str, ...] = ()
    """Further arguments of `vllm serve`."""
    options: tuple[str, ...] = ()
    """Further options of sbatch, such as --constraint=h100."""
    setup: tuple[str, ...] = ()
    """Lines of shell that each job runs first, such as `module load cuda`."""
    steps: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Any of these keys for single steps, by name."""

    @field_validator("partition", "account", "qos", "time", "memory", "options")
    @classmethod
    def _is_one_word(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        for text in [value] if isinstance(value, str) else value or ():
            if not text or re.search(r"\s", text):
                raise ValueError(f"expected one word without spaces, got {text!r}")
        return value

    @field_validator("time", mode="before")
    @classmethod
    def _is_a_limit(cls, value: Any) -> Any:
        if value is not None and not (isinstance(value, str) and _TIME.fullmatch(value)):
            raise ValueError(f"expected a text in quotes such as '12:00:00' or '2-00:00:00', got {value!r}")
        return value

    @field_validator("setup")
    @classmethod
    def _are_single_lines(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if "\n" in text:
                raise ValueError(f"expected one line of shell an entry, got {text!r}")
        return value

    def of(self, step: str) -> Site:
        """The values of one step. Raises ValueError for a key or value that is wrong there."""
        return combined(self, self.steps.get(step, {}), f"slurm.steps.{step}")

    def check(self, steps: Iterable[str]) -> None:
        """Raise ValueError where `steps` of the configuration or a key below them does not exist."""
        known = list(steps)
        for name, values in self.steps.items():
            if name not in known:
                raise ValueError(f"slurm.steps.{name}: unknown step{nearest(name, known)}")
            if "steps" in values:
                raise ValueError(f"slurm.steps.{name}.steps: a step has no steps of its own")
            self.of(name)


def combined(site: Site, above: Mapping[str, Any], where: str) -> Site:
    """`site` with the keys of `above` over it. Raises ValueError that begins with `where`."""
    try:
        return Site.model_validate({**site.model_dump(), **above})
    except ValidationError as error:
        raise ValueError(explain(error, Site, where)) from None


def read_site(site: Site, file: Path | None, flags: Mapping[str, Any]) -> Site:
    """`site` of the configuration with those of a file and the given flags over it. Raises ValueError, one line."""
    if file is not None:
        site = combined(site, read(file.expanduser()), str(file))
    return combined(site, {key: value for key, value in flags.items() if value is not None}, "r1 launch")
