"""What `r1 status` says about a run directory: each step, whether it is current, why not, and what else is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.config import load
from pipeline.given import HashCache
from pipeline.graph import build
from pipeline.plan import State, make_plan
from pipeline.store import RunStore
from stages.gates import unmet
from stages.stage import Stage


def status_lines(run_dir: Path, file: Path, overrides: Sequence[str], table: Mapping[str, Stage]) -> list[str]:
    """One line a step of the configuration `file`, then the artifacts that are kept for other settings."""
    config = load(file, overrides)
    store = RunStore(run_dir)
    plan = make_plan(config, build(config, table, file), store, HashCache.load(run_dir / "hashes.json"))
    width = max((len(state.node.name) for state in plan.states), default=0)
    lines = [_line(state, store, width) for state in plan.states]
    for state in plan.states:
        for record in store.all(state.node.name):
            if record.fingerprint != state.fingerprint:
                lines.append(f"kept: {store.path(record.name, record.fingerprint)} (made {record.started[:19]})")
    return lines


def _line(state: State, store: RunStore, width: int) -> str:
    head = f"{state.node.name.ljust(width)}  {state.fingerprint}"
    if state.record:
        shut = unmet(state.node.gates, state.record.metrics)
        return f"{head}  current  {state.record.seconds:8.1f} s" + "".join(f"  gate not met: {line}" for line in shut)
    resumable = " (begun; will be resumed)" if store.work(state.node.name, state.fingerprint).is_dir() else ""
    return f"{head}  pending  {'; '.join(state.reasons)}{resumable}"
