"""Elastic weight consolidation: the Fisher information, the pull, when it pulls, what resumes, and what is refused."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from data.artifact import ROWS_NAME, Artifact, Kind
from data.records import write_rows
from data.tiny.world import rows
from pipeline.architecture import read_config
from pipeline.config import load
from pipeline.graph import build
from pipeline.memory import states
from pipeline.setting import Setting
from stages import STAGES
from stages.sft_mix import SFT_MIX, SftMixConfig
from stages.stage import Context, Outcome, Placement
from stages.training.anchor import Anchor, fisher_information
from stages.training.encode import Encoded
from stages.training.ewc import EWC, OldTask, old_task, refuse_sharding
from tests.chains import artifact, run
from tests.tiny_model import build_model, one_thread, save_checkpoint  # noqa: F401
from tests.toy_project import project

ITEMS = [
    Encoded([5, 6, 7, 8, 9], [0, 0, 1, 1, 1]),
    Encoded([10, 11, 12], [0, 1, 1]),
    Encoded([20, 21, 22, 23], [1, 1, 1, 1]),
]
LEARNED = 3 + 2 + 3
"""Of four masked tokens of the last item the first has nothing before it that could predict it."""


def log_probability(model: Any, item: Encoded) -> Any:
    ids_1T = torch.tensor([item.input_ids])
    logprobs = torch.log_softmax(model(input_ids=ids_1T).logits, dim=-1)[0]
    terms = [logprobs[at - 1, item.input_ids[at]] for at in range(1, len(item.input_ids)) if item.completion_mask[at]]
    return sum(terms)


def test_fisher_information_is_the_mean_of_squared_slopes() -> None:
    """Slopes by finite differences, of a few weights in each of some parameters."""
    model = build_model().double()
    found = fisher_information(model, ITEMS)
    named = list(model.named_parameters())
    assert len(found) == len(named)
    assert all(p.grad is None for _, p in named)
    assert sum(f.sum().item() > 0 for f in found) == len(named), "the data reach every parameter"
    with torch.no_grad():
        for (name, parameter), fisher in zip(named, found, strict=True):
            flat, at = parameter.view(-1), int(fisher.argmax())
            squares = 0.0
            for item in ITEMS:
                slopes = []
                for step in (1e-3, -1e-3):  # norms are computed in fp32
                    flat[at] += step
                    slopes.append(log_probability(model, item).item())
                    flat[at] -= step
                squares += ((slopes[0] - slopes[1]) / 2e-3) ** 2
            assert fisher.view(-1)[at].item() == pytest.approx(squares / LEARNED, rel=2e-2), name


def test_dropout_and_mode_are_left_as_they_were() -> None:
    model = build_model().train()
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    first, second = fisher_information(model, ITEMS), fisher_information(model, ITEMS)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert model.training


def test_the_pull_is_the_gradient_of_the_penalty() -> None:
    model = build_model().double()
    frozen = model.model.embed_tokens.weight.requires_grad_(False)
    anchor = Anchor(model, OldTask(weight=3.0, sequences=ITEMS))
    learning = [p for p in model.parameters() if p.requires_grad]
    assert [id(p) for p, *_ in anchor.terms] == [id(p) for p in learning]
    anchor.pull()
    assert anchor.penalty == 0
    assert all(p.grad.abs().sum() == 0 for p in learning), "at the start nothing pulls"
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    loss = log_probability(model, ITEMS[0])
    model.zero_grad()
    loss.backward()
    anchor.pull()
    given = [p.grad.clone() for p in learning]
    penalty = sum(1.5 * (f * (p - start) ** 2).sum() for p, start, f in anchor.terms)
    wanted = torch.autograd.grad(log_probability(model, ITEMS[0]) + penalty, learning)
    for got, want in zip(given, wanted, strict=True):
        torch.testing.assert_close(got, want)
    assert anchor.penalty == pytest.approx(penalty.item(), rel=1e-6)
    assert frozen.grad is None


KEYS: dict[str, Any] = {
    "phases": [{"name": "p", "weights": {"math": 1}}],
    "learning_rate": 3e-3,
    "batch_size": 8,
    "epochs": 2,
    "max_length": 700,
    "schedule": "constant",
}


def letters(split: str, count: int) -> list[dict[str, Any]]:
    """Rows of the world in English, in the letters that the tiny tokenizer knows."""
    fitting = (row for row in rows(split, 40 * count) if row["domain"] == "math" and row["language"] == "en")
    made = list(islice(fitting, count))
    for row in made:
        row["prompt"] = [{"role": "user", "content": row["prompt"][0]["content"].lower()[:40]}]
        row["completion"] = [{"role": "assistant", "content": row["completion"][0]["content"].lower()[:60]}]
    return made


def learn(folder: Path, *, checkpoint_steps: int = 100, **keys: Any) -> tuple[dict[str, Any], Outcome, list[Any]]:
    """Weights, outcome and history of one training, or of going on with it."""
    for name in ("model", "data", "old", "out", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder / "model")
    write_rows(folder / "data" / ROWS_NAME, letters("cold_start", 24))
    text = {"id": "t", "text": "abc def " * 20, "domain": "x", "language": "en"}
    write_rows(folder / "old" / ROWS_NAME, [*letters("sft_reasoning", 12), text])
    data, old = (Artifact(kind=Kind.DATASET, path=folder / name, fingerprint=name) for name in ("data", "old"))
    inputs = {"init": [Artifact(kind=Kind.MODEL, path=folder / "model", fingerprint="m")], "data": [data]}
    if "ewc" in keys:
        inputs["remember"] = [old]
    placement = Placement(threads=1, checkpoint_steps=checkpoint_steps)
    context = Context(seed=3, convention="think_answer", work=folder / "work", placement=placement)
    outcome = SFT_MIX.run(SftMixConfig(**{**KEYS, **keys}), inputs, folder / "out", context)
    history = [json.loads(line) for line in (folder / "work" / "history.jsonl").read_text().splitlines()]
    return load_file(folder / "out" / "model.safetensors"), outcome, history


STRONG = {"weight": 1e4, "rows": 10}


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.slow
def test_it_pulls_once_a_step_whatever_the_micro_batches(tmp_path: Path) -> None:
    plain, *_ = learn(tmp_path / "plain")
    whole, outcome, history = learn(tmp_path / "whole", ewc=STRONG)
    parts, _, in_parts = learn(tmp_path / "parts", ewc=STRONG, micro_batch_size=2)
    assert outcome.counts["sequences remembered"] == 10
    assert outcome.counts["optimiser_steps"] == 6
    penalties = [line["ewc_penalty"] for line in history if "loss" in line]
    assert penalties[0] == 0
    assert penalties[-1] > 0
    assert [line["ewc_penalty"] for line in in_parts if "loss" in line] == pytest.approx(penalties, rel=1e-2)
    assert distance(whole, parts) < 0.1 * distance(whole, plain)
    start = load_file(tmp_path / "plain" / "model" / "model.safetensors")
    assert distance(whole, plain) > 1e-3, "it makes a difference"
    assert sum(float((whole[n] - start[n]).square().sum()) for n in start) < sum(
        float((plain[n] - start[n]).square().sum()) for n in start
    )


@pytest.mark.slow
def test_it_pulls_without_clipping_too(tmp_path: Path) -> None:
    plain, *_ = learn(tmp_path / "plain", trl={"max_grad_norm": 0})
    held, *_ = learn(tmp_path / "held", trl={"max_grad_norm": 0}, ewc=STRONG)
    assert distance(plain, held) > 1e-3


class Interrupted(Exception):
    """Stands for the kill."""


@pytest.mark.slow
def test_a_killed_training_is_held_to_the_weights_that_the_step_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.training.progress import History

    unbroken, outcome, history = learn(tmp_path / "unbroken", ewc=STRONG, checkpoint_steps=2)
    log = History.on_log

    def interrupt(self: Any, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        log(self, args, state, control, logs, **kwargs)
        if state.global_step == 5:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(History, "on_log", interrupt)
        with pytest.raises(Interrupted):
            learn(tmp_path / "broken", ewc=STRONG, checkpoint_steps=2)
    resumed, after, same = learn(tmp_path / "broken", ewc=STRONG, checkpoint_steps=2)
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    assert after.counts == outcome.counts
    assert [line.get("ewc_penalty") for line in same] == [line.get("ewc_penalty") for line in history]


STEP: dict[str, Any] = {
    "stage": "sft_mix",
    "init_from": "base",
    "data_from": "rows",
    "remember_from": "rows",
    "phases": KEYS["phases"],
    "ewc": {},
}
FSDP = {"launch": {"processes": 2, "accelerate_config": "fsdp2"}}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"remember_from": None}, "ewc and remember_from belong together; ewc is there and remember_from is not"),
        ({"ewc": None}, "ewc and remember_from belong together; remember_from is there and ewc is not"),
        ({"lora": {}}, "ewc holds the weights of the model, which adapters do not change; leave one of them out"),
        ({"launch": {"processes": 2, "zero": 3}}, "ewc needs whole gradients on each process: leave out launch.accel"),
        ({"launch": {"processes": 2, "zero": 2}}, "launch.accelerate_config (zero2), or ewc"),
        ({"launch": {"processes": 2, "deepspeed": "zero3"}}, "leave out launch.deepspeed (zero3), or ewc"),
        (FSDP, "leave out launch.accelerate_config (fsdp2), or ewc"),
        (
            {"launch": {"mixed_precision": "fp16"}},
            "ewc needs gradients that are not scaled: take launch",
        ),
        ({"ewc": {"weight": 0}}, "ewc.weight: input should be greater than 0"),
        ({"ewc": {"row": 1}}, "did you mean 'rows'?"),
    ],
)
def test_refused_when_the_configuration_is_read(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    file = project(tmp_path, steps=[{"name": "s", **STEP, **keys}], evaluate=None)
    with pytest.raises(ValueError) as caught:
        build(load(file), STAGES, file)
    assert str(caught.value).startswith(f"{file}: steps.s")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_copies_on_several_processes_and_bf16_are_taken(tmp_path: Path) -> None:
    for launch in ({"processes": 2, "accelerate_config": "multi_gpu"}, {"mixed_precision": "bf16"}):
        file = project(tmp_path, steps=[{"name": "s", **STEP, "launch": launch}], evaluate=None)
        assert build(load(file), STAGES, file)
    (tmp_path / "odd.yaml").write_text("- distributed_type")
    for odd in ("odd.yaml", "missing.yaml"):  # what is wrong with them is said elsewhere
        launch = {"processes": 2, "accelerate_config": odd}
        file = project(tmp_path, steps=[{"name": "s", **STEP, "launch": launch}], evaluate=None)
        assert build(load(file), STAGES, file)


def test_a_model_that_is_shared_out_after_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_sharding(SimpleNamespace(deepspeed=None, fsdp=[]))
    with pytest.raises(ValueError, match="ewc needs whole gradients on each process: leave out deepspeed, or ewc"):
        refuse_sharding(SimpleNamespace(deepspeed="a.json", fsdp=[]))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="ewc needs whole gradients on each process: leave out fsdp, or ewc"):
        refuse_sharding(SimpleNamespace(deepspeed=None, fsdp=[]))


def test_an_old_task_without_a_usable_row_is_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model")
    write_rows(tmp_path / ROWS_NAME, rows("rl", 3))
    inputs = {
        "init": [Artifact(kind=Kind.MODEL, path=tmp_path / "model", fingerprint="m")],
        "remember": [Artifact(kind=Kind.DATASET, path=tmp_path, fingerprint="d")],
    }
    config = SftMixConfig(**KEYS, ewc=EWC())
    context = Context(seed=3, convention="think_answer", work=tmp_path)
    with pytest.raises(ValueError, match="remember_from: none of 3 rows has a completion or fits 700 tokens"):
        old_task(config, inputs, context, {})


def test_the_plan_holds_the_start_and_the_fisher_information() -> None:
    sizes = read_config(Path("data/tiny/base/config.json"))
    plain, anchored = (states(Setting(sizes=sizes, trainable=1000, anchored=on)) for on in (False, True))
    assert anchored.total - plain.total == 8 * 1000


@pytest.mark.slow
@pytest.mark.pair
def test_two_processes_are_held_like_one(tmp_path: Path) -> None:
    made = {}
    for processes in (1, 2):
        tree = {
            "models": {"base": {"path": str(Path("data/tiny/base").resolve()), "evaluate": False}},
            "data": {
                "chains": {"source": "tiny", "split": "sft_general", "rows": 32, "domains": ["general"]},
                "maths": {"source": "tiny", "split": "sft_reasoning", "rows": 8, "domains": ["math"]},
            },
            "launch": {"threads": 1, "timeout": 600, "processes": processes},
            "steps": [
                {
                    "name": "sft",
                    **STEP,
                    "phases": [{"name": "p", "weights": {"general": 1}}],
                    "data_from": "chains",
                    "remember_from": "maths",
                    "ewc": {"weight": 1e4, "rows": 7},
                    "learning_rate": 1e-3,
                    "batch_size": 8,
                }
            ],
        }
        (tmp_path / f"{processes}.yaml").write_text(yaml.safe_dump(tree))
        run(tmp_path / f"{processes}.yaml", tmp_path / str(processes))
        out = artifact(tmp_path / str(processes), "sft")
        lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
        made[processes] = ([line["ewc_penalty"] for line in lines], load_file(out / "model.safetensors"))
    assert len(made[1][0]) == 4
    assert made[1][0][0] == 0 < made[1][0][-1]
    assert made[2][0] == pytest.approx(made[1][0], rel=1e-2)
    assert distance(made[1][1], made[2][1]) < 1e-4
