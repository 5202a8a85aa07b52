"""Makes what a plan asks for: skips what is finished, runs what is not, goes on where a killed run stopped."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from data.artifact import Artifact, Kind
from data.contract import model_contract
from pipeline import attempts
from pipeline.adapters import check_beside, given_beside
from pipeline.atomic import write_text
from pipeline.config import RunConfig, dump
from pipeline.encoder_decoder import check_encoders
from pipeline.fitness import check_fitness
from pipeline.gates import GateShut, failures, require_open
from pipeline.given import HashCache
from pipeline.graph import PREFIX, descendants
from pipeline.launcher import StepFailed, execute
from pipeline.lock import hold
from pipeline.machines import Machine, MainMachine, most_machines, require_machine
from pipeline.messages import nearest
from pipeline.plan import NEVER_MADE, Plan, State, Status, check_contracts, joined_inputs, local_models, make_plan
from pipeline.preflight import preflight, require_sandboxes
from pipeline.report import cell, write_report
from pipeline.reviewed import check_unchanged
from pipeline.revision import code_revision
from pipeline.step import Node, Role, resolved_step
from pipeline.store import Record, RunStore
from pipeline.worker import outcome_from, outcome_json
from stages.stage import Context


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Which steps may run, and whether finished ones are made again."""

    from_step: str | None = None
    """Only this step and those that depend on it."""
    only: str | None = None
    """Only this step and its evaluation."""
    force: bool = False
    """Make the selected steps again even though they are finished."""
    machine: Machine | None = None
    """This machine, where the same command was given to several; the first one runs, see machines.py."""


def run(
    config: RunConfig, nodes: Sequence[Node], run_dir: Path, options: Options, say: Callable[[str], None] = print
) -> Plan:
    """Bring `run_dir` to what `config` asks for, and write summary.json and report.md there.

    Raises ValueError with one line for a user's mistake, before any step runs where it can be known, and StepFailed
    for a step that broke. Whatever was finished by then stays, and the same call goes on from there.
    """
    run_dir = run_dir.resolve()
    selected = _selected(nodes, options)
    store = RunStore(run_dir)
    cache = HashCache.load(run_dir / "hashes.json")
    plan = make_plan(config, nodes, store, cache)
    todo = _todo(plan.states, selected, options, say=lambda line: None)
    require_machine((state.node for state in plan.states if state.node.name in todo), options.machine)
    given = _checked(plan, todo, store) if todo else {}  # what is refused here leaves no directory behind
    store.artifacts.mkdir(parents=True, exist_ok=True)
    with hold(run_dir), _machines(nodes, run_dir, options.machine) as machines:
        store.sweep()
        plan = make_plan(config, nodes, store, cache)
        cache.save()
        states = list(plan.states)
        todo = _todo(states, selected, options, say)
        steps = [resolved_step(node, config) for node in nodes if node.role is Role.STEP]
        write_text(run_dir / "config.json", dump(config, steps))  # `r1 status` reads it: never one that was refused
        if todo:
            _make_all(plan, states, todo, given, store, say, machines)
        write_report(run_dir, config, states, plan.given)
    if shut := failures(states, selected):
        why = " ".join(shut)
        raise GateShut(
            f"a gate is not met, though all that was asked for is made. {why} (report: {run_dir / 'report.md'})"
        )
    return replace(plan, states=tuple(states))


def pending(config: RunConfig, nodes: Sequence[Node], run_dir: Path, options: Options) -> list[State]:
    """The steps that `run` would make, in order; writes nothing. Raises ValueError for what it would refuse first."""
    selected = _selected(nodes, options)
    plan = make_plan(config, nodes, RunStore(run_dir), HashCache.load(run_dir / "hashes.json"))
    todo = _todo(plan.states, selected, options, say=lambda line: None)
    making = [state.node for state in plan.states if state.node.name in todo]
    check_encoders(config, nodes, making)
    check_beside(making, given_beside(config))
    preflight(config, making)
    return [state for state in plan.states if state.node.name in todo]


