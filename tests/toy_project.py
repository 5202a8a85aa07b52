"""A small project on disk for the tests of the pipeline: a model, rows and a configuration with toy stages."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import load
from pipeline.graph import build
from pipeline.plan import Plan
from pipeline.runner import Options, run
from pipeline.step import Node
from tests.toy_stages import TOY

ROOT = Path(__file__).resolve().parent.parent

CONFIG: dict[str, Any] = {
    "name": "toy",
    "models": {"base": {"path": "model"}},
    "data": {
        "rows": {"source": "records", "path": "rows.jsonl"},
        "held_out": {"source": "records", "path": "rows.jsonl", "rows": 4},
    },
    "evaluate": {"data_from": "held_out"},
    "steps": [
        {"name": "first", "stage": "toy_train", "init_from": "base", "data_from": "rows"},
        {"name": "keep", "stage": "toy_sample", "init_from": "first", "data_from": "rows"},
        {"name": "second", "stage": "toy_train", "init_from": "first", "data_from": ["keep", "rows"]},
        {"name": "judge", "stage": "toy_judge", "init_from": "first", "data_from": "rows"},
    ],
}
NAMES = ["rows", "held_out", "evaluate.base", "first", "evaluate.first", "keep", "second", "evaluate.second", "judge"]
"""The steps of CONFIG in the order in which they run."""


def toy_row(number: int) -> dict[str, Any]:
    """A record with nothing optional."""
    question = [{"role": "user", "content": f"question {number}"}]
    return {"id": f"row-{number}", "prompt": question, "domain": "math", "language": "en"}


def project(folder: Path, **changes: Any) -> Path:
    """Write the project into `folder` with top-level keys replaced; returns the configuration's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "rows.jsonl").write_text("".join(json.dumps(toy_row(n)) + "\n" for n in range(6)))
    file = folder / "toy.yaml"
    file.write_text(yaml.safe_dump(copy.deepcopy(CONFIG) | changes, sort_keys=False))
    return file


def steps(*changes: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The steps of CONFIG with keys of some of them replaced."""
    by_name = {step["name"]: dict(step) for step in copy.deepcopy(CONFIG["steps"])}
    for name, change in changes:
        by_name[name] = by_name.get(name, {"name": name}) | change
    return list(by_name.values())


def plan_of(file: Path, *overrides: str) -> tuple[Node, ...]:
    """The nodes of a configuration."""
    return build(load(file, overrides), TOY, file)


def toy_run(file: Path, *overrides: str, run_dir: Path | None = None, **options: Any) -> Plan:
    """Run in this process, quietly; the run directory lies beside the configuration."""
    config = load(file, overrides)
    nodes = build(config, TOY, file)
    return run(config, nodes, run_dir or file.parent / "run", Options(**options), say=lambda line: None)


def statuses(plan: Plan) -> dict[str, str]:
    """Step name to status."""
    return {state.node.name: str(state.status) for state in plan.states}


def r1(*arguments: str | Path, cwd: Path, wait: bool = True) -> subprocess.Popen[str]:
    """Start the toy command in a process of its own."""
    line = [sys.executable, str(ROOT / "tests" / "toy_r1.py"), *map(str, arguments)]
    child = subprocess.Popen(
        line,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job starts with SIGINT ignored, and hands that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    if wait:
        child.wait(60)
    return child


def call(*arguments: str | Path, cwd: Path) -> tuple[int, str, str]:
    """Exit code, output and errors of the toy command."""
    child = r1(*arguments, cwd=cwd, wait=False)
    out, err = child.communicate(timeout=60)
    return child.returncode, out, err


def one(found: Sequence[Path]) -> Path:
    """The only path found."""
    assert len(found) == 1, found
    return found[0]
