"""What a configuration asks for against what a run directory holds: which steps are current, and why others are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from data.artifact import Artifact
from pipeline.config import RunConfig
from pipeline.contract import check_disk, check_inputs
from pipeline.given import HashCache, given_model, model_fingerprint
from pipeline.identity import Recipe, differences, recipe_fingerprint
from pipeline.step import Node
from pipeline.store import Record, RunStore

NEVER_MADE = "it has not been made yet"
"""The reason of a step of which the run directory holds nothing."""


class Status(StrEnum):
    """How a step stands."""

    DONE = "done"
    """Made by this run of the command."""
    REUSED = "reused"
    """Found finished."""
    FAILED = "failed"
    PENDING = "pending"


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """One step of a plan."""

    node: Node
    recipe: Recipe
    fingerprint: str
    status: Status
    record: Record | None
    reasons: tuple[str, ...] = ()
    """Why it is to be made; empty for a current one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Given models and steps with their identities, before anything runs."""

    config: RunConfig
    given: dict[str, str]
    """Fingerprints of the given models that some step reads."""
    states: tuple[State, ...]


def make_plan(config: RunConfig, nodes: Sequence[Node], store: RunStore, cache: HashCache) -> Plan:
    """Fingerprint every step and look for its artifact. Raises ValueError for a source that is not there."""
    base_dir = Path(config.base_dir)
    read = {source for node in nodes for source in node.sources}
    given = {
        name: model_fingerprint(source, base_dir, name, cache) for name, source in config.models.items() if name in read
    }
    fingerprints = dict(given)
    states = []
    for node in nodes:
        recipe = _recipe(config, node, fingerprints)
        fingerprints[node.name] = recipe_fingerprint(recipe)
        record = store.find(node.name, fingerprints[node.name])
        states.append(
            State(
                node=node,
                recipe=recipe,
                fingerprint=fingerprints[node.name],
                status=Status.REUSED if record else Status.PENDING,
                record=record,
                reasons=() if record else tuple(_reasons(store, node.name, recipe)),
            )
        )
    return Plan(config=config, given=given, states=tuple(states))


def check_contracts(plan: Plan, given: dict[str, Artifact], store: RunStore) -> None:
    """Refuse what is known to disagree before anything runs. Raises ValueError.

    Artifacts still to be made are taken to agree; they are checked when they are joined.
    """
    known = dict(given)
    for state in plan.states:
        if state.record:
            known[state.node.name] = state.record.artifact(store.path(state.node.name, state.fingerprint))
    for state in plan.states:
        if state.record is None:
            found = {
                name: [known[source] for source in sources if source in known]
                for name, sources in state.node.inputs.items()
            }
            check_inputs(state.node.name, state.node.stage.needs, found, plan.config.convention)


def local_models(plan: Plan) -> dict[str, Artifact]:
    """The given models that are on this disk already."""
    base_dir = Path(plan.config.base_dir)
    return {
        name: given_model(plan.config.models[name], base_dir, name, identity)
        for name, identity in plan.given.items()
        if plan.config.models[name].path
    }


def joined_inputs(
    plan: Plan, state: State, given: dict[str, Artifact], made: dict[str, Artifact]
) -> dict[str, list[Artifact]]:
    """The artifacts that a step is about to read, checked against each other and against their records."""
    base_dir = Path(plan.config.base_dir)
    for name in state.node.sources:
        if name in plan.given and name not in given:
            given[name] = given_model(plan.config.models[name], base_dir, name, plan.given[name])
    available = {**given, **made}
    inputs = {name: [available[source] for source in sources] for name, sources in state.node.inputs.items()}
    for artifacts in inputs.values():
        for artifact in artifacts:
            check_disk(artifact)
    check_inputs(state.node.name, state.node.stage.needs, inputs, plan.config.convention)
    return inputs


def _recipe(config: RunConfig, node: Node, fingerprints: dict[str, str]) -> Recipe:
    try:
        identity = node.identity()
    except ValueError as error:
        raise ValueError(f"{node.where}: {error}") from None
    return {
        "stage": node.stage.name,
        "version": node.stage.version,
        "config": identity,
        "inputs": {
            name: [{"name": source, "fingerprint": fingerprints[source]} for source in sources]
            for name, sources in node.inputs.items()
            if sources
        },
        "seed": node.seed,
        "convention": config.convention,
        "prefill": config.prefill_text,
    }


def _reasons(store: RunStore, name: str, recipe: Recipe) -> list[str]:
    earlier = store.all(name)
    return differences(earlier[-1].recipe, recipe) if earlier else [NEVER_MADE]
