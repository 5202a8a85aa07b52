"""A run that samples from a truncated distribution says so, in one line."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from stages.training.options import ReinforcementConfig
from stages.training.rollouts import EngineRollouts
from stages.training.truncation import truncation_warning


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"top_p": 0.95}, "top_p = 0.95"),
        ({"trl": {"top_k": 50}}, "top_k = 50"),
        ({"top_p": 1, "trl": {"top_p": 0.9, "top_k": 5}}, "top_p = 0.9, top_k = 5"),
    ],
)
def test_what_truncates_is_named(keys: dict[str, Any], named: str) -> None:
    warning = truncation_warning(ReinforcementConfig(**keys))
    assert warning is not None
    assert warning.startswith(f"{named} truncates")
    assert "\n" not in warning


@pytest.mark.parametrize("keys", [{}, {"trl": {"top_k": 0}}, {"top_p": 0.9, "trl": {"top_p": 1.0}}])
def test_the_whole_distribution_needs_no_warning(keys: dict[str, Any]) -> None:
    assert truncation_warning(ReinforcementConfig(**keys)) is None


@pytest.mark.parametrize(
    "off", [{"top_p": 1.0, "top_k": 0}, {"top_p": 1.0, "top_k": -1}, {"top_p": None, "top_k": None}]
)
def test_every_way_of_trl_to_turn_it_off_turns_it_off(off: dict[str, Any]) -> None:
    asked = []
    engine: Any = SimpleNamespace(generate=lambda prompts, sampling: asked.append(sampling) or [["said"]])
    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(seed=0, temperature=1.0, **off),
        state=SimpleNamespace(global_step=0),
        sampling_round=0,
        max_completion_length=4,
    )
    assert EngineRollouts._sample(trainer, engine, [([1], 1)], 0) == [["said"]]
    assert [(sampling.top_p, sampling.top_k) for sampling in asked] == [(1.0, 0)]