def _machines(
    nodes: Sequence[Node], run_dir: Path, machine: Machine | None
) -> AbstractContextManager[MainMachine | None]:
    if machine is None:
        return nullcontext()
    return MainMachine(run_dir, machine, most_machines(nodes)[0])


def _selected(nodes: Sequence[Node], options: Options) -> set[str]:
    names = {node.name for node in nodes}
    for flag, name in (("--from", options.from_step), ("--only", options.only)):
        if name is not None and name not in names:
            raise ValueError(f"{flag} {name}: unknown step{nearest(name, names)}")
    if options.from_step is not None and options.only is not None:
        raise ValueError("--from and --only exclude each other")
    if options.only is not None:
        return {options.only, PREFIX + options.only} & names
    return descendants(nodes, options.from_step) if options.from_step is not None else names


def _todo(states: Sequence[State], selected: set[str], options: Options, say: Callable[[str], None]) -> set[str]:
    """Names of the steps to make: the selected ones that are not finished, and the data that they need.

    An evaluation that was not asked for by name and reads what an earlier step has not made stays pending. Raises
    ValueError where another step does so, for it may not be made now.
    """
    by_name = {state.node.name: state for state in states}
    todo = {
        state.node.name for state in states if state.node.name in selected and (state.record is None or options.force)
    }
    for name in sorted(todo):
        node = by_name[name].node
        waits = [s for s in node.sources if s in by_name and by_name[s].record is None and s not in todo]
        data = {source for source in waits if by_name[source].node.role is Role.PREPARATION}
        missing = next((source for source in waits if source not in data), None)
        if missing is None:
            todo |= _with_sources(data, by_name)
        elif node.role is Role.EVALUATION and name not in (options.only, options.from_step):
            say(f"{name} is left pending: it reads {missing}, which is not current")
            todo.discard(name)
        else:
            reasons = "; ".join(by_name[missing].reasons)
            raise ValueError(f"{name} reads {missing}, which is not current ({reasons}); make that one first")
    return todo


def _with_sources(data: set[str], by_name: Mapping[str, State]) -> set[str]:
    """The data sets and those that they are kept apart from, as far as they are not finished."""
    found = set(data)
    while more := {s for name in found for s in by_name[name].node.sources if by_name[s].record is None} - found:
        found |= more
    return found


def _checked(plan: Plan, todo: set[str], store: RunStore) -> dict[str, Artifact]:
    """The given models on this disk. Raises ValueError for what is known to fail in a step of `todo`."""
    given = local_models(plan)
    check_contracts(plan, given, store)
    nodes = [state.node for state in plan.states if state.node.name in todo]
    check_encoders(plan.config, [state.node for state in plan.states], nodes)
    check_beside(nodes, given_beside(plan.config))
    preflight(plan.config, nodes)
    return given


def _make_all(
    plan: Plan,
    states: list[State],
    todo: set[str],
    given: dict[str, Artifact],
    store: RunStore,
    say: Callable[[str], None],
    machines: MainMachine | None,
) -> None:
    """Make the steps of `todo` in order; `states` is kept up to date, and so are the files that show it."""
    made: dict[str, Artifact] = {}
    prepared = False
    for at, state in enumerate(states):
        name = state.node.name
        if name in todo and state.node.role is not Role.PREPARATION and not prepared:
            prepared = True  # data sets come first, and whether programs will run is seen in their rows
            nodes = [s.node for s in states]
            finished = {n: artifact.path for n, artifact in made.items() if artifact.kind is Kind.DATASET}
            making = [node for node in nodes if node.name in todo]
            check_fitness(making, finished)
            require_sandboxes(plan.config, nodes, making, finished)
        if name in todo:
            try:
                require_open(state.node, states)
            except GateShut:
                write_report(store.root, plan.config, states, plan.given)
                raise
            say(f"[{at + 1}/{len(states)}] {name}{_why(state)}")
            try:
                record = _make(plan, state, given, made, store, machines)
            except Exception as error:
                states[at] = replace(state, status=Status.FAILED, record=None)
                write_report(store.root, plan.config, states, plan.given)
                raise _failure(error, name, store.root) from error
            states[at] = replace(state, status=Status.DONE, record=record, reasons=())
            say(f"[{at + 1}/{len(states)}] {name}: done in {record.seconds:.1f} s{_found(state.node, record)}")
            write_report(store.root, plan.config, states, plan.given)
        if found := states[at].record:
            made[name] = found.artifact(store.path(name, state.fingerprint))


