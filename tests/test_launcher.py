"""The command lines of children, their environment, and what becomes of a child that does not stop."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import launcher
from pipeline.config import Launch
from pipeline.launcher import ROOT, command
from stages.stage import Context

REQUEST = Path("/work/request.json")
WORKER = ["-m", "pipeline.worker", str(REQUEST)]


def line(tmp_path: Path, **launch: Any) -> list[str]:
    wanted = Launch(**launch)
    context = Context(seed=0, convention="none", work=tmp_path, placement=wanted.placement(tmp_path))
    return command(wanted, context, REQUEST)


def test_one_process_is_a_plain_child(tmp_path: Path) -> None:
    assert line(tmp_path, own_process=True) == [sys.executable, *WORKER]


@pytest.mark.parametrize(
    ("launch", "options"),
    [
        ({"accelerate_config": "a.yaml"}, ["--config_file", "{}/a.yaml"]),
        ({"deepspeed": "z.json"}, ["--use_deepspeed", "--deepspeed_config_file", "{}/z.json"]),
    ],
)
def test_one_process_with_a_file_runs_under_accelerate(
    tmp_path: Path, launch: dict[str, str], options: list[str]
) -> None:
    assert not Launch(**launch).here  # type: ignore[arg-type]
    options = [option.format(tmp_path) for option in options]
    head = [sys.executable, "-m", "accelerate.commands.launch"]
    assert line(tmp_path, **launch) == [*head, *options, "--num_processes", "1", *WORKER]


def test_several_processes_on_cpus_need_no_mpi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_has_gpu", lambda: False)
    found = line(tmp_path, processes=2)
    assert found == [
        *[sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"],
        *WORKER,
    ]


@pytest.mark.parametrize(
    ("launch", "options"),
    [
        ({"mixed_precision": "bf16"}, ["--multi_gpu", "--mixed_precision", "bf16"]),
        ({"accelerate_config": "a.yaml"}, ["--config_file", "{}/a.yaml"]),
        ({"deepspeed": "z.json"}, ["--use_deepspeed", "--deepspeed_config_file", "{}/z.json"]),
    ],
)
def test_several_processes_on_gpus_run_under_accelerate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launch: dict[str, str], options: list[str]
) -> None:
    monkeypatch.setattr(launcher, "_has_gpu", lambda: True)
    options = [option.format(tmp_path) for option in options]
    head = [sys.executable, "-m", "accelerate.commands.launch"]
    assert line(tmp_path, processes=4, **launch) == [*head, *options, "--num_processes", "4", *WORKER]


def test_accelerate_understands_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.commands.launch import launch_command_parser

    monkeypatch.setattr(launcher, "_has_gpu", lambda: True)
    for launch in ({"mixed_precision": "bf16"}, {"accelerate_config": "a.yaml"}, {"deepspeed": "z.json"}):
        parsed = launch_command_parser().parse_args(line(tmp_path, processes=4, **launch)[3:])
        assert (parsed.num_processes, parsed.module, parsed.training_script) == (4, True, "pipeline.worker")


def test_children_find_the_packages_and_their_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/mine")
    environment = launcher._environment(Launch(threads=3))
    assert environment["PYTHONPATH"] == f"{ROOT}:/mine"
    assert environment["OMP_NUM_THREADS"] == "3"


def test_threads_are_those_of_the_step_and_put_back_after_it(tmp_path: Path) -> None:
    import torch

    from data.artifact import Contract
    from pipeline.worker import perform
    from stages.stage import Outcome
    from tests.toy_stages import TOY

    seen: list[int] = []

    def count(*_: Any) -> Outcome:
        seen.append(torch.get_num_threads())
        if len(seen) == 2:
            raise RuntimeError
        return Outcome(contract=Contract())

    before = torch.get_num_threads()
    stage = replace(TOY["toy_train"], torch=True, run=count)
    for threads in (before + 1, before + 2, None):
        context = Context(
            seed=0, convention="none", work=tmp_path, placement=Launch(threads=threads).placement(tmp_path)
        )
        with suppress(RuntimeError):
            perform(stage, stage.config(), {}, tmp_path, context)
        assert torch.get_num_threads() == before
    assert seen == [before + 1, before + 2, before]


def test_a_child_that_ignores_an_interrupt_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    deaf = "import signal, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def wait(self, timeout: float | None = None) -> int:
            if not started:
                started.append(self)
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(launcher.subprocess, "Popen", Interrupted)
    monkeypatch.setattr(launcher, "SECONDS_TO_STOP", 0.3)
    with pytest.raises(KeyboardInterrupt):
        launcher._wait([sys.executable, "-c", deaf], launcher._environment(Launch()))
    assert started[0].returncode is not None
    assert started[0].returncode < 0
