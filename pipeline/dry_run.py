"""What `r1 run --dry-run` prints: the steps that would run, in order, and the command line of each that is launched."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.launcher import command, files_of
from pipeline.machines import Machine
from pipeline.plan import State
from pipeline.store import RunStore
from stages import ranks

MAIN = Machine(rank=0, main_host="MAIN_HOST", main_port=29500)
"""Stands for the address where nobody has said it."""


def dry_run_lines(config: RunConfig, states: list[State], run_dir: Path, machine: Machine | None) -> Iterator[str]:
    """One line per step that runs in the runner's process, one per machine for a step that is launched."""
    store = RunStore(run_dir.resolve())
    for state in states:
        launch = state.node.launch
        if launch.here:
            yield f"{state.node.name}: in this process"
            continue
        files = files_of(launch, launch.placement(Path(config.base_dir)))
        request = store.work(state.node.name, state.fingerprint) / ranks.FOLDER / "request.json"
        for rank in range(launch.machines):
            where = machine or MAIN
            here = Machine(rank=rank, main_host=where.main_host, main_port=where.main_port)
            on = f" on machine {rank}" if launch.machines > 1 else ""
            line = command(launch, files, request, here if launch.machines > 1 else None)
            yield f"{state.node.name}{on}: {shlex.join(line)}"
    if not states:
        yield "everything is finished"
