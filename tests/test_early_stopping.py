"""Early stopping: what is held out, when a training ends, which weights are kept, and that a kill changes nothing."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file

from data.artifact import ROWS_NAME, Artifact, Kind
from data.records import write_rows
from data.tiny.world import rows
from stages.cold_start import COLD_START, ColdStartConfig
from stages.sft_mix import SFT_MIX, Phase, SftMixConfig
from stages.stage import Context, Outcome, Placement
from stages.training.arguments import supervised_preflight
from stages.training.early_stopping import EarlyStopping, exhausted, hold_out
from stages.training.encode import Encoded
from tests.tiny_model import one_thread  # noqa: F401

BASE = Artifact(kind=Kind.MODEL, path=Path("data/tiny/base"), fingerprint="base", name="base")
STOPPING = EarlyStopping(every=4, patience=2, share=0.25)
KEYS: dict[str, Any] = {"learning_rate": 5e-4, "epochs": 16, "batch_size": 8, "schedule": "constant"}
"""Few rows far too often: the held-out loss falls and then rises."""


def learn(folder: Path, stage: Any = COLD_START, config: Any = None, count: int = 32) -> Outcome:
    """Train in `folder`, or go on there."""
    for name in ("data", "out", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_rows(folder / "data" / ROWS_NAME, rows("cold_start", count))
    data = Artifact(kind=Kind.DATASET, path=folder / "data", fingerprint="rows", name="rows")
    context = Context(
        seed=3, convention="think_answer", work=folder / "work", name="step", placement=Placement(threads=1)
    )
    config = config or ColdStartConfig(**KEYS, early_stopping=STOPPING)
    return stage.run(config, {"init": [BASE], "data": [data]}, folder / "out", context)


def measured(folder: Path) -> dict[int, float]:
    """Optimiser step to the loss of what is held out."""
    lines = [json.loads(line) for line in (folder / "out" / "history.jsonl").read_text().splitlines()]
    return {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}


def loss_of(checkpoint: Path, held: list[Encoded]) -> float:
    """Mean over the sequences of the mean loss of their learned tokens, under the weights of a checkpoint."""
    from stages.training.models import load_policy

    model = load_policy(checkpoint).eval()
    losses = []
    with torch.inference_mode():
        for item in held:
            ids_1T = torch.tensor([item.input_ids])
            logprobs = torch.log_softmax(model(input_ids=ids_1T).logits[0, :-1], dim=-1)
            picked = logprobs.gather(-1, ids_1T[0, 1:, None])[:, 0]
            losses.append(-picked[torch.tensor(item.completion_mask[1:], dtype=torch.bool)].mean().item())
    return sum(losses) / len(losses)


def held_of(folder: Path) -> list[Encoded]:
    from stages.training.sft import encode_pairs

    context = Context(seed=3, convention="think_answer", work=folder, name="step")
    pairs = encode_pairs(BASE.path, rows("cold_start", 32), 4096, context, {})
    return hold_out(pairs, STOPPING, 3)[1]


@pytest.mark.slow
def test_it_stops_where_the_held_out_loss_no_longer_falls_and_keeps_the_lowest(tmp_path: Path) -> None:
    outcome = learn(tmp_path / "stopped")
    losses = measured(tmp_path / "stopped")
    best = min(losses, key=losses.__getitem__)
    assert list(losses) == list(range(4, best + 9, 4)), "two measurements without a new lowest one"
    assert outcome.counts["held_out"] == 8
    assert outcome.counts["best_step"] == best
    assert outcome.counts["optimiser_steps"] == best + 8 < 48
    assert outcome.counts["sequences"] == outcome.counts["optimiser_steps"] * 8
    assert outcome.metrics["held_out_loss"].value == losses[best]
    assert outcome.metrics["train_loss"].n == best + 8
    held = held_of(tmp_path)
    kept = loss_of(tmp_path / "stopped" / "out", held)
    assert kept == pytest.approx(losses[best], rel=1e-4)
    assert kept < 0.9 * loss_of(BASE.path, held)
    last = ColdStartConfig(**KEYS, early_stopping=EarlyStopping(every=48, share=0.25))
    learn(tmp_path / "all", config=last)
    assert kept < 0.8 * measured(tmp_path / "all")[48]


@pytest.mark.slow
def test_the_best_adapters_are_merged(tmp_path: Path) -> None:
    keys = {**KEYS, "learning_rate": 2e-2, "lora": {"rank": 4, "alpha": 8}}
    outcome = learn(tmp_path, config=ColdStartConfig(**keys, early_stopping=STOPPING))
    losses = measured(tmp_path)
    assert outcome.counts["best_step"] < outcome.counts["optimiser_steps"]
    assert loss_of(tmp_path / "out", held_of(tmp_path)) == pytest.approx(min(losses.values()), rel=1e-4)


class Interrupted(Exception):
    """Stands for the kill."""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["between measurements", "after the stop"])
def test_a_killed_training_ends_where_an_unbroken_one_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    from stages.training import models
    from stages.training.progress import History

    whole = learn(tmp_path / "unbroken")
    log, save = History.on_log, models.save_trained

    def interrupt(self: Any, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        log(self, args, state, control, logs, **kwargs)
        if state.global_step == 6:
            raise Interrupted

    def broken(*_: Any) -> None:
        raise Interrupted

    if when == "after the stop":
        monkeypatch.setattr(models, "save_trained", broken)
    else:
        monkeypatch.setattr(History, "on_log", interrupt)
    with pytest.raises(Interrupted):
        learn(tmp_path / "broken")
    monkeypatch.setattr(models, "save_trained", save)
    monkeypatch.setattr(History, "on_log", log)
    (tmp_path / "broken").rename(tmp_path / "moved")
    outcome = learn(tmp_path / "moved")
    ours, theirs = (load_file(tmp_path / name / "out" / "model.safetensors") for name in ("moved", "unbroken"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert measured(tmp_path / "moved") == measured(tmp_path / "unbroken")
    assert outcome.counts == whole.counts
    assert outcome.metrics == whole.metrics


def test_the_last_step_is_measured_and_patience_may_outlast_the_training(tmp_path: Path) -> None:
    stopping = EarlyStopping(every=4, patience=9)
    phase = Phase(name="all", weights={"math": 1, "science": 1}, rows=12)
    config = SftMixConfig(learning_rate=1e-4, batch_size=2, phases=(phase,), early_stopping=stopping)
    outcome = learn(tmp_path, SFT_MIX, config, count=90)
    losses = measured(tmp_path)
    assert list(losses) == [4, 6]
    assert outcome.counts["best_step"] == min(losses, key=losses.__getitem__)
    assert outcome.counts["held_out"] == 3, "of the domains that are learned"


def test_a_training_shorter_than_the_distance_of_measurements_is_measured_at_its_end(tmp_path: Path) -> None:
    config = ColdStartConfig(learning_rate=1e-4, epochs=1, batch_size=8, early_stopping=EarlyStopping(share=0.3))
    outcome = learn(tmp_path, config=config, count=20)
    assert list(measured(tmp_path)) == [2]
    assert (outcome.counts["best_step"], outcome.counts["held_out"]) == (2, 6)


def test_one_prompt_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"early_stopping: 1 usable prompts are too few to train and to hold some out"):
        learn(tmp_path, count=1)


def test_a_loss_that_is_never_a_number_ends_in_one_line(tmp_path: Path) -> None:
    stopping = EarlyStopping(every=2, patience=2, share=0.25)
    keys = {**KEYS, "learning_rate": 1e6, "max_grad_norm": 1e9}
    with pytest.raises(ValueError, match="the held-out loss was never a number; lower learning_rate"):
        learn(tmp_path, config=ColdStartConfig(**keys, early_stopping=stopping))


@pytest.mark.slow
def test_a_best_checkpoint_that_is_gone_is_not_replaced_by_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.training import models

    def killed(*_: Any) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(models, "save_trained", killed)
        with pytest.raises(Interrupted):
            learn(tmp_path)
    state = sorted((tmp_path / "work" / "trainer").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))[-1]
    best = json.loads((state / "trainer_state.json").read_text())["best_global_step"]
    shutil.rmtree(state.with_name(f"checkpoint-{best}"))
    with pytest.raises(ValueError, match=rf"checkpoint-{best}, the best checkpoint, is gone; delete .*work"):
        learn(tmp_path)


@pytest.mark.parametrize("name", ["eval_strategy", "load_best_model_at_end", "max_steps"])
def test_arguments_that_contradict_it_are_refused(name: str) -> None:
    config = ColdStartConfig(learning_rate=1e-4, early_stopping=STOPPING, trl={name: 1, "adam_beta1": 0.9})
    with pytest.raises(ValueError, match=f"trl.{name} contradicts early_stopping; leave one of them out"):
        supervised_preflight(config)
    supervised_preflight(ColdStartConfig(learning_rate=1e-4, trl={name: 1}))


def test_it_takes_one_phase() -> None:
    phases = tuple(Phase(name=name, weights={"math": 1}) for name in ("one", "two"))
    with pytest.raises(ValidationError, match="early_stopping takes one phase: with several it might end before"):
        SftMixConfig(phases=phases, early_stopping=STOPPING)


def test_a_mixture_that_lacks_what_is_held_out_says_so(tmp_path: Path) -> None:
    phase = Phase(name="all", weights={"math": 1}, rows=32)
    config = SftMixConfig(phases=(phase,), early_stopping=STOPPING)
    with pytest.raises(ValueError, match=r"'math' has \d+ rows left.*\(early_stopping holds \d+ rows out\)"):
        learn(tmp_path, SFT_MIX, config, count=40)


def test_a_prompt_with_more_than_may_be_held_out_is_trained_on() -> None:
    pairs = [({"prompt": prompt}, Encoded([at], [1])) for at, prompt in enumerate("a" * 50 + "b" * 3 + "c" * 2)]
    for seed in range(6):
        _, held = hold_out(pairs, EarlyStopping(rows=4, share=0.5), seed)
        assert len(held) in (2, 3)
        _, held = hold_out(pairs, EarlyStopping(rows=1, share=0.5), seed)
        assert [item.input_ids[0] for item in held] == [53, 54], "the one with the fewest"


@pytest.mark.parametrize(
    ("losses", "patience", "over"),
    [
        ([], 1, False),
        ([3, 2, 1], 1, False),
        ([3, 2, 2], 1, True),
        ([3, 2, 2.5, 1.9], 2, False),
        ([3, 2, 2.5, 2.1], 2, True),
        ([1, 2], 2, False),
        ([float("nan"), 2], 1, False),
        ([1, float("nan"), float("inf")], 2, True),
    ],
)
def test_patience_counts_measurements_since_the_lowest(losses: list[float], patience: int, over: bool) -> None:
    log = [line for loss in losses for line in ({"loss": 0.1}, {"eval_loss": loss})]
    assert exhausted(log, patience) == over


@given(
    prompts=st.lists(st.integers(0, 12), min_size=2, max_size=60),
    most=st.integers(1, 20),
    share=st.floats(0.01, 0.5),
    seed=st.integers(0, 5),
)
def test_held_out_prompts_are_not_trained_on(prompts: list[int], most: int, share: float, seed: int) -> None:
    pairs = [({"prompt": [{"content": str(p)}], "at": at}, Encoded([p, at], [0, 1])) for at, p in enumerate(prompts)]
    config = EarlyStopping(rows=most, share=share)
    if len(set(prompts)) < 2:
        with pytest.raises(ValueError, match="too few"):
            hold_out(pairs, config, seed)
        return
    trained, held = hold_out(pairs, config, seed)
    assert sorted([*(item.input_ids[1] for _, item in trained), *(item.input_ids[1] for item in held)]) == list(
        range(len(pairs))
    )
    outside = {item.input_ids[0] for item in held}
    assert not outside & {item.input_ids[0] for _, item in trained}
    assert outside
    assert trained
    fewest = min(Counter(prompts).values())
    assert len(held) <= max(fewest, min(most, int(share * len(pairs))))
    assert (trained, held) == hold_out(pairs, config, seed)
    assert hold_out(pairs, None, seed) == (pairs, [])
