"""What stands on the bar of a running trainer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from stages.training.progress import Bar


@pytest.fixture
def bar() -> Bar:
    bar = Bar("step")
    bar.on_train_begin(None, SimpleNamespace(is_world_process_zero=True, max_steps=2, global_step=0), None)
    return bar


def shown(bar: Bar) -> str:
    assert bar.bar is not None
    return bar.bar.postfix or ""


def test_the_last_figures_stay_when_the_trainer_sums_up(bar: Bar) -> None:
    bar.on_log(None, None, None, logs={"loss": 0.25, "grad_norm": 3.0})
    assert shown(bar) == "loss=0.25"
    bar.on_log(None, None, None, logs={"train_runtime": 12.0, "train_loss": 0.3})
    assert shown(bar) == "loss=0.25"


def test_reinforcement_shows_its_reward_and_not_a_loss_that_is_0_whatever_is_learned(bar: Bar) -> None:
    bar.on_log(None, None, None, logs={"loss": -1e-8, "reward": 0.5, "kl": 0.002, "completions/mean_length": 51.5})
    assert shown(bar) == "reward=0.5, kl=0.002, tokens=51.5"


def test_other_ranks_show_none() -> None:
    bar = Bar("step")
    bar.on_train_begin(None, SimpleNamespace(is_world_process_zero=False, max_steps=2, global_step=0), None)
    bar.on_log(None, None, None, logs={"loss": 0.25})
    assert bar.bar is None
