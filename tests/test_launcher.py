"""The command lines of children, their environment, and what becomes of a child that does not stop."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from pipeline import launcher
from pipeline.config import Launch
from pipeline.launch_files import names, resolve
from pipeline.launcher import ROOT, command, files_of
from pipeline.machines import Machine
from stages.stage import Context

REQUEST = Path("/work/request.json")
WORKER = ["-m", "pipeline.worker", str(REQUEST)]
HEAD = [sys.executable, "-m", "pipeline.accelerate_launch"]
FILES = [
    ({"accelerate_config": "a.yaml"}, ["--config_file", "{}/a.yaml"]),
    ({"deepspeed": "z.json"}, ["--use_deepspeed", "--deepspeed_config_file", "{}/z.json"]),
    ({"zero": 3}, ["--config_file", f"{ROOT}/configs/accelerate/zero3.yaml"]),
    ({"deepspeed": "zero2"}, ["--use_deepspeed", "--deepspeed_config_file", f"{ROOT}/configs/deepspeed/zero2.json"]),
]


def line(tmp_path: Path, machine: Machine | None = None, **launch: Any) -> list[str]:
    wanted = Launch(**launch)
    return command(wanted, files_of(wanted, wanted.placement(tmp_path)), REQUEST, machine)


def test_one_process_is_a_plain_child(tmp_path: Path) -> None:
    assert line(tmp_path, own_process=True) == [sys.executable, *WORKER]


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize(("launch", "options"), FILES)
def test_a_file_is_handed_to_accelerate(
    tmp_path: Path, launch: dict[str, Any], options: list[str], processes: int
) -> None:
    assert not Launch(**launch).here
    (tmp_path / "a.yaml").write_text("distributed_type: FSDP")
    found = line(tmp_path, processes=processes, mixed_precision="bf16", **launch)
    options = [option.format(tmp_path) for option in options]
    assert found[: 3 + len(options)] == [*HEAD, *options]
    parsed = launch_command_parser().parse_args(found[3:])
    assert (parsed.num_processes, parsed.num_machines, parsed.mixed_precision) == (processes, 1, "bf16")
    assert found[-3:] == WORKER


def test_a_deepspeed_file_is_looked_for_beside_the_file_that_names_it(tmp_path: Path) -> None:
    """As `r1 plan` and `r1 check` read it; accelerate by itself would look in its working directory."""
    (tmp_path / "a.yaml").write_text("distributed_type: DEEPSPEED\ndeepspeed_config: {deepspeed_config_file: z.json}")
    found = line(tmp_path, processes=2, accelerate_config="a.yaml")
    assert found[3:7] == ["--config_file", f"{tmp_path}/a.yaml", "--deepspeed_config_file", f"{tmp_path}/z.json"]
    parsed = launch_command_parser().parse_args(found[3:])
    arguments, *_ = _validate_launch_command(parsed)
    assert arguments.deepspeed_config_file == f"{tmp_path}/z.json", "over what the file says"


def test_several_processes_without_a_file_are_data_parallel(tmp_path: Path) -> None:
    found = line(tmp_path, processes=2)
    assert found[:4] == [*HEAD, "--multi_gpu"]
    parsed = launch_command_parser().parse_args(found[3:])
    assert (parsed.num_processes, parsed.main_process_port) == (2, 0), "a free port of its own"
    assert (parsed.module, parsed.training_script, parsed.training_script_args) == (
        True,
        "pipeline.worker",
        [str(REQUEST)],
    )


@pytest.mark.parametrize("launch", [{}, {"zero": 3}, {"deepspeed": "z.json"}])
def test_a_machine_knows_its_rank_and_where_the_ranks_meet(tmp_path: Path, launch: dict[str, Any]) -> None:
    machine = Machine(rank=1, main_host="10.0.0.1", main_port=29500)
    parsed = launch_command_parser().parse_args(line(tmp_path, machine, processes=4, machines=2, **launch)[3:])
    assert (parsed.num_processes, parsed.num_machines, parsed.machine_rank) == (4, 2, 1)
    assert (parsed.main_process_ip, parsed.main_process_port) == ("10.0.0.1", 29500)
    assert parsed.same_network
    assert parsed.deepspeed_multinode_launcher == ("standard" if launch else None)


@pytest.mark.parametrize("name", ["cpu", "multi_gpu", "zero2", "zero3", "zero3_offload", "fsdp2"])
def test_a_bundled_file_is_one_that_accelerate_reads(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import DistributedType

    config = load_config_from_file(str(resolve("accelerate_config", name, Path("/"))))
    kinds = {"fsdp2": DistributedType.FSDP, "cpu": DistributedType.MULTI_GPU, "multi_gpu": DistributedType.MULTI_GPU}
    assert config.distributed_type == kinds.get(name, DistributedType.DEEPSPEED)
    assert name in names("accelerate_config")


def test_every_bundled_file_of_deepspeed_leaves_to_the_step_what_is_the_step_s() -> None:
    assert names("deepspeed") == ["zero2", "zero3", "zero3_offload"]
    for name in names("deepspeed"):
        config = json.loads(resolve("deepspeed", name, Path("/")).read_text())
        assert config["zero_optimization"]["stage"] == int(name[4])
        assert config["bf16"]["enabled"] == config["fp16"]["enabled"] == config["gradient_clipping"] == "auto"
        assert config["train_batch_size"] == config["gradient_accumulation_steps"] == "auto"


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


DEAF = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"


def test_a_child_that_ignores_an_interrupt_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "SECONDS_TO_STOP", 0.3)
    child = launcher.start([sys.executable, "-c", DEAF], Launch())

    def interrupted() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        child.wait(interrupted)
    assert child.process.returncode is not None
    assert child.process.returncode < 0


def test_a_child_whose_rank_broke_is_killed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "SECONDS_TO_REPORT", 0.3)
    assert launcher.start([sys.executable, "-c", DEAF], Launch()).wait(lambda: True) == -signal.SIGKILL


def test_a_broken_rank_is_seen_in_its_report_or_that_of_its_launcher(tmp_path: Path) -> None:
    assert not launcher.broken(tmp_path)
    (tmp_path / "result.json").write_text("{}")
    assert not launcher.broken(tmp_path)
    (tmp_path / "exits.0.json").write_text("{}")
    assert launcher.broken(tmp_path)
    (tmp_path / "exits.0.json").unlink()
    (tmp_path / "result.1.json").write_text('{"error": {}}')
    assert launcher.broken(tmp_path)
