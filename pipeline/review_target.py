"""What `r1 review` is to show (a file of records, an artifact, what a step has made), and where its verdicts go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.artifact import ROWS_NAME, Kind
from data.records import Row, is_text, read_rows
from data.template import CONVENTIONS, Convention
from data.verdicts import keyed
from pipeline.config import load
from pipeline.given import HashCache
from pipeline.graph import build
from pipeline.messages import nearest
from pipeline.plan import State, make_plan
from pipeline.step import Node, Role
from pipeline.store import Record, RunStore
from stages.rejection_sampling import REVIEW_NAME
from stages.review import ReviewConfig
from stages.stage import Stage

UNSTATED = "think_answer"
"""The convention of a file that nothing is known about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One row to be judged."""

    key: str
    digest: str
    row: Row
    doubts: tuple[str, ...] = ()
    """Why it is an edge case; empty where the rows are no edge cases."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Rows to be judged, and where what is said about them goes."""

    name: str
    source: Path
    convention: Convention
    out: Path
    items: Sequence[Item] = field(default_factory=tuple)


def resolve(target: Path, out: Path | None, convention: str | None, table: Mapping[str, Stage]) -> Target:
    """What `target` names. Raises ValueError, one line, for what cannot be reviewed.

    `out` and `convention` win over what the run says.
    """
    place = target.expanduser()
    if convention is not None and convention not in CONVENTIONS:
        raise ValueError(f"--convention: unknown convention {convention!r}{nearest(convention, CONVENTIONS)}")
    if place.is_file():
        folder, source = place.resolve().parent, place
    else:
        folder = _directory(place, table)
        source = folder / (REVIEW_NAME if (folder / REVIEW_NAME).is_file() else ROWS_NAME)
    record = Record.read(folder)
    if record is not None and record.kind is not Kind.DATASET:
        raise ValueError(f"{target} is a {record.kind}; rows of a data set can be reviewed")
    items = _items(source)
    if not items:
        raise ValueError(f"{source} has no rows to review")
    if any(is_text(item.row) for item in items):
        raise ValueError(f"{source} is raw text, which has no answers to review")
    stated = convention or (record.contract.convention if record else None) or UNSTATED
    return Target(
        name=record.name if record else place.name,
        source=source,
        convention=CONVENTIONS[stated],
        out=out or (_verdicts_of(folder, record, table) if record else place.with_suffix(".verdicts.jsonl")),
        items=items,
    )


def _items(source: Path) -> list[Item]:
    """The rows in the order of the file; one that is there twice, under two doubts say, is shown once with both."""
    items: dict[str, Item] = {}
    for key, digest, row in keyed(read_rows(source)):
        doubts = (str(row["doubt"]),) if row.get("doubt") else ()
        known = items.get(key)
        if known is None:
            items[key] = Item(key=key, digest=digest, row=row, doubts=doubts)
        else:
            both = tuple(dict.fromkeys([*known.doubts, *doubts]))
            items[key] = Item(key=key, digest=digest, row=known.row, doubts=both)
    return list(items.values())


def _directory(place: Path, table: Mapping[str, Stage]) -> Path:
    """The artifact that `place` names: itself, RUN_DIR/STEP, or the one step of RUN_DIR with edge cases."""
    if Record.read(place) is not None:
        return place.resolve()
    if _is_run(place):
        return _made(place, None, table)
    if _is_run(place.parent):
        return _made(place.parent, place.name, table)
    raise ValueError(f"{place}: there is no such file, artifact, run directory, or step of a run (RUN_DIR/STEP)")


def _is_run(place: Path) -> bool:
    return (place / "config.json").is_file() and (place / "artifacts").is_dir()


def _made(run_dir: Path, step: str | None, table: Mapping[str, Stage]) -> Path:
    store, nodes = RunStore(run_dir.resolve()), _nodes(run_dir, table)
    plan = make_plan(load(run_dir / "config.json"), nodes, store, HashCache.load(run_dir / "hashes.json"))
    datasets = {
        state.node.name: state
        for state in plan.states
        if state.node.stage.makes is Kind.DATASET and state.node.role is not Role.EVALUATION
    }
    if step is None:
        return _the_one(run_dir, datasets, store)
    if step not in datasets:
        raise ValueError(f"{run_dir}: no data set {step!r}{nearest(step, datasets)}")
    state = datasets[step]
    if state.record is None:
        raise ValueError(f"{step} is not current in {run_dir} ({'; '.join(state.reasons)}); make it first")
    return store.path(step, state.fingerprint)


def _the_one(run_dir: Path, datasets: Mapping[str, State], store: RunStore) -> Path:
    places = {name: store.path(name, state.fingerprint) for name, state in datasets.items() if state.record}
    queues = [name for name, place in places.items() if (place / REVIEW_NAME).is_file()]
    if len(queues) != 1:
        names = ", ".join(queues or places) or "nothing is made yet"
        raise ValueError(
            f"{run_dir}: {len(queues)} steps have edge cases; name one data set as {run_dir}/STEP: {names}"
        )
    return places[queues[0]]


def _nodes(run_dir: Path, table: Mapping[str, Stage]) -> tuple[Node, ...]:
    file = run_dir / "config.json"
    return build(load(file), table, file)


def _verdicts_of(folder: Path, record: Record, table: Mapping[str, Stage]) -> Path:
    """Where the run that an artifact belongs to looks for its verdicts, else a file in its run directory."""
    run_dir = folder.parent.parent
    if folder.parent.name != "artifacts" or not _is_run(run_dir):
        return Path(f"{record.name}.verdicts.jsonl")
    for node in _nodes(run_dir, table):
        if isinstance(node.config, ReviewConfig) and record.name in node.sources:
            return Path(node.config.reviewed)
    return run_dir / f"{record.name}.verdicts.jsonl"
