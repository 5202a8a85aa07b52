"""The check of memory says what `r1 plan` says, and each way not to fit is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import cli, machine
from pipeline.check_findings import Level
from pipeline.check_memory import memory
from pipeline.check_subject import Subject
from pipeline.config import load
from pipeline.graph import build
from pipeline.machine import GIB, Gpu
from stages import STAGES
from tests.check_faults import both, cold, edit, rl, scorer, top, wrote
from tests.check_world import World

MIB = 2**20


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def told(world: World, level: Level) -> list[str]:
    """What the check of memory says, and no other."""
    world.file.write_text(yaml.safe_dump(world.tree))
    config = load(world.file)
    subject = Subject(config, build(config, STAGES, world.file), world.folder / "run")
    found = [finding.text for finding in memory(subject) if finding.level is level]
    return [text.replace(str(world.folder), "FOLDER") for text in found]


def have(monkeypatch: pytest.MonkeyPatch, *, main: int = 8 * GIB, cards: int = 0, card: int = 0) -> None:
    """A machine with so many bytes available, and so many GPUs of so many bytes."""
    monkeypatch.setattr(machine, "memory", lambda: (main, 2 * main))
    monkeypatch.setattr(machine, "gpus", lambda: (Gpu("H100", card, 9.0),) * cards)


def test_check_and_plan_have_one_estimate(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    have(monkeypatch, main=MIB)
    needed = {line.split()[0]: float(line.split()[2]) for line in told(world, Level.FAIL)}
    assert cli.main(["plan", str(world.file), "--gpu", "cpu", "--json"], STAGES) == 0
    for step in json.loads(capsys.readouterr().out)["steps"]:
        if step["trainable"]:
            planned = sum(step["memory"].get(part, 0) for part in ("weights", "gradients", "optimiser", "reference"))
            assert needed.pop(f"steps.{step['name']}") == pytest.approx(planned / MIB, abs=0.06)
    assert not needed


def test_what_a_preference_model_adds_is_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer(architectures=["Qwen2ForSequenceClassification"], id2label={"0": "score"})(world)
    have(monkeypatch, main=MIB)
    assert told(world, Level.FAIL)[1].startswith("steps.rl needs 21.0 MiB before activations, ")


@pytest.mark.parametrize(
    ("launch", "card", "line"),
    [
        (
            {"zero": 2, "processes": 2},
            12,
            "steps.rl needs 14.0 MiB before activations, on a GPU of 12.0 MiB; use lora, launch.zero: 3, or a smaller "
            "model",
        ),
        (
            {"zero": 3, "processes": 2},
            10,
            "steps.rl needs 10.5 MiB before activations, on a GPU of 10.0 MiB; use lora, more GPUs, or a smaller model",
        ),
    ],
)
def test_the_share_of_one_gpu_counts(
    world: World, monkeypatch: pytest.MonkeyPatch, launch: dict[str, Any], card: int, line: str
) -> None:
    top(launch=launch)(world)
    have(monkeypatch, cards=2, card=card * MIB)
    assert told(world, Level.FAIL) == [line]


def test_all_processes_of_a_machine_share_its_main_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not those of other machines."""
    have(monkeypatch, main=30 * MIB)
    for machines, needed in ((1, "35.0"), (2, "17.5")):
        top(launch={"processes": 2, "machines": machines})(world)
        assert (
            told(world, Level.FAIL)
            == [
                f"steps.rl needs {needed} MiB before activations, on 30.0 MiB of available memory; use lora, "
                "launch.zero: 3, or a smaller model"
            ][: 2 - machines]
        )
    top(launch={"processes": 2, "zero": 3})(world)
    have(monkeypatch, main=18 * MIB)
    assert told(world, Level.FAIL) == [
        "steps.rl needs 21.0 MiB before activations, on 18.0 MiB of available memory; use lora, more machines, or a "
        "smaller model"
    ]


def test_what_is_moved_to_the_host_must_fit_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    top(launch={"accelerate_config": "zero3_offload", "processes": 2})(world)
    have(monkeypatch, main=12 * MIB, cards=2, card=GIB)
    assert told(world, Level.FAIL) == [
        f"steps.{step} needs 14.0 MiB in the memory of the host, of which 12.0 MiB are available; use lora, more "
        "machines, or a smaller model"
        for step in ("cold_start", "rl")
    ]


def test_passes_that_do_not_fit_are_a_warning_with_what_to_do(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the rows that were seen: longer ones may be allowed, and may not be there."""
    have(monkeypatch, main=25 * MIB)
    assert not told(world, Level.FAIL)
    [sft, grpo] = told(world, Level.WARN)
    assert sft == (
        "steps.cold_start needs 45.3 MiB with rows as long as those seen, on 25.0 MiB of available memory; "
        "micro_batch_size: 1 (then 0.0 of 0.0 GiB); see r1 plan"
    )
    assert grpo.startswith("steps.rl needs ")
    both(cold(max_length=8192), rl(max_completion_tokens=900))(world)
    again = told(world, Level.WARN)
    assert again[0] == sft, "no row is that long"
    assert again[1] != grpo, "what is sampled may be as long as allowed"


def test_the_weights_of_an_unknown_decoder_are_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    edit("config.json", model_type="gpt2")(world)
    have(monkeypatch, main=2 * MIB)
    assert [line.partition(" before")[0] for line in told(world, Level.FAIL)] == [
        "steps.cold_start needs 14.0 MiB",
        "steps.rl needs 17.5 MiB",
    ]
    have(monkeypatch, main=18 * MIB)
    assert told(world, Level.WARN) == [], "nothing is known of its activations"
    both(cold(lora={}), rl(lora={}))(world)
    have(monkeypatch, main=4 * MIB)
    assert not told(world, Level.FAIL), "its weights are all that it needs"


def test_a_launch_file_that_no_estimate_knows(world: World) -> None:
    both(wrote("m.yaml", "distributed_type: MEGATRON_LM\n"), top(launch={"accelerate_config": "m.yaml"}))(world)
    assert told(world, Level.WARN) == [
        f"steps.{step}: what it needs is not known: FOLDER/m.yaml: distributed_type: MEGATRON_LM has no plan; there is "
        "one for DEEPSPEED, FSDP, MULTI_GPU, NO"
        for step in ("cold_start", "rl")
    ]
