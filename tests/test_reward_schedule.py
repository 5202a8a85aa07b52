"""A schedule on a reward follows the optimiser steps of the trainer, and goes on where a resumed run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

import rewards
from rewards.adapter import as_trl
from tests.tiny_grpo import config, train
from tests.tiny_model import one_thread  # noqa: F401


@pytest.mark.slow
def test_what_is_paid_follows_the_schedule(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("def one(completions, **columns):\n    return [1.0] * len(completions)\n")
    reward = {"path": "one.py", "function": "one", "weight": 0.5, "schedule": {1: 0, 3: 1}}
    paid = as_trl(rewards.build([reward], tmp_path), "none")
    keys = config(beta=0.1, steps=6, updates_per_generation=1)
    expected = [0, 0, 0.25, 0.5, 0.5, 0.5]
    _, trainer = train(tmp_path, keys, paid=paid)
    assert [line["reward"] for line in trainer.state.log_history[:6]] == expected
    _, trainer = train(tmp_path, keys, paid=paid, resume=str(tmp_path / "trainer" / "checkpoint-2"))
    assert [line["reward"] for line in trainer.state.log_history[:6]] == expected
