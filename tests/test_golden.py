"""Seeded CPU runs whose curves a refactoring must reproduce.

The tolerance allows for another processor's rounding, not for another computation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.artifact import ROWS_NAME, Artifact, Kind
from data.records import write_rows
from data.tiny.world import rows
from stages.cold_start import COLD_START, ColdStartConfig
from stages.reasoning_rl import REASONING_RL, ReasoningRLConfig
from stages.stage import Context, Placement
from tests.tiny_model import one_thread  # noqa: F401

BASE = Artifact(kind=Kind.MODEL, path=Path("data/tiny/base"), fingerprint="base", name="base")


def curve(stage: Any, config: Any, split: str, count: int, folder: Path) -> list[dict[str, float]]:
    for name in ("data", "out", "work"):
        (folder / name).mkdir()
    write_rows(folder / "data" / ROWS_NAME, rows(split, count))
    data = Artifact(kind=Kind.DATASET, path=folder / "data", fingerprint=split, name=split)
    context = Context(
        seed=11,
        convention="think_answer",
        work=folder / "work",
        sandbox="weak",
        placement=Placement(threads=1, reward_workers=1),
    )
    stage.run(config, {"init": [BASE], "data": [data]}, folder / "out", context)
    return [json.loads(line) for line in (folder / "out" / "history.jsonl").read_text().splitlines()]


def test_the_loss_of_a_cold_start_is_what_it_was(tmp_path):
    config = ColdStartConfig(learning_rate=1e-3, epochs=1, batch_size=8)
    history = curve(COLD_START, config, "cold_start", 48, tmp_path)
    losses = [line["loss"] for line in history if "loss" in line]
    assert losses == pytest.approx(COLD_START_LOSSES, rel=2e-3)


@pytest.mark.slow
@pytest.mark.alone
def test_the_rewards_of_reasoning_rl_are_what_they_were(tmp_path):
    config = ReasoningRLConfig(
        learning_rate=1e-4, steps=3, prompts_per_step=8, max_completion_tokens=64, beta=0.01, micro_batch_size=8
    )
    history = curve(REASONING_RL, config, "rl", 40, tmp_path)
    rewards = [line["reward"] for line in history if "reward" in line]
    assert rewards == pytest.approx(RL_REWARDS, abs=2e-3)
    lengths = [line["completions/mean_length"] for line in history if "reward" in line]
    assert lengths == pytest.approx(RL_LENGTHS, rel=1e-3)


COLD_START_LOSSES = [0.08428, 0.07818, 0.07163, 0.07683, 0.05361, 0.05344]
RL_REWARDS = [0.1295, 0.1715, 0.20825]
RL_LENGTHS = [41.375, 45.0, 39.4]
