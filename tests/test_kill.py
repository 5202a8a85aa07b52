"""kill -9 at several points, then the same command: finished steps stay, the rest ends as an unbroken run ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.toy_project import NAMES, call, one, project, r1, steps

SLOW = 0.05
"""Seconds that a toy step takes, so that there is a middle to be killed in."""

OVERRIDES = [f"--set=steps.{name}.step_seconds={SLOW}" for name in ("first", "second")] + ["--set=steps.second.steps=8"]


def numbers(run: Path) -> dict[str, str]:
    """Content of every checkpoint, and what was measured."""
    found = {p.parent.name: p.read_text() for p in (run / "artifacts").glob("*/numbers.json")}
    summary = json.loads((run / "summary.json").read_text())
    return found | {entry["name"]: json.dumps(entry["metrics"]) for entry in summary["steps"]}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a run without a kill makes."""
    folder = tmp_path_factory.mktemp("unbroken")
    code, _, error = call("run", project(folder), "--run-dir", folder / "run", *OVERRIDES, cwd=folder)
    assert code == 0, error
    return numbers(folder / "run")


def wait_for(child: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert child.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def steps_logged(run: Path, name: str) -> int:
    log = run / "work" / "steps.log"
    return sum(line.startswith(name) for line in log.read_text().splitlines()) if log.exists() else 0


POINTS: dict[str, Callable[[Path], bool]] = {
    "in the first training": lambda run: steps_logged(run, "first") >= 2,
    "with half an output": lambda run: any((run / "artifacts").glob(".second-*/half")),
    "in the second training": lambda run: steps_logged(run, "second") >= 4,
    "after the last model": lambda run: any((run / "artifacts").glob("second-*")),
}


@pytest.mark.parametrize("point", POINTS)
def test_kill_and_go_on(tmp_path: Path, unbroken: dict[str, str], point: str) -> None:
    run = tmp_path / "run"
    command = ("run", project(tmp_path), "--run-dir", run, *OVERRIDES)
    child = r1(*command, cwd=tmp_path, wait=False)
    wait_for(child, lambda: POINTS[point](run))
    child.kill()
    child.communicate()
    finished = {path.name for path in (run / "artifacts").iterdir() if not path.name.startswith(".")}
    trained = steps_logged(run, "second")

    code, out, error = call(*command, cwd=tmp_path)
    assert code == 0, error
    assert numbers(run) == unbroken
    assert not list((run / "artifacts").glob(".*")), "nothing half-made is left"
    assert not [p for p in (run / "work").iterdir() if p.is_dir()]
    assert not any(f"] {name.rpartition('-')[0]}: done" in out for name in finished), "finished steps are kept"
    if point == "in the second training":
        record = json.loads(one(list((run / "artifacts").glob("second-*/record.json"))).read_text())
        assert record["counts"]["resumed_at"] >= 3, "training goes on from its checkpoint"
        assert steps_logged(run, "second") - trained <= 8 - 3


@pytest.mark.slow
def test_several_kills_in_a_row(tmp_path: Path, unbroken: dict[str, str]) -> None:
    run = tmp_path / "run"
    command = ("run", project(tmp_path), "--run-dir", run, *OVERRIDES)
    for wanted in (1, 5):
        child = r1(*command, cwd=tmp_path, wait=False)
        wait_for(child, lambda wanted=wanted: steps_logged(run, "second") >= wanted)  # type: ignore[misc]
        child.kill()
        child.communicate()
    assert call(*command, cwd=tmp_path)[0] == 0
    assert numbers(run) == unbroken


def test_kill_leaves_no_child_behind(tmp_path: Path, unbroken: dict[str, str]) -> None:
    """A step in a process of its own dies with its runner and goes on with the next one."""
    run = tmp_path / "run"
    changed = steps(("second", {"launch": {"own_process": True}}))
    command = ("run", project(tmp_path, steps=changed), "--run-dir", run, *OVERRIDES)
    child = r1(*command, cwd=tmp_path, wait=False)
    wait_for(child, lambda: steps_logged(run, "second") >= 2)
    workers = [int(p) for p in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()]
    assert workers
    child.kill()
    child.communicate()
    deadline = time.monotonic() + 10
    while any(running(worker) for worker in workers):
        assert time.monotonic() < deadline, "the child outlived its runner"
        time.sleep(0.01)
    assert call(*command, cwd=tmp_path)[0] == 0
    assert numbers(run) == unbroken


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("launch", [{}, {"own_process": True}])
def test_interrupt_says_how_to_go_on(tmp_path: Path, unbroken: dict[str, str], launch: dict[str, bool]) -> None:
    run = tmp_path / "run"
    changed = steps(("second", {"launch": launch}))
    command = ("run", project(tmp_path, steps=changed), "--run-dir", run, *OVERRIDES)
    child = r1(*command, cwd=tmp_path, wait=False)
    wait_for(child, lambda: steps_logged(run, "second") >= 2)
    os.kill(child.pid, signal.SIGINT)
    _, error = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "Interrupted. What is finished stays; go on with: r1 run " in error
    assert "Traceback" not in error
    assert call(*command, cwd=tmp_path)[0] == 0
    assert numbers(run) == unbroken


def test_a_second_runner_of_the_same_directory_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ("run", project(tmp_path), "--run-dir", run, "--set=steps.first.step_seconds=20")
    child = r1(*command, cwd=tmp_path, wait=False)
    wait_for(child, lambda: steps_logged(run, "first") >= 1)
    code, _, error = call(*command, cwd=tmp_path)
    child.kill()
    child.communicate()
    assert code == 2
    assert error.startswith(f"r1: {run} is in use: process {child.pid} on ")
    assert error.count("\n") == 1


def test_names_are_those_of_the_plan(unbroken: dict[str, str]) -> None:
    """The comparison above compares something."""
    assert set(NAMES) < set(unbroken)
    assert sum(len(json.loads(text)) for key, text in unbroken.items() if key.startswith("second-")) == 8
