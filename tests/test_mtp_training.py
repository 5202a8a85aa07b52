"""Multi-token prediction in a step: batches, resuming, early stopping, ranks, what is saved, and that modules learn."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from data.artifact import ROWS_NAME, Artifact, Kind
from data.records import write_rows
from data.tiny.world import rows
from stages.cold_start import COLD_START, ColdStartConfig
from stages.stage import Context, Outcome, Placement
from stages.training.early_stopping import EarlyStopping
from stages.training.mtp import MTP
from tests.chains import artifact, run
from tests.check_world import World
from tests.test_early_stopping import held_of, loss_of
from tests.tiny_model import one_thread  # noqa: F401

BASE = Artifact(kind=Kind.MODEL, path=Path("data/tiny/base"), fingerprint="base", name="base")
KEYS: dict[str, Any] = {"learning_rate": 1e-3, "epochs": 1, "batch_size": 8, "mtp": MTP(depth=2, weight=0.3)}
FIGURES = ("loss", "main_loss", "mtp/loss_1", "mtp/loss_2", "grad_norm")


def learn(folder: Path, count: int = 24, placement: Any = None, **keys: Any) -> Outcome:
    """Train in `folder`, or go on there."""
    for name in ("data", "out", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_rows(folder / "data" / ROWS_NAME, rows("cold_start", count))
    data = Artifact(kind=Kind.DATASET, path=folder / "data", fingerprint="rows", name="rows")
    placement = Placement(threads=1, **(placement or {}))
    context = Context(seed=3, convention="think_answer", work=folder / "work", name="step", placement=placement)
    config = ColdStartConfig.model_validate({**KEYS, **keys})
    return COLD_START.run(config, {"init": [BASE], "data": [data]}, folder / "out", context)


def history(folder: Path, name: str = "out") -> list[dict[str, float]]:
    """Lines of the optimiser steps."""
    lines = [json.loads(line) for line in (folder / name / "history.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "out" / "model.safetensors")


@pytest.mark.slow
def test_the_loss_is_a_sum_that_no_cut_into_micro_batches_changes(tmp_path: Path) -> None:
    outcome = learn(tmp_path / "whole", count=16)
    learn(tmp_path / "cut", count=16, micro_batch_size=2, trl={"gradient_checkpointing": True})
    whole, cut = history(tmp_path / "whole"), history(tmp_path / "cut")
    assert len(whole) == 2
    for one, other in zip(whole, cut, strict=True):
        assert one["loss"] == pytest.approx(one["main_loss"] + 0.3 * (one["mtp/loss_1"] + one["mtp/loss_2"]) / 2)
        assert [other[name] for name in FIGURES] == pytest.approx([one[name] for name in FIGURES], rel=1e-3)
    for name, figure in {"train_loss": "loss", "main_loss": "main_loss", "mtp_loss_2": "mtp/loss_2"}.items():
        assert outcome.metrics[name].value == pytest.approx(sum(line[figure] for line in whole) / 2)
    assert outcome.counts["mtp_parameters"] == sum(
        tensor.numel() for name, tensor in trainer_state(tmp_path / "whole").items() if name.startswith("mtp.")
    )


def trainer_state(folder: Path) -> dict[str, torch.Tensor]:
    """Weights in the last checkpoint of the running step."""
    found = sorted((folder / "work" / "trainer").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    return load_file(found[-1] / "model.safetensors")


@pytest.mark.slow
def test_what_is_saved_is_the_plain_architecture_with_other_weights(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    alone = learn(tmp_path / "plain", mtp=None, count=8)
    learn(tmp_path / "ahead", count=8)
    ours, theirs = weights(tmp_path / "ahead"), weights(tmp_path / "plain")
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in theirs.items()}
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)
    for file in ("config.json", "generation_config.json"):
        assert (tmp_path / "ahead" / "out" / file).read_text() == (tmp_path / "plain" / "out" / file).read_text()
    _, said = AutoModelForCausalLM.from_pretrained(tmp_path / "ahead" / "out", output_loading_info=True)
    assert not any(said.values())
    assert "mtp_parameters" not in alone.counts
    assert set(alone.metrics) == {"train_loss"}


class Interrupted(Exception):
    """Stands for the kill."""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["between checkpoints", "after the last step"])
def test_a_killed_training_ends_where_an_unbroken_one_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    from stages.training import models
    from stages.training.progress import History

    keys: dict[str, Any] = {"count": 48, "dropout": 0.1, "placement": {"checkpoint_steps": 2}}
    whole = learn(tmp_path / "unbroken", **keys)
    log, save = History.on_log, models.save_trained

    def interrupt(self: Any, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        log(self, args, state, control, logs, **kwargs)
        if state.global_step == 5:
            raise Interrupted

    def broken(*_: Any) -> None:
        raise Interrupted

    if when == "after the last step":
        monkeypatch.setattr(models, "save_trained", broken)
    else:
        monkeypatch.setattr(History, "on_log", interrupt)
    with pytest.raises(Interrupted):
        learn(tmp_path / "broken", **keys)
    monkeypatch.setattr(models, "save_trained", save)
    monkeypatch.setattr(History, "on_log", log)
    torch.rand(7)  # the state of the global generator must not matter
    outcome = learn(tmp_path / "broken", **keys)
    ours, theirs = (trainer_state(tmp_path / name) for name in ("broken", "unbroken"))
    assert any(name.startswith("mtp.heads.1.block") for name in theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs), "the modules too"
    ours, theirs = weights(tmp_path / "broken"), weights(tmp_path / "unbroken")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    figures = [[[line[name] for name in FIGURES] for line in history(tmp_path / n)] for n in ("broken", "unbroken")]
    assert figures[0] == figures[1]
    assert (outcome.counts, outcome.metrics) == (whole.counts, whole.metrics)


@pytest.mark.slow
def test_what_is_held_out_is_measured_without_modules_and_the_best_weights_lose_theirs(tmp_path: Path) -> None:
    stopping = EarlyStopping(every=4, patience=2, share=0.25)
    keys: dict[str, Any] = {"epochs": 16, "learning_rate": 5e-4, "schedule": "constant"}
    outcome = learn(tmp_path, count=32, early_stopping=stopping, **keys)
    lines = [json.loads(line) for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    measured = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}
    best = outcome.counts["best_step"]
    assert best < outcome.counts["optimiser_steps"] < 48
    assert loss_of(tmp_path / "out", held_of(tmp_path)) == pytest.approx(measured[best], rel=1e-4)
    assert not [name for name in weights(tmp_path) if name.startswith("mtp")]


@pytest.mark.slow
@pytest.mark.pair
def test_two_ranks_reach_the_curves_of_one(tmp_path: Path) -> None:
    step = {"name": "sft", "stage": "cold_start", "init_from": "base", "data_from": "chains", "learning_rate": 1e-3}
    tree = {
        "models": {"base": {"path": str(Path("data/tiny/base").resolve()), "evaluate": False}},
        "data": {"chains": {"source": "tiny", "split": "cold_start", "rows": 32}},
        "launch": {"threads": 1, "timeout": 600},
        "steps": [{**step, "epochs": 1, "batch_size": 8, "micro_batch_size": 2, "mtp": {"depth": 2}}],
    }
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump(tree))
    run(file, tmp_path / "one")
    run(file, tmp_path / "two", "launch.processes=2")
    made = [artifact(tmp_path / name, "sft") for name in ("one", "two")]
    assert made[0].name == made[1].name, "placement is no part of an identity"
    one, two = history(made[0], ""), history(made[1], "")
    assert len(one) == 4
    for wanted, found in zip(one, two, strict=True):
        assert [found[name] for name in FIGURES] == pytest.approx([wanted[name] for name in FIGURES], rel=2e-3)
    assert load_file(made[0] / "model.safetensors").keys() == load_file(made[1] / "model.safetensors").keys()


@pytest.mark.slow
def test_modules_come_to_predict_better_than_how_common_each_token_is(tmp_path: Path) -> None:
    from stages.training.sft import encode_pairs

    learn(tmp_path, count=160, epochs=2, batch_size=16)
    context = Context(seed=3, convention="think_answer", work=tmp_path, name="step")
    encoded = [item for _, item in encode_pairs(BASE.path, rows("cold_start", 160), 4096, context, {})]
    learned = Counter(
        token
        for item in encoded
        for token, is_learned in zip(item.input_ids, item.completion_mask, strict=True)
        if is_learned
    )
    total = sum(learned.values())
    unigram = -sum(count / total * math.log(count / total) for count in learned.values())
    lines = history(tmp_path)
    for name in ("mtp/loss_1", "mtp/loss_2"):
        first, last = lines[0][name], sum(line[name] for line in lines[-5:]) / 5
        assert first > 5, "near chance, log 1011 = 6.9, or worse"
        assert last < 0.8 * unigram < 0.6 * math.log(1011)
    assert lines[-1]["mtp/loss_2"] > lines[-1]["mtp/loss_1"], "further ahead is harder"


@pytest.mark.parametrize(
    ("keys", "architecture", "message"),
    [
        ({"mtp": {}}, {}, None),
        ({}, {}, r"layer_rates.groups: no parameter that learns matches '^mtp\\.heads'"),
        ({"mtp": {}}, {"model_type": "opt"}, "mtp: OPTForCausalLM is no decoder whose layers and final norm are known"),
    ],
)
def test_a_check_knows_the_names_of_modules_and_the_architectures_without(
    tmp_path: Path, keys: dict[str, Any], architecture: dict[str, Any], message: str | None
) -> None:
    world = World(tmp_path)
    world.step("cold_start", layer_rates={"groups": [{"names": r"^mtp\.heads", "rate": 1e-5}]}, **keys)
    world.edit("config.json", lambda tree: tree.update(architecture))
    lines = [str(line) for line in world.check() if "parameters" in str(line)]
    if message is None:
        assert any("1 steps name parameters, and the models have them" in line for line in lines), lines
    else:
        assert any(message in line for line in lines), lines
