"""A run whose student has an encoder: what is refused before it, what is planned, what it learns and then says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli
from pipeline.check_findings import Level
from stages import STAGES
from stages.preference_model import PreferenceModelConfig
from stages.rollout.engine import Sampling, open_engine
from stages.training.models import load_classifier, load_scoring_tokenizer
from tests.chains import artifact
from tests.check_world import World, chain, problem
from tests.tiny_encoder_decoder import save_student
from tests.tiny_model import one_thread  # noqa: F401

DISTILLATION: dict[str, Any] = {
    "name": "distillation",
    "stage": "distillation",
    "init_from": "student",
    "data_from": "chains",
    "batch_size": 4,
    "max_length": 256,
}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A T5 student that learns chains, and a causal teacher beside it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    world = World(tmp_path)
    save_student(tmp_path / "student", "t5")
    world.tree["models"]["student"] = {"path": "student", "evaluate": False}
    world.tree["steps"] = [dict(DISTILLATION)]
    return world


def wrong(world: World) -> list[str]:
    return [line.detail for line in world.check() if line.level is Level.FAIL]


def refused(world: World, command: str, capsys: pytest.CaptureFixture[str]) -> str:
    world.check()  # writes the configuration
    arguments = ["--run-dir", str(world.folder / "run")] if command == "run" else []
    assert cli.main([command, str(world.file), *arguments], STAGES) == 2
    assert not (world.folder / "run").exists(), "nothing was begun"
    return capsys.readouterr().err.removeprefix("r1: ").strip()


def test_a_sound_student_passes_every_check(world: World) -> None:
    world.step("distillation", teacher_from="base", prompts_from="problems", lora={"rank": 4})
    world.step("distillation", teacher={"max_tokens": 64})
    lines = {line.name: line for line in world.check()}
    assert {line.level for line in lines.values()} == {Level.OK}, lines
    assert "last label is EOS" in lines["labels"].detail
    assert lines["parameters"].detail == "1 steps name parameters, and the models have them"
    assert "distillation needs" in lines["memory"].detail


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "sft": (
        {"stage": "cold_start"},
        ": cold_start takes causal models only, and the model has an encoder (t5); distillation trains it",
    ),
    "mix": (
        {"stage": "sft_mix", "phases": [{"name": "all", "weights": {"math": 1}}]},
        ": sft_mix takes causal models only, and the model has an encoder (t5); distillation trains it",
    ),
    "rl": (
        {"stage": "reasoning_rl", "data_from": "problems", "batch_size": None, "max_length": None},
        ": reasoning_rl takes causal models only, and the model has an encoder (t5); distillation trains it",
    ),
    "general": (
        {"stage": "general_rl", "data_from": "problems", "batch_size": None, "max_length": None},
        ": general_rl takes causal models only, and the model has an encoder (t5); distillation trains it",
    ),
    "preference": (
        {"stage": "preference_model", "data_from": "pairs"},
        ": preference_model takes causal models only, and the model has an encoder (t5); distillation trains it",
    ),
    "safety": (
        {"stage": "safety_model", "data_from": "pairs"},
        ": safety_model takes causal models only, and the model has an encoder (t5); distillation trains it",
    ),
    "mtp": (
        {"mtp": {"depth": 1}},
        ".mtp: it is made for causal models, and the student has an encoder (t5); leave it out",
    ),
    "prefix": (
        {"prefix_tuning": {}},
        ".prefix_tuning: it is made for causal models, and the student has an encoder (t5); leave it out",
    ),
    "bottleneck": (
        {"bottleneck": {}},
        ".bottleneck: it is made for causal models, and the student has an encoder (t5); leave it out",
    ),
    "zero": (
        {"launch": {"processes": 2, "zero": 3}},
        ".launch: ZeRO-3 shares out causal models only, and the student has an encoder (t5); "
        "leave zero, deepspeed and accelerate_config out",
    ),
    "fsdp": (
        {"launch": {"processes": 2, "accelerate_config": "fsdp2"}},
        ".launch: FSDP2 shares out causal models only, and the student has an encoder (t5); "
        "leave zero, deepspeed and accelerate_config out",
    ),
    "trl": ({"trl": {"packing": True}}, ": trl.packing is no argument of Seq2SeqTrainingArguments"),
    "teacher": (
        {"teacher_from": "student", "prompts_from": "problems"}
        | {"teacher": {"engine": "vllm_server", "engine_options": {"urls": ["http://127.0.0.1:9"]}}},
        ".teacher.engine: vllm_server samples causal models only, and student has an encoder (t5); "
        "take engine: transformers",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_model_with_an_encoder_cannot_is_refused_before_anything_runs(
    world: World, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, line = WRONG[case]
    world.tree["data"]["pairs"] = {"source": "records", "path": "pairs.jsonl"}
    sides = {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    world.rows("pairs", [problem(n, **sides) for n in range(20)])
    world.step("distillation", **keys)
    [step] = world.tree["steps"]
    world.tree["steps"] = [{key: value for key, value in step.items() if value is not None}]
    assert f"steps.distillation{line}" in wrong(world)
    assert refused(world, "run", capsys) == f"steps.distillation{line}"


def test_a_student_s_descendants_are_followed_back_to_it(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.tree["steps"].append({**DISTILLATION, "name": "again", "stage": "cold_start", "init_from": "distillation"})
    line = "steps.again: cold_start takes causal models only, and the model has an encoder (t5); distillation trains it"
    assert line in wrong(world)
    assert refused(world, "run", capsys) == line
    assert cli.main(["run", str(world.file), "--dry-run", "--run-dir", str(world.folder / "run")], STAGES) == 2


def test_a_classifier_is_not_made_of_one_that_was_not_at_hand_before(tmp_path: Path) -> None:
    """A model of the Hub is first looked at by its step."""
    path = save_student(tmp_path / "student", "bart")
    with pytest.raises(ValueError, match=r"takes causal models only, .* has an encoder \(bart\)"):
        load_classifier(path, PreferenceModelConfig(), load_scoring_tokenizer(path), 0)


def test_a_decoder_without_a_start_is_found_before_the_run(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    save_student(world.folder / "student", "t5", decoder_start_token_id=None)
    line = (
        "steps.distillation: the student's config.json has no decoder_start_token_id, from which its decoder learns "
        "to write"
    )
    assert wrong(world) == [line]
    assert refused(world, "run", capsys) == line


def test_a_model_of_the_hub_is_looked_at_where_it_was_fetched_before(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import file_download

    revision = "a" * 40
    world.tree["models"]["student"] = {"hub": "some/student", "revision": revision}
    world.step("distillation", stage="cold_start")
    monkeypatch.setattr(file_download.constants, "HF_HUB_CACHE", str(world.folder / "hub"))
    snapshot = world.folder / "hub" / "models--some--student" / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text((world.folder / "student" / "config.json").read_text())
    line = "steps.distillation: cold_start takes causal models only, and the model has an encoder (t5)"
    assert refused(world, "run", capsys).startswith(line)
    (snapshot / "config.json").unlink()
    world.file.with_name("run").mkdir()  # nothing to look at: the run begins, and cannot fetch the model
    assert cli.main(["run", str(world.file), "--run-dir", str(world.folder / "run")], STAGES) == 2
    assert "has an encoder" not in capsys.readouterr().err


def test_evaluation_of_a_student_samples_with_transformers(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"urls": ["http://127.0.0.1:9"]}
    world.tree["evaluate"] = {"data_from": "problems", "engine": "vllm_server", "engine_options": options}
    line = "engine: vllm_server samples causal models only, and distillation has an encoder (t5)"
    assert any(f"evaluate.{line}" in found for found in wrong(world))
    assert f"evaluate.distillation.{line}" in refused(world, "run", capsys)


def test_names_that_the_student_does_not_have_are_found(world: World) -> None:
    world.step("distillation", freeze={"names": ["EncDecAttention", "cross_attn"]})
    assert wrong(world) == ["steps.distillation: freeze.names: no parameter matches 'cross_attn'"]


def test_positions_of_t5_are_no_bound_and_those_of_bart_a_warning(world: World) -> None:
    world.rows("chains", [chain(n) for n in range(4)])
    save_student(world.folder / "student", "t5", n_positions=8)
    assert wrong(world) == []
    save_student(world.folder / "student", "bart", max_position_embeddings=8)
    told = [line.detail for line in world.check() if line.level is Level.WARN]
    assert any("is longer than the 8 positions of the model; set max_length to 8" in line for line in told)


def test_the_plan_counts_the_weights_and_says_what_it_cannot(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file

    world.tree["evaluate"] = {"data_from": "problems"}
    world.step("distillation", teacher_from="base", prompts_from="problems")
    world.check()
    assert cli.main(["plan", str(world.file), "--json"], STAGES) == 0
    steps = {step["name"]: step for step in json.loads(capsys.readouterr().out)["steps"]}
    weights = load_file(world.folder / "student" / "model.safetensors")
    count = sum(tensor.numel() for tensor in weights.values())
    planned = steps["distillation"]
    assert planned["parameters"] == planned["trainable"] == count
    parts = {name: size for name, size in planned["memory"].items() if name in ("gradients", "optimiser")}
    assert parts == {"gradients": 4 * count, "optimiser": 8 * count}
    assert planned["tokens_sampled"] > 0
    assert steps["evaluate.distillation"]["memory"] == {"weights": 4 * count}
    assert cli.main(["plan", str(world.file)], STAGES) == 0
    said = capsys.readouterr().out
    for name in ("distillation", "evaluate.distillation"):
        assert f"{name}: of an encoder-decoder model only weights, gradients and optimiser are counted" in said
    assert cli.main(["plan", str(world.file), "--gpu-memory", "0.0001"], STAGES) == 0
    assert "distillation: take a smaller model, or accelerators with more memory" in capsys.readouterr().out
    (world.folder / "student" / "model.safetensors").unlink()
    assert cli.main(["plan", str(world.file)], STAGES) == 2
    line = "an encoder-decoder model is planned by its weights, and no *.safetensors lie beside it"
    assert line in capsys.readouterr().err


@pytest.mark.slow
def test_a_student_learns_its_rows_by_heart_and_says_them(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    """Through the run of the command: exact texts prove that training and sampling agree, prefilled tag included."""
    rows = [chain(n) for n in (1, 8, 17, 30)]
    world.rows("chains", rows)
    world.rows("problems", [problem(n) for n in (1, 8, 17, 30)])
    save_student(world.folder / "student", "t5", width=32)
    world.tree |= {"prefill": True, "launch": {"threads": 1, "reward_workers": 1}}
    world.tree["evaluate"] = {"data_from": "problems", "temperature": 0, "max_tokens": 48}
    world.tree["models"]["student"]["evaluate"] = True
    world.step("distillation", epochs=100, learning_rate=1e-2, schedule="constant", batch_size=4)
    world.check()
    run = world.folder / "run"
    assert cli.main(["run", str(world.file), "--run-dir", str(run)], STAGES) == 0, capfd.readouterr().err
    figures = {e["name"]: e["metrics"] for e in json.loads((run / "summary.json").read_text())["steps"]}
    assert figures["evaluate.student"]["accuracy"]["value"] == 0
    assert figures["evaluate.distillation"]["accuracy"]["value"] == 1
    assert figures["evaluate.distillation"]["truncated"]["value"] == 0
    with open_engine("transformers", artifact(run, "distillation"), prefill="<think>\n") as engine:
        said = engine.generate([row["prompt"] for row in rows], Sampling(max_tokens=48, temperature=0))
    assert ["<think>\n" + completion.text for [completion] in said] == [r["completion"][0]["content"] for r in rows]
    assert all(completion.finished for [completion] in said)


@pytest.mark.slow
@pytest.mark.pair
def test_two_processes_reach_the_curve_of_one(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    world.rows("chains", [chain(n) for n in range(12)])
    world.step("distillation", learning_rate=3e-3, micro_batch_size=4)
    world.check()
    curves = []
    for processes in (1, 2):
        run = world.folder / f"run{processes}"
        sets = ["--set", f"launch.processes={processes}", "--set", "launch.threads=1"]
        assert cli.main(["run", str(world.file), "--run-dir", str(run), *sets], STAGES) == 0, capfd.readouterr().err
        lines = [
            json.loads(line) for line in (artifact(run, "distillation") / "history.jsonl").read_text().splitlines()
        ]
        curves.append([(line["loss"], line["grad_norm"]) for line in lines if "loss" in line])
    assert len(curves[0]) == 6
    for one, other in zip(*curves, strict=True):
        assert other == pytest.approx(one, rel=1e-3)