def _why(state: State) -> str:
    """Why a step is made again; on a first run there is nothing to say."""
    if state.reasons == (NEVER_MADE,):
        return ""
    return f": {'; '.join(state.reasons) or 'made again by --force'}"


def _make(
    plan: Plan,
    state: State,
    given: dict[str, Artifact],
    made: dict[str, Artifact],
    store: RunStore,
    machines: MainMachine | None,
) -> Record:
    """Run one step and commit what it made."""
    node = state.node
    inputs = joined_inputs(plan, state, given, made)
    out, work = store.open(node.name, state.fingerprint), store.work(node.name, state.fingerprint)
    work.mkdir(parents=True, exist_ok=True)
    context = Context(
        seed=node.seed,
        convention=plan.config.convention,
        work=work.resolve(),
        name=node.name,
        prefill=plan.config.prefill_text,
        sandbox=plan.config.sandbox,
        placement=node.launch.placement(Path(plan.config.base_dir)),
    )
    started, clock = datetime.now(UTC).isoformat(timespec="microseconds"), monotonic()
    before = attempts.begin(work)
    try:
        outcome = execute(node.stage, node.config, inputs, out.resolve(), context, node.launch, machines)
    except BaseException:
        attempts.end(work)
        raise
    check_unchanged(node.config, state.recipe)
    outcome = outcome_from(outcome_json(outcome))
    for metric, found in outcome.metrics.items():
        if not all(map(math.isfinite, (found.value, found.low, found.high))):
            raise StepFailed(f"the metric {metric!r} is not a finite number: {found}")
    contract = outcome.contract
    if node.stage.makes is Kind.MODEL:  # what is on disk decides, in the terms in which it will be checked
        contract = model_contract(out, contract.convention)
    record = Record(
        name=node.name,
        kind=node.stage.makes,
        fingerprint=state.fingerprint,
        recipe=state.recipe,
        contract=contract,
        parents=tuple(artifact.fingerprint for artifacts in inputs.values() for artifact in artifacts),
        seed=node.seed,
        code=code_revision(),
        started=started,
        seconds=before + monotonic() - clock,
        metrics=outcome.metrics,
        counts=outcome.counts,
        timings=outcome.timings,
    )
    store.commit(out, record)
    return record


def _found(node: Node, record: Record) -> str:
    """What there is to say about a finished step in a few words: rows by reason, or the accuracy."""
    if node.role is Role.PREPARATION or node.stage.name == "review":
        return f" ({', '.join(f'{name} {count}' for name, count in record.counts.items())})"
    if node.role is Role.EVALUATION and "accuracy" in record.metrics:
        return f" (accuracy {cell(asdict(record.metrics['accuracy']))})"
    return ""


def _failure(error: Exception, name: str, run_dir: Path) -> Exception:
    """One line about a failed step; the whole traceback goes to a file."""
    log = run_dir / "failed.log"
    trace = str(error) if isinstance(error, StepFailed) else "".join(traceback.format_exception(error))
    write_text(log, f"{name}\n{trace}\n")
    last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
    raised_in = traceback.extract_tb(error.__traceback__)[-1:]
    if isinstance(error, ValueError) and not any("site-packages" in frame.filename for frame in raised_in):
        return ValueError(f"{name}: {' '.join(str(error).split())}")  # ours: about the user's input, and complete
    kind = "" if isinstance(error, StepFailed) else f"{type(error).__name__}: "
    return StepFailed(f"{name} failed: {kind}{last[0]} (traceback: {log})")
