"""The steps of a configuration as a graph in the order in which they run, implicit steps included.

Every dataset that a step reads gets a preparation step; every given model that a step starts from and every step
that makes a model which writes text gets an evaluation step `evaluate.NAME`.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.artifact import Kind
from data.schemas import SOURCES
from pipeline.adapters import check_beside
from pipeline.config import Launch, RunConfig
from pipeline.messages import nearest, shorten
from pipeline.preparation import PREPARATION, held_out, preparation_config
from pipeline.step import Node, Role, read_node, read_step
from stages.stage import Stage

EVALUATION = "evaluation"
PREFIX = "evaluate."


def build(config: RunConfig, table: Mapping[str, Stage], file: Path) -> tuple[Node, ...]:
    """All steps in the order in which they run. Raises ValueError naming file, step, key and nearest name."""
    try:
        if not config.steps:
            raise ValueError("steps: there is none, so nothing would be made")
        steps = [read_step(config, table, step, at) for at, step in enumerate(config.steps)]
        _check_names(config, steps)
        nodes = [*_preparations(config, steps), *_with_evaluations(config, table, steps)]
        _check_wiring(config, nodes)
        check_beside(nodes, {})
        return _gated(_ordered(nodes))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def descendants(nodes: Sequence[Node], name: str) -> set[str]:
    """`name` and every step that reads what it makes, directly or not."""
    found = {name}
    for node in nodes:  # in running order, so one pass is enough
        if found.intersection(node.sources):
            found.add(node.name)
    return found


def _check_names(config: RunConfig, steps: Sequence[Node]) -> None:
    seen = {**dict.fromkeys(config.models, "model"), **dict.fromkeys(config.data, "dataset")}
    if both := set(config.models) & set(config.data):
        raise ValueError(f"data.{min(both)}: the name is already that of a model")
    for node in steps:
        if node.name in seen:
            raise ValueError(f"steps.{node.name}: the name is already that of a {seen[node.name]}")
        seen[node.name] = "step"


def _preparations(config: RunConfig, steps: Sequence[Node]) -> list[Node]:
    """Entries that nobody reads are left alone."""
    read = {source for node in steps for source in node.sources}
    for value in [config.evaluate, *(step.get("evaluate") for step in config.steps)]:
        data = value.get("data_from", []) if isinstance(value, Mapping) else []
        measured = [data] if isinstance(data, str) else [name for name in data if isinstance(name, str)]
        if augmented := next((name for name in measured if "augment" in config.data.get(name, {})), None):
            raise ValueError(
                f"data.{augmented}.augment: an evaluation reads it, and copies would count one question several times"
            )
        read.update(measured)
    checks = {name: preparation_config(config, name) for name in config.data}
    apart = {name: held_out(config, name) for name in config.data}
    while more := {other for name in read for other in apart.get(name, ())} - read:
        read |= more
    nodes = []
    for name, (checked, seed) in checks.items():
        if name in read:
            nodes.append(
                Node(
                    name=name,
                    role=Role.PREPARATION,
                    stage=PREPARATION,
                    config=checked,
                    inputs={"held_out": apart[name]} if apart[name] else {},
                    seed=seed,
                    launch=Launch(),
                )
            )
    return nodes


def _with_evaluations(config: RunConfig, table: Mapping[str, Stage], steps: Sequence[Node]) -> list[Node]:
    started_from = {source for node in steps for source in node.inputs.get("init", ())}
    nodes = []
    for name, model in config.models.items():
        if name in started_from and model.evaluate:
            nodes += _evaluation(config, table, name, None, "evaluate")
    for node, step in zip(steps, config.steps, strict=True):
        nodes.append(node)
        own = step.get("evaluate")
        if node.stage.makes is Kind.MODEL and node.stage.generative:
            nodes += _evaluation(config, table, node.name, own, f"steps.{node.name}.evaluate" if own else "evaluate")
    return nodes


def _evaluation(config: RunConfig, table: Mapping[str, Stage], name: str, own: Any, where: str) -> list[Node]:
    if own is False or (own is None and not config.evaluate):
        return []
    if own is not None and not isinstance(own, Mapping):
        raise ValueError(f"{where}: expected false, or keys and values, got {shorten(own)}")
    common = config.evaluate or {}
    step = {**common, **(own or {}), "name": PREFIX + name, "stage": EVALUATION, "init_from": name}
    node = read_node(config, table, step, where, Role.EVALUATION)
    if name in config.models and "gates" in common:  # what the recipe is to reach is not asked of what it starts from
        node = replace(node, config=node.config.model_copy(update={"gates": {}}))
    return [node]


def _check_verdicts(nodes: Sequence[Node]) -> None:
    """Rows that are sampled again have the ids of the old ones: in one file the last word would be on another row."""
    files: dict[str, Node] = {}
    for node in nodes:
        file = getattr(node.config, "reviewed", None)
        if file is not None and files.setdefault(file, node) is not node:
            raise ValueError(
                f"{node.where}.reviewed: {files[file].name} has the same file; give each its own "
                "(in rounds: verdicts-${round}.jsonl)"
            )


def _check_measured(config: RunConfig, nodes: Sequence[Node]) -> None:
    """No evaluation reads copies, also not through a step: they would count one question several times."""
    by_name = {node.name: node for node in nodes}
    for node in nodes:
        waiting = list(node.inputs.get("data", ())) if node.stage.name == EVALUATION else []
        while waiting:
            name = waiting.pop()
            if "augment" in config.data.get(name, {}):
                raise ValueError(
                    f"data.{name}.augment: an evaluation reads it, and copies would count one question several times"
                )
            source = by_name.get(name)
            if source is not None and source.role is Role.STEP:
                waiting += source.inputs.get("data", ())


def _check_wiring(config: RunConfig, nodes: Sequence[Node]) -> None:
    kinds = {**dict.fromkeys(config.models, Kind.MODEL), **dict.fromkeys(config.data, Kind.DATASET)}
    kinds |= {node.name: node.stage.makes for node in nodes if node.role is Role.STEP}
    judges = {node.name: node.stage.judges for node in nodes}
    texts = {name for name, spec in config.data.items() if SOURCES[spec["source"]].raw}
    writes = {node.name: node.stage.generative for node in nodes if node.stage.makes is Kind.MODEL}
    _check_verdicts(nodes)
    _check_measured(config, nodes)
    for node in nodes:
        where = "evaluate" if node.role is Role.EVALUATION else f"steps.{node.name}"
        for name, sources in node.inputs.items():
            for source in sources:
                if source not in kinds:
                    raise ValueError(f"{where}.{name}_from: unknown name {source!r}{nearest(source, kinds)}")
                wanted = node.stage.needs[name].kind
                if kinds[source] is not wanted:
                    raise ValueError(f"{where}.{name}_from: {source!r} is a {kinds[source]}, a {wanted} is needed")
                reads = node.stage.needs[name].texts
                if source in texts and reads == "no":
                    raise ValueError(f"{where}.{name}_from: {source!r} is raw text, rows with a prompt are needed")
                if source not in texts and reads == "only":
                    raise ValueError(f"{where}.{name}_from: {source!r} is no raw text, `source: text` is needed")
                # A given model may be either: its files decide when it is loaded.
                if source in writes and writes[source] is node.stage.needs[name].scorer:
                    made, needed = ("writes text", "scores") if writes[source] else ("scores", "writes text")
                    raise ValueError(
                        f"{where}.{name}_from: {source!r} is a model that {made}, one that {needed} is needed"
                    )
                if source in writes and not writes[source] and judges[source] != node.stage.needs[name].judges:
                    raise ValueError(
                        f"{where}.{name}_from: {source!r} is a {judges[source]} model, a "
                        f"{node.stage.needs[name].judges} model is needed"
                    )


def _ordered(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Every step after what it reads, otherwise in the order of `nodes`. Raises ValueError for a cycle."""
    position = {node.name: at for at, node in enumerate(nodes)}
    waits = [{position[source] for source in node.sources if source in position} for node in nodes]
    ready = [at for at, on in enumerate(waits) if not on]
    order: list[int] = []
    while ready:
        done = heapq.heappop(ready)
        order.append(done)
        for at, on in enumerate(waits):
            if done in on:
                on.remove(done)
                if not on:
                    heapq.heappush(ready, at)
    if len(order) < len(nodes):
        circle = _circle(waits, nodes)
        section = "data" if circle[0].role is Role.PREPARATION else "steps"
        raise ValueError(f"{section}: the inputs go in a circle: {' -> '.join(node.name for node in circle)}")
    return tuple(nodes[at] for at in order)


def _gated(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """`nodes`. Raises ValueError for a gate that is measured after something was built on what it guards."""
    for at, node in enumerate(nodes):
        if node.gates:
            guarded = node.inputs["init"][0]
            built = descendants(nodes, guarded) - {guarded}
            if early := next((n.name for n in nodes[:at] if n.name in built and n.stage.name != EVALUATION), None):
                raise ValueError(
                    f"{node.where}: its gates come too late: {early} is built on {guarded} before them; put the "
                    f"evaluation before it, and let it read nothing that is built on {guarded} (preference_from: null)"
                )
    return nodes


def _circle(waits: Sequence[set[int]], nodes: Sequence[Node]) -> list[Node]:
    at = next(at for at, on in enumerate(waits) if on)
    path: list[int] = []
    while at not in path:
        path.append(at)
        at = min(waits[at])
    return [nodes[step] for step in reversed([*path[path.index(at) :], at])]
