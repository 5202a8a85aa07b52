"""Dynamic sampling and curriculum inside the trainer, and the order of prompts after a resume."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import rewards
from stages.stage import Context
from stages.training.curriculum import CurriculumConfig
from stages.training.dynamic_sampling import DynamicSampling
from stages.training.grpo import train_grpo
from stages.training.kl import KLTier
from tests.tiny_grpo import GROUP, ROWS, config, furthest, reward, train
from tests.tiny_model import one_thread  # noqa: F401

pytestmark = pytest.mark.slow

ALIKE = {"0", "4", "8"}
"""Prompts whose completions are always paid alike."""


class Recorded:
    """Pays as `reward` does and keeps what was asked."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.__name__ = "recorded"
        self.breakdowns: list[Any] = []

    def __call__(self, prompts: Any, completion_ids: Any, **columns: Any) -> list[float]:
        self.calls.append([p[0]["content"].split()[1].strip("x") for p in prompts[::GROUP]])
        paid = reward(prompts, completion_ids, **columns)
        self.breakdowns = [SimpleNamespace(scores={"accuracy": float(value > 0.9)}) for value in paid]
        return paid


def batches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the trainer cuts into micro-batches, as it runs."""
    from stages.training import grpo_trainer

    seen: list[dict[str, Any]] = []
    cut = grpo_trainer.micro_batches

    def keep(batch: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(dict(batch))
        return cut(batch, *args, **kwargs)

    monkeypatch.setattr(grpo_trainer, "micro_batches", keep)
    return seen


def whole_round(**keys: Any) -> Any:
    return config(**{"prompts_per_step": 12, "updates_per_generation": 1, "steps": 1, **keys})


def test_with_signal_everywhere_it_changes_nothing(tmp_path: Path) -> None:
    def always(prompts: Any, completion_ids: Any, **_: Any) -> list[float]:
        return [float(i % GROUP) for i in range(len(prompts))]

    off, _ = train(tmp_path, config(), stock={}, paid=always)
    on, trainer = train(tmp_path, config(dynamic_sampling=DynamicSampling()), paid=always)
    assert furthest(on, off) < 1e-5
    line = trainer.state.log_history[0]
    assert [line[f"dynamic_sampling/{name}"] for name in ("rounds", "replaced", "without_signal")] == [0, 0, 0]


def test_groups_without_signal_give_way_to_further_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, asked, plain = batches(monkeypatch), Recorded(), Recorded()
    _, first = train(tmp_path, whole_round(), paid=plain)
    _, trainer = train(tmp_path, whole_round(dynamic_sampling=DynamicSampling(max_rounds=8)), paid=asked)
    before, after = seen
    assert asked.calls[0] == plain.calls[0]
    assert after["advantages"].shape == before["advantages"].shape
    held = before["advantages"].view(-1, GROUP).ne(0).any(1)
    assert held.tolist() == [number not in ALIKE for number in asked.calls[0]]
    assert after["advantages"].view(-1, GROUP).ne(0).any(1).all()
    length = before["completion_ids"].shape[1]
    kept = held.repeat_interleave(GROUP)
    assert torch.equal(after["advantages"][kept], before["advantages"][kept])
    assert torch.equal(after["completion_ids"][kept][:, :length], before["completion_ids"][kept])
    assert after["num_items_in_batch"] == after["completion_mask"].sum()
    # As many prompts are drawn as are still lacking, and only those whose rewards differ are taken.
    lacking = 3
    for call in asked.calls[1:]:
        assert len(call) == lacking
        lacking -= len([number for number in call if number not in ALIKE])
    assert lacking == 0
    line, usual = trainer.state.log_history[0], first.state.log_history[0]
    assert line["dynamic_sampling/rounds"] == len(asked.calls) - 1
    assert line["dynamic_sampling/replaced"] == pytest.approx(3 / 12)
    assert line["dynamic_sampling/without_signal"] == 0
    for name in ("reward", "frac_reward_zero_std", "completions/mean_length", "completions/clipped_ratio"):
        assert line[name] == usual[name]


def test_rounds_are_bounded_and_enough_is_enough(tmp_path: Path) -> None:
    def never(prompts: Any, **_: Any) -> list[float]:
        return [1.0] * len(prompts)

    hopeless = whole_round(dynamic_sampling=DynamicSampling(max_rounds=2), beta=0.1)
    _, trainer = train(tmp_path, hopeless, paid=never)
    line = trainer.state.log_history[0]
    assert line["dynamic_sampling/rounds"] == 2
    assert line["dynamic_sampling/replaced"] == 0
    assert line["dynamic_sampling/without_signal"] == 1
    _, trainer = train(tmp_path, whole_round(dynamic_sampling=DynamicSampling(enough=0.75)))
    assert trainer.state.log_history[0]["dynamic_sampling/rounds"] == 0


def test_a_group_whose_rewards_are_missing_has_no_signal(tmp_path: Path) -> None:
    def half(prompts: Any, **_: Any) -> list[float | None]:
        return [None if i % 2 or i < GROUP else float(i % 4) for i in range(len(prompts))]

    _, trainer = train(tmp_path, whole_round(dynamic_sampling=DynamicSampling(max_rounds=1)), paid=half)
    assert trainer._signal() == [False]  # the one group of the last round has no reward at all
    assert trainer.state.log_history[0]["dynamic_sampling/without_signal"] == pytest.approx(1 / 12)


def test_rows_keep_their_tier_and_reference_when_they_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = batches(monkeypatch)
    tiers = (KLTier(domains=("math",), beta=0.3), KLTier(domains=("code",), beta=0.0))
    keys = whole_round(beta=0.1, kl_tiers=tiers, dynamic_sampling=DynamicSampling(max_rounds=8))
    _, trainer = train(tmp_path, keys)
    batch, tokenizer = seen[0], trainer.processing_class
    for ids, tier, has_kl in zip(batch["prompt_ids"], batch["kl_tier"].tolist(), batch["has_kl"], strict=True):
        number = int(tokenizer.decode(ids).split("problem ")[1].split()[0].strip("x"))
        assert tier == {"math": 0, "code": 1}.get(ROWS[number]["domain"], 2)
        assert bool(has_kl) == (tier != 1)
    assert (batch["ref_per_token_logps"].ne(0).sum(1) >= batch["completion_mask"].sum(1)).all()


def test_the_curriculum_picks_further_prompts_and_learns_from_all(tmp_path: Path) -> None:
    asked = Recorded()
    keys = whole_round(
        prompts_per_step=4,
        steps=3,
        curriculum=CurriculumConfig(unlock=0.99),
        dynamic_sampling=DynamicSampling(max_rounds=2),
    )
    _, trainer = train(tmp_path, keys, paid=asked)
    assert {number for call in asked.calls for number in call} <= {"0", "1", "2", "3"}  # the easiest tier
    assert len(asked.calls) > 3
    assert trainer.curriculum.drawn[0.0] == sum(len(call) for call in asked.calls)
    # Within the tier every prompt comes once before any comes again, further draws included.
    flat = [number for call in asked.calls for number in call]
    assert all(len(set(flat[i : i + 4])) == 4 for i in range(0, len(flat) - 3, 4))


def test_further_completions_of_the_same_prompt_are_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of the draw is part of the sampler's seed."""
    completions: list[Any] = []

    def never(prompts: Any, completion_ids: Any, **_: Any) -> list[float]:
        completions.append(completion_ids)
        return [1.0] * len(prompts)

    monkeypatch.setattr("stages.training.prompt_trainer.further_prompts", lambda *_: [0] * 2)
    keys = whole_round(prompts_per_step=2, dynamic_sampling=DynamicSampling(max_rounds=2), beta=0.1)
    train(tmp_path, keys, sampled=True, paid=never)
    assert len(completions) == 3
    assert completions[1] != completions[2]


