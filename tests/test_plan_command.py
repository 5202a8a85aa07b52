"""`r1 plan` from the command line: every recipe fits, what does not fit is told what helps, mistakes are one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import cli
from stages import STAGES

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
RECIPES = sorted(file.name for pattern in ("qwen*", "llama*", "distill*") for file in CONFIGS.glob(f"{pattern}.yaml"))
ON_H200 = ("qwen2.5-32b.yaml",)


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict[str, Any]]:
    assert cli.main(["plan", *arguments, "--json"], STAGES) == 0
    return {step["name"]: step for step in json.loads(capsys.readouterr().out)["steps"]}


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["plan", *arguments], STAGES) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["plan", *arguments], STAGES) == 2
    return capsys.readouterr().err.removeprefix("r1: ").strip()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """One supervised and one reinforcement step of a 7B model on one process, nothing shared out."""
    file = tmp_path / "small.yaml"
    file.write_text(
        "sandbox: weak\n"
        "models: {base: {hub: Qwen/Qwen2.5-7B, revision: unpinned}}\n"
        "data: {rows: {source: tiny, split: rl, rows: 100}, lines: {source: records, path: lines.jsonl}}\n"
        "launch: {mixed_precision: bf16}\n"
        "steps:\n"
        "  - {name: sft, stage: cold_start, init_from: base, data_from: lines, max_length: 8192, micro_batch_size: 8, "
        "batch_size: 64, epochs: 3}\n"
        "  - {name: rl, stage: reasoning_rl, init_from: sft, data_from: rows, steps: 10, max_completion_tokens: 1000, "
        "prompts_per_step: 8, num_generations: 8, micro_batch_size: 4, reference_reset_steps: 5}\n"
        "evaluate: false\n"
    )
    (tmp_path / "lines.jsonl").write_text("{}\n\n{}\n{}\n")
    return file


def test_the_recipes_are_found() -> None:
    assert len(RECIPES) == 13


@pytest.mark.parametrize("name", RECIPES)
def test_every_step_of_a_recipe_fits_where_it_says(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    gpu = "h200" if name in ON_H200 else "h100"
    assert gpu == "h100" or f"--gpu {gpu}" in (CONFIGS / name).read_text()
    steps = planned(capsys, str(CONFIGS / name), "--gpu", gpu)
    assert [step["name"] for step in steps.values() if not step["fits"]] == []
    if "lora" in name:
        assert {step["gpus"] for step in steps.values()} == {1}
        assert steps["reasoning_rl"]["trainable"] < steps["reasoning_rl"]["parameters"] / 50


def test_the_recipes_have_the_papers_rates() -> None:
    from pipeline.config import load
    from pipeline.graph import build

    rates = {}
    for name in RECIPES:
        nodes = {node.name: node for node in build(load(CONFIGS / name), STAGES, CONFIGS / name)}
        if name.startswith("distill"):
            rates[name] = nodes["distillation"].config.learning_rate  # type: ignore[attr-defined]
            assert nodes["distillation"].config.batch_size == 64  # type: ignore[attr-defined]
        elif "lora" not in name:
            rl: Any = nodes["reasoning_rl"].config
            assert (rl.learning_rate, rl.beta, rl.epsilon, rl.num_generations) == (3e-6, 0.001, 10, 16)
            assert (rl.update_batch, rl.updates_per_generation, rl.reference_reset_steps) == (512, 16, 400)
            assert (rl.max_completion_tokens, rl.temperature) == (32768, 1)
            sft: Any = nodes["cold_start"].config
            assert (sft.learning_rate, sft.batch_size, sft.max_length) == (5e-5, 128, 32768)
            assert sft.trl["lr_scheduler_kwargs"] == {"min_lr_rate": 0.1}
    assert rates == {
        "distill-qwen2.5-1.5b.yaml": 1e-4,
        "distill-qwen2.5-7b.yaml": 8e-5,
        "distill-qwen2.5-32b.yaml": 6e-5,
        "distill-llama-3.1-8b.yaml": 5e-5,
    }


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith("distill") and name not in ON_H200])
def test_rl_of_a_recipe_samples_with_vllm_beside_the_trainer(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """At a rate that is no roofline of a single sequence, in hours that are not years."""
    steps = planned(capsys, str(CONFIGS / name), "--mean-tokens", "5355")
    for step in (steps["reasoning_rl"], steps["general_rl"]):
        assert {"vLLM", "weights", "activations"} <= set(step["memory"])
        assert step["sampling_rate"] > 1000


def test_vllm_beside_a_trainer_takes_less_than_alone(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated = ["--set", "evaluate={data_from: rows, engine: vllm, max_tokens: 16384}"]
    beside = planned(capsys, str(small), "--gpus", "8", "--set", "steps.rl.engine=vllm", *evaluated)
    assert beside["rl"]["memory"]["vLLM"] == pytest.approx(0.3 * 80 * 2**30)
    alone = beside["evaluate.rl"]["memory"]
    assert alone["weights"] + alone["KV cache"] > 0.7 * 80 * 2**30


def test_figures_of_a_step(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = planned(capsys, str(small), "--mean-tokens", "500", "--prompt-tokens", "100")
    sft, rl = steps["sft"], steps["rl"]
    assert sft["parameters"] == sft["trainable"] == 7_615_616_512
    assert sft["tokens_trained"] == 3 * 3 * 500  # the blank line of the file is no row
    assert rl["tokens_trained"] == 10 * 64 * 600
    assert rl["tokens_sampled"] == 10 * 64 * 500
    assert {"weights", "gradients", "optimiser", "reference", "activations", "KV cache"} <= set(rl["memory"])
    # 6 FLOPs a parameter and token, embedding and attention aside.
    assert sft["flops"] == pytest.approx(6 * 7.07e9 * 4500, rel=0.02)
    assert sft["training_hours"] == pytest.approx(sft["flops"] / (989e12 * 0.35) / 3600)


def test_bottlenecks_are_compared_with_a_copy_of_the_model_below(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = ("--set", "steps.rl.reference_reset_steps=null", "--set")
    full = planned(capsys, str(small), *fixed, "steps.rl.beta=0.1")["rl"]
    narrow = planned(capsys, str(small), *fixed, "steps.rl.bottleneck={}")["rl"]
    assert narrow["trainable"] == 28 * (2 * 3584 * 64 + 64 + 3584)
    assert narrow["memory"]["reference"] == full["memory"]["reference"] == 4 * 7_615_616_512
    free = planned(capsys, str(small), *fixed, "steps.rl.bottleneck={}", "--set", "steps.rl.beta=0")["rl"]
    assert not free["memory"].get("reference")


def test_flags_move_what_they_name(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = planned(capsys, str(small))["rl"]
    faster = planned(capsys, str(small), "--mfu", "0.7", "--sampling-rate", "1000")["rl"]
    assert faster["training_hours"] == pytest.approx(plain["training_hours"] / 2)
    assert faster["sampling_hours"] == pytest.approx(plain["tokens_sampled"] / 1000 / 3600)
    assert planned(capsys, str(small), "--gpus", "8")["rl"]["gpus"] == 8
    assert planned(capsys, str(small), "--gpu-memory", "500", "--gpus", "1")["sft"]["fits"] is False
    assert planned(capsys, str(small), "--gpu-memory", "900", "--gpus", "1")["sft"]["fits"] is True
    shorter = planned(capsys, str(small), "--longest-tokens", "100")["sft"]
    assert shorter["memory"]["activations"] < planned(capsys, str(small))["sft"]["memory"]["activations"] / 10
    more = planned(capsys, str(small), "--rows", "lines=30")["sft"]
    assert more["tokens_trained"] == 10 * planned(capsys, str(small))["sft"]["tokens_trained"]


def test_what_does_not_fit_is_told_the_least_that_helps(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the change that it names makes it fit."""
    steps = planned(capsys, str(small), "--gpus", "8")
    assert not steps["sft"]["fits"]
    assert steps["sft"]["remedy"].startswith(
        "launch.gradient_checkpointing: true, launch.accelerate_config: zero2 (then "
    )
    changed = ["--set", "launch.gradient_checkpointing=true", "--set", "launch.accelerate_config=zero2"]
    after = planned(capsys, str(small), "--gpus", "8", *changed)["sft"]
    assert after["fits"]
    assert f"(then {after['memory_total'] / 2**30:.1f} of" in steps["sft"]["remedy"]
    text = said(capsys, str(small), "--gpus", "8")
    assert "Does not fit; do this:\n  sft: launch.gradient_checkpointing: true" in text
    assert "Every step fits." in said(capsys, str(small), "--gpus", "8", "--gpu-memory", "900")


