"""`r1 run --dry-run`: what would run, and how it would be started; nothing is written."""

from __future__ import annotations

import shlex
from pathlib import Path

from accelerate.commands.launch import launch_command_parser

from tests.toy_project import NAMES, call, project, steps, toy_run

WIDE = {"processes": 4, "machines": 2, "zero": 3}


def lines(out: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in out.splitlines())  # type: ignore[misc]


def test_every_step_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    file = project(tmp_path, steps=steps(("second", {"launch": WIDE}), ("judge", {"launch": {"own_process": True}})))
    before = sorted(tmp_path.rglob("*"))
    code, out, error = call("run", file, "--dry-run", "--run-dir", tmp_path / "run", cwd=tmp_path)
    assert code == 0, error
    assert sorted(tmp_path.rglob("*")) == before
    told = lines(out)
    assert list(dict.fromkeys(name.partition(" on ")[0] for name in told)) == NAMES
    assert told["first"] == "in this process"
    assert shlex.split(told["judge"])[1:3] == ["-m", "pipeline.worker"]
    for rank in (0, 1):
        words = shlex.split(told[f"second on machine {rank}"])
        parsed = launch_command_parser().parse_args(words[3:])
        assert (parsed.machine_rank, parsed.num_processes, parsed.main_process_ip) == (rank, 4, "MAIN_HOST")
        assert parsed.training_script_args[0].startswith(f"{tmp_path}/run/work/second-")


def test_the_address_is_the_one_that_was_said(tmp_path: Path) -> None:
    file = project(tmp_path, steps=steps(("second", {"launch": WIDE})))
    where = ("--machine-rank", "1", "--main-address", "node7:4000")
    code, out, error = call("run", file, "--dry-run", "--only", "second", *where, cwd=tmp_path)
    assert (code, error) == (
        2,
        "r1: second reads first, which is not current (it has not been made yet); make that one first\n",
    )
    code, out, _ = call("run", file, "--dry-run", *where, cwd=tmp_path)
    assert code == 0
    assert "--main_process_ip node7 --main_process_port 4000" in lines(out)["second on machine 1"]


def test_nothing_is_left_to_do(tmp_path: Path) -> None:
    file = project(tmp_path)
    toy_run(file)
    code, out, _ = call("run", file, "--dry-run", "--run-dir", tmp_path / "run", cwd=tmp_path)
    assert (code, out) == (0, "everything is finished\n")


def test_what_would_be_refused_is_refused(tmp_path: Path) -> None:
    file = project(tmp_path, launch={"accelerate_config": "gone.yaml"})
    code, out, error = call("run", file, "--dry-run", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert "launch.accelerate_config: there is no file" in error
