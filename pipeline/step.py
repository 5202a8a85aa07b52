"""One step of a configuration, read and checked against its stage: inputs, settings, seed and placement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data.artifact import Kind
from pipeline.config import NAME, Launch, RunConfig
from pipeline.messages import checked_seed, explain, nearest, shorten
from pipeline.preparation import identity
from pipeline.reward_specs import anchored, identified
from pipeline.servers import without_servers
from stages.gates import Gate
from stages.stage import IDENTITY, Stage, StageConfig

RESERVED = ("name", "stage", "seed", "launch", "evaluate")
"""Keys of a step that mean the same whatever its stage."""


class Role(StrEnum):
    """Why a step is there."""

    PREPARATION = "preparation"
    STEP = "step"
    EVALUATION = "evaluation"


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One step, checked."""

    name: str
    role: Role
    stage: Stage
    config: StageConfig
    inputs: Mapping[str, tuple[str, ...]]
    """Input name to the names of the models, datasets and steps wired to it."""
    seed: int
    launch: Launch

    @property
    def where(self) -> str:
        """Its place in the configuration, for messages."""
        sections = {Role.PREPARATION: f"data.{self.name}", Role.STEP: f"steps.{self.name}"}
        return sections.get(self.role, self.name)

    @property
    def sources(self) -> list[str]:
        """Names of everything that it reads."""
        return [source for names in self.inputs.values() for source in names]

    @property
    def wired(self) -> frozenset[str]:
        """Names of its inputs that something is wired to."""
        return frozenset(name for name, sources in self.inputs.items() if sources)

    @property
    def gates(self) -> Mapping[str, Gate]:
        """The gates of an evaluation; other steps have none."""
        return getattr(self.config, "gates", {})

    def identity(self) -> dict[str, Any]:
        """The part of its configuration that says what it makes. Raises ValueError for a source that is not there."""
        if self.role is Role.PREPARATION:
            return identity(self.config)  # type: ignore[arg-type]
        hidden = set(self.config.NO_IDENTITY)
        return without_servers(identified(self.config.model_dump(mode="json", exclude=hidden, context=IDENTITY)))


def read_step(config: RunConfig, table: Mapping[str, Stage], step: Mapping[str, Any], at: int) -> Node:
    """The step at position `at`. Raises ValueError naming step, key and nearest name."""
    name = step.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"steps.{at}.name: expected letters, digits, - and _, got {shorten(name)}")
    return read_node(config, table, step, f"steps.{name}", Role.STEP)


def read_node(config: RunConfig, table: Mapping[str, Stage], step: Mapping[str, Any], where: str, role: Role) -> Node:
    """Check one step written as `step`; `where` is the place of its keys in the configuration."""
    step = anchored(step, Path(config.base_dir))
    if "stage" not in step:
        raise ValueError(f"{where}: the key 'stage' is missing")
    if not isinstance(step["stage"], str) or step["stage"] not in table:
        raise ValueError(f"{where}.stage: unknown stage {step['stage']!r}{nearest(str(step['stage']), table)}")
    stage = table[step["stage"]]
    wires = {f"{name}_from": name for name in stage.needs}
    fields = stage.config.model_fields
    for key in step:
        if key not in RESERVED and key not in wires and key not in fields:
            raise ValueError(f"{where}: unknown key {key!r}{nearest(str(key), [*RESERVED, *wires, *fields])}")
    seed = checked_seed(step.get("seed", config.seed), f"{where}.seed")
    try:
        own = {key: value for key, value in step.items() if key not in RESERVED and key not in wires}
        checked = stage.config.model_validate(own)
    except ValidationError as error:
        raise ValueError(explain(error, stage.config, where)) from None
    node = Node(
        name=step["name"],
        role=role,
        stage=stage,
        config=checked,
        inputs={name: _names(step.get(key), stage, name, f"{where}.{key}") for key, name in wires.items()},
        seed=seed,
        launch=_launch(config, stage, step.get("launch"), f"{where}.launch"),
    )
    if stage.check is not None:
        try:
            stage.check(checked, node.wired, node.launch.placement(Path(config.base_dir)))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return node


def _names(value: Any, stage: Stage, name: str, key: str) -> tuple[str, ...]:
    need = stage.needs[name]
    if value is None:
        if need.optional:
            return ()
        raise ValueError(f"{key}: the input {name!r} of stage {stage.name} is missing")
    if isinstance(value, str):
        return (value,)
    if not need.many:
        raise ValueError(f"{key}: expected one name, got {shorten(value)}")
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{key}: expected one or more names, got {shorten(value)}")
    return tuple(value)


def _launch(config: RunConfig, stage: Stage, own: Any, where: str) -> Launch:
    """The run's placement with the step's own keys over it.

    A step that makes a dataset samples, which scales inside its engine: it runs as one process, and where others
    run as several it has one of its own, so that no accelerator memory stays with the runner.
    """
    if own is not None and not isinstance(own, Mapping):
        raise ValueError(f"{where}: expected keys and values, got {shorten(own)}")
    try:
        launch = Launch.model_validate({**config.launch.model_dump(), **(own or {})})
    except ValidationError as error:
        raise ValueError(explain(error, Launch, where)) from None
    if stage.makes is Kind.DATASET and (launch.processes > 1 or launch.files):
        spread: dict[str, Any] = {
            "processes": 1,
            "machines": 1,
            "zero": None,
            "accelerate_config": None,
            "deepspeed": None,
        }
        for key, alone in spread.items():
            if own and own.get(key) not in (None, alone):
                raise ValueError(f"{where}.{key}: stage {stage.name} makes a dataset and runs as one process")
        return launch.model_copy(update={**spread, "own_process": True})
    return launch


def resolved_step(node: Node, config: RunConfig) -> dict[str, Any]:
    """The step as it would stand in a configuration that leaves nothing to defaults."""
    wiring = {
        f"{name}_from": list(names) if node.stage.needs[name].many else names[0]
        for name, names in node.inputs.items()
        if names
    }
    launch = {} if node.launch == config.launch else {"launch": node.launch.model_dump(mode="json")}
    raw = next(step for step in config.steps if step["name"] == node.name)
    evaluate = {"evaluate": raw["evaluate"]} if "evaluate" in raw else {}
    head = {"name": node.name, "stage": node.stage.name, "seed": node.seed}
    return {**head, **wiring, **evaluate, **launch, **node.config.model_dump(mode="json")}