@pytest.mark.parametrize(
    ("memory", "remedy"),
    [
        ("900", None),
        ("500", "micro_batch_size: 4 (then"),
        ("200", "launch.gradient_checkpointing: true (then"),
        ("150", "launch.gradient_checkpointing: true, micro_batch_size: 4 (then"),
        ("80", "launch.gradient_checkpointing: true, launch.accelerate_config: zero3_offload (then"),
        ("20", "launch.accelerate_config: zero3_offload, lora: {rank: 16} (then"),
        ("3", "nothing helps; take a shorter length"),
    ],
)
def test_less_memory_asks_for_more(small: Path, memory: str, remedy: str | None, capsys: Any) -> None:
    step = planned(capsys, str(small), "--gpu-memory", memory)["sft"]
    assert step["fits"] is (remedy is None)
    assert (step["remedy"] is None) if remedy is None else (remedy in step["remedy"])


def test_modules_of_multi_token_prediction_are_counted_and_given_up_before_the_model_is_shared_out(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ahead = ["--set", "steps.sft.mtp.depth=2", "--gpu-memory"]
    plain, sft = (
        planned(capsys, str(small), "--gpu-memory", "900")["sft"],
        planned(capsys, str(small), *ahead, "900")["sft"],
    )
    module = 233_057_792 + 2 * 3584**2 + 3 * 3584  # a layer of Qwen2.5-7B, a projection, three norms
    assert sft["parameters"] - plain["parameters"] == sft["trainable"] - plain["trainable"] == 2 * module
    assert sft["memory"]["optimiser"] - plain["memory"]["optimiser"] == 8 * 2 * module
    assert sft["memory"]["activations"] > plain["memory"]["activations"] * 30 / 28
    assert sft["flops"] == pytest.approx(plain["flops"] * (1 + 2 * (module + 545e6) / 7.07e9), rel=0.02)
    assert "micro_batch_size: 4 (then" in planned(capsys, str(small), *ahead, "500")["sft"]["remedy"]
    remedy = planned(capsys, str(small), *ahead, "80")["sft"]["remedy"]
    assert "launch.accelerate_config: zero3_offload, mtp: null (then" in remedy
    remedy = planned(capsys, str(small), *ahead, "20")["sft"]["remedy"]
    assert "zero3_offload, mtp: null, lora: {rank: 16} (then" in remedy


@pytest.mark.parametrize(
    ("keys", "never"),
    [
        ({"ewc": {}, "remember_from": "rows"}, ("zero", "fsdp", "lora")),
        ({"prefix_tuning": {}}, ("zero", "fsdp", "gradient_checkpointing")),
        ({"bottleneck": {}}, ("zero", "fsdp")),
        ({"lora": {"dora": True}}, ("zero", "fsdp")),
    ],
)
def test_no_remedy_is_one_that_the_step_refuses(
    small: Path, keys: dict[str, Any], never: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """The step as it would be after the remedy can be built."""
    tree = yaml.safe_load(small.read_text())
    step = tree["steps"][0]
    phases = [{"name": "all", "weights": {"math": 1}}]
    small.write_text(yaml.safe_dump({**tree, "steps": [{**step, "stage": "sft_mix", "phases": phases, **keys}]}))
    for memory in ("20", "80", "140"):
        remedy = planned(capsys, str(small), "--gpu-memory", memory)["sft"]["remedy"] or ""
        assert not any(word in remedy for word in never)


def test_copies_of_rows_are_counted(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = yaml.safe_load(small.read_text())
    tree["steps"][0]["data_from"] = "rows"
    small.write_text(yaml.safe_dump(tree))
    once = planned(capsys, str(small))["sft"]["tokens_trained"]
    tree["data"]["rows"] |= {"augment": {"methods": ["paraphrase", "synonyms"], "copies": 3}}
    small.write_text(yaml.safe_dump(tree))
    assert planned(capsys, str(small))["sft"]["tokens_trained"] == pytest.approx(7 * once, rel=0.01)
    assert "rows: 100 rows and their copies, 700 at most (augment)" in said(capsys, str(small))


def test_a_sampler_that_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    config = str(CONFIGS / "qwen2.5-7b.yaml")
    step = planned(capsys, config, "--gpu-memory", "16")["rejection_sampling"]
    assert "tensor_parallel_size: " in step["remedy"]
    assert "with engine: vllm" in step["remedy"]


def test_a_server_needs_no_memory_here(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = small.read_text().replace(
        "evaluate: false",
        "evaluate: {data_from: rows, engine: vllm_server, engine_options: {urls: ['http://a:1', 'http://b:1']}}",
    )
    small.write_text(text)
    step = planned(capsys, str(small), "--sampling-rate", "100")["evaluate.sft"]
    assert step["memory"] == {}
    assert step["gpus"] == 0
    assert step["sampling_hours"] == pytest.approx(step["tokens_sampled"] / 200 / 3600)
    assert "sampled from servers" in said(capsys, str(small))


def test_the_embedded_run(capsys: pytest.CaptureFixture[str]) -> None:
    steps = planned(capsys, str(CONFIGS / "tiny.yaml"), "--gpu", "cpu", "--longest-tokens", "300")
    assert all(step["fits"] for step in steps.values())
    assert steps["cold_start"]["parameters"] == 918_016
    assert steps["distillation"]["model"] == "student"
    assert steps["sft_final"]["tokens_trained"] > 0


MISTAKES = [
    (["--gpu", "h10"], "--gpu: unknown accelerator 'h10'; did you mean 'h100'?"),
    (["--gpu-memory", "-1"], "--gpu-memory: expected GiB above 0, got -1"),
    (["--gpus", "0"], "--gpus: expected a number above 0, got 0"),
    (["--mfu", "0"], "--mfu: expected a number above 0, got 0"),
    (["--rows", "many"], "--rows many: expected N or DATA=N, a whole number above 0"),
    (["--rows", "row=5"], "--rows: unknown data set 'row'; did you mean 'rows'?"),
    (["--model", "base"], "--model base: expected NAME=PATH"),
    (["--model", "bass=x"], "--model: unknown model 'bass'; did you mean 'base'?"),
    (["--model", "base=nowhere.json"], "models.base: nowhere.json: there is no such file"),
    (["--gpus", "7"], "steps.sft: a batch of 64 sequences does not divide by 7 processes; say --gpus"),
    (
        ["--set", "models.base.hub=some/Model"],
        "models.base: the sizes of some/Model are not built in; known: ",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_is_one_line(small: Path, arguments: list[str], message: str, capsys: Any) -> None:
    line = refused(capsys, str(small), *arguments)
    assert line.startswith(message)
    assert "\n" not in line


def test_a_config_json_stands_in_for_sizes_that_are_not_built_in(small: Path, capsys: Any) -> None:
    given = f"base={ROOT / 'data' / 'tiny' / 'base' / 'config.json'}"
    steps = planned(capsys, str(small), "--set", "models.base.hub=some/Model", "--model", given)
    assert steps["sft"]["parameters"] == 918_016


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys\nfrom pipeline import cli\n"
        "assert cli.main(['plan', 'configs/qwen2.5-7b.yaml', '--gpu-memory', '40']) == 0\n"
        "assert not {'torch', 'transformers', 'deepspeed'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_a_preference_model_that_starts_from_an_encoder_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import BertConfig, BertForMaskedLM

    settings = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    model = BertForMaskedLM(settings)
    model.save_pretrained(tmp_path / "bert")
    file = tmp_path / "pairs.yaml"
    file.write_text(
        "models: {judge: {path: bert}}\n"
        "data: {pairs: {source: tiny, split: preference, rows: 60}}\n"
        "evaluate: false\n"
        "steps: [{name: preference_model, stage: preference_model, init_from: judge, data_from: pairs}]\n"
    )
    capsys.readouterr()  # transformers' bar
    step = planned(capsys, str(file))["preference_model"]
    count = sum(p.numel() for p in model.parameters())
    assert abs(step["parameters"] - count) < 0.1 * count, "the head of masked words is not that of the score"
    assert step["memory"]["optimiser"] == 8 * step["parameters"]
    assert "preference_model: of an encoder model only weights, gradients and optimiser" in said(capsys, str(file))
    for weights in (tmp_path / "bert").glob("*.safetensors"):
        weights.unlink()
    assert "an encoder is planned by its weights, and no *.safetensors lie beside it" in refused(capsys, str(file))