@pytest.mark.parametrize(("updates", "iterations", "checkpoint"), [(1, 1, 4), (1, 1, 6), (3, 1, 9), (3, 2, 6)])
def test_prompts_go_on_in_the_order_of_the_unbroken_run(
    tmp_path: Path, updates: int, iterations: int, checkpoint: int
) -> None:
    """Two rounds are an epoch. With several updates a round, checkpoints move to the ends of rounds."""
    trl = {"num_iterations": iterations}
    keys = config(prompts_per_step=6, updates_per_generation=updates, steps=checkpoint + 3, beta=0.1, trl=trl)
    whole, _ = train(tmp_path, keys)
    for made in (tmp_path / "trainer").glob("checkpoint-*"):
        step = int(made.name.rpartition("-")[2])
        assert step % (updates * iterations) == 0 or step == checkpoint + 3, "between rounds of sampling, or the last"
    rest, _ = train(tmp_path, keys, resume=str(tmp_path / "trainer" / f"checkpoint-{checkpoint}"))
    assert len(rest) == 3
    for one, other in zip(whole[checkpoint:], rest, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_curriculum_over_rows_without_any_difficulty_is_refused(tmp_path: Path) -> None:
    keys = config(prompts_per_step=2, curriculum=CurriculumConfig(), probe=None)
    rows: Any = [{key: value for key, value in row.items() if key != "difficulty"} for row in ROWS]
    context = Context(seed=0, convention="none", work=tmp_path)
    with pytest.raises(ValueError, match="curriculum: no row has a difficulty"):
        train_grpo(keys, rows, rewards.build([{"name": "format"}]), tmp_path, tmp_path, context, {})
