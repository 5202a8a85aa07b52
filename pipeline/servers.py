"""Which steps sample from vLLM servers, which checkpoint those serve, and the urls, which are placement.

A step with `engine: vllm_server` and `urls: [launch]`, or none, gets servers from `r1 launch`; its jobs fill them in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config import RunConfig

ENGINE = "vllm_server"
TO_FILL = "launch"
"""Stands for the urls until a job knows its nodes."""

MODEL = "r1"
"""Name that the servers of `r1 launch` give to their checkpoint."""

_PLACES = ("urls", "model")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Servers that a step waits for."""

    key: str
    """Of the configuration: where the engine's options stand, such as steps.rejection_sampling.engine_options."""
    input: str
    """Name of the input whose checkpoint they serve."""
    weight_sync: str
    """How they would take new weights."""


def without_servers(dumped: dict[str, Any]) -> dict[str, Any]:
    """A dumped configuration of a stage without where its servers are: the checkpoint they serve is an input."""
    found = {key: without_servers(value) if isinstance(value, dict) else value for key, value in dumped.items()}
    if found.get("engine") == ENGINE and isinstance(found.get("engine_options"), dict):
        found["engine_options"] = {k: v for k, v in found["engine_options"].items() if k not in _PLACES}
    return found


def with_places(config: RunConfig) -> RunConfig:
    """The configuration with TO_FILL and MODEL wherever a server's urls are left open, so that it can be read."""
    common = config.evaluate or {}
    steps = []
    for step in map(_filled, config.steps):
        own = step.get("evaluate")
        if isinstance(own, dict) and {"engine", "engine_options"} & set(own):  # only half of it may stand here
            options = _filled({**common, **own}).get("engine_options", {})
            step["evaluate"] = {**own, "engine_options": options}
        steps.append(step)
    return config.model_copy(update={"steps": tuple(steps), "evaluate": _filled(common) if common else config.evaluate})


def evaluation_key(config: RunConfig, name: str) -> str:
    """Where the keys of the evaluation of the model `name` stand that says which engine samples for it."""
    own = next((step.get("evaluate") for step in config.steps if step.get("name") == name), None)
    return f"steps.{name}.evaluate" if isinstance(own, dict) and "engine_options" in own else "evaluate"


def wanted(config: Mapping[str, Any], where: str) -> Wanted | None:
    """The servers that a step's dumped configuration leaves open; `where` is the place of the step's keys."""
    for inside, options in _open_places(config, ()):
        if options.get("urls") == [TO_FILL]:
            key, source = ".".join([where, *inside, "engine_options"]), inside[-1] if inside else "init"
            return Wanted(key=key, input=source, weight_sync=options.get("weight_sync", "disk"))
    return None


def _open_places(tree: Mapping[str, Any], inside: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    if tree.get("engine") == ENGINE:
        yield inside, tree.get("engine_options") or {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _open_places(value, (*inside, key))


def _filled(tree: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: _filled(value) if isinstance(value, dict) else value for key, value in tree.items()}
    options = found.get("engine_options", {})
    if found.get("engine") == ENGINE and isinstance(options, dict) and options.get("urls") in (None, [], [TO_FILL]):
        found["engine_options"] = {"model": MODEL, **options, "urls": [TO_FILL]}
    return found
