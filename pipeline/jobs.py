"""The steps of a run that are not finished as jobs for a cluster or a set of machines: who runs what, on how many.

One runner works in a run directory at a time, so the jobs form a chain: each starts when the one before it is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.artifact import Kind
from pipeline.config import RunConfig
from pipeline.given import HashCache, given_model
from pipeline.graph import PREFIX
from pipeline.plan import Plan, make_plan
from pipeline.servers import Wanted, evaluation_key, wanted
from pipeline.step import Node, Role
from pipeline.store import RunStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """vLLM servers of a job."""

    key: str
    """Key of the configuration under which the job writes their urls."""
    checkpoint: Path
    """What they serve; an earlier job may still have to make it."""
    follows: str | None = None
    """How their weights follow those of the step, which trains: disk or nccl; None: they stay."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One call of `r1 run --only STEP`."""

    step: str
    number: int
    """Its place in the whole run, from 1, whatever is finished."""
    machines: int
    processes: int
    """Training processes on each machine."""
    devices: int
    """Accelerators that the step can use on each machine, its own sampling engine's included."""
    server: Server | None = None
    evaluates: bool = True
    """False: the evaluation of what it makes waits for servers of its own, in another job."""


def plan_jobs(config: RunConfig, nodes: Sequence[Node], run_dir: Path) -> list[Job]:
    """The jobs that are left, in the order in which they run; data sets are prepared by the job that reads them.

    Raises ValueError for a source that is not there.
    """
    store = RunStore(run_dir)
    plan = make_plan(config, nodes, store, HashCache.load(run_dir / "hashes.json"))
    position = {node.name: at for at, node in enumerate(nodes)}
    left = {state.node.name for state in plan.states if state.record is None}
    by_name = {node.name: node for node in nodes}
    jobs = []
    for number, node in enumerate([node for node in nodes if node.role is not Role.PREPARATION], 1):
        if node.name not in left:
            continue
        model = node.name.removeprefix(PREFIX)
        if node.role is Role.EVALUATION and model in left and not _waits(node, model, config, position):
            continue  # made by the job of its model
        each = node.launch.processes // node.launch.machines
        found = _wanted(node, config)
        evaluation = by_name.get(PREFIX + node.name)
        jobs.append(
            Job(
                step=node.name,
                number=number,
                machines=node.launch.machines,
                processes=each,
                devices=max(each, _parallel(node.config.model_dump())),
                server=_server(found, plan, store, node) if found and node.inputs.get(found.input) else None,
                evaluates=evaluation is None or _wanted(evaluation, config) is None,
            )
        )
    return jobs


def _waits(node: Node, model: str, config: RunConfig, position: Mapping[str, int]) -> bool:
    """Whether an evaluation cannot run in the job that makes its model, for it needs servers or a later step."""
    steps = {step["name"] for step in config.steps}
    later = any(position[source] > position[model] for source in node.sources if source in steps)
    return later or _wanted(node, config) is not None


def _wanted(node: Node, config: RunConfig) -> Wanted | None:
    where = evaluation_key(config, node.name.removeprefix(PREFIX)) if node.role is Role.EVALUATION else node.where
    return wanted(node.config.model_dump(mode="json"), where)


def _server(found: Wanted, plan: Plan, store: RunStore, node: Node) -> Server:
    """With the place where the model lies, or will lie when its step is done: its fingerprint is known before."""
    [name] = node.inputs[found.input]
    made = {state.node.name: state.fingerprint for state in plan.states}
    if name in made:
        place = store.path(name, made[name])
    else:
        place = given_model(plan.config.models[name], Path(plan.config.base_dir), name, plan.given[name]).path
    trains = node.stage.makes is Kind.MODEL and found.input == "init"
    return Server(key=found.key, checkpoint=place, follows=found.weight_sync if trains else None)


def _parallel(config: Mapping[str, Any]) -> int:
    """GPUs that an engine of vLLM in the step's own process asks for."""
    asked = 1
    if config.get("engine") == "vllm":
        options = config.get("engine_options") or {}
        asked = int(options.get("tensor_parallel_size", 1)) * int(options.get("data_parallel_size", 1))
    return max([asked, *(_parallel(value) for value in config.values() if isinstance(value, Mapping))])
