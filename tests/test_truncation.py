"""A run that samples from a truncated distribution says so, in one line."""

from __future__ import annotations

from typing import Any

import pytest

from stages.training.options import ReinforcementConfig
from stages.training.truncation import truncation_warning


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"top_p": 0.95}, "top_p = 0.95"),
        ({"trl": {"top_k": 50}}, "top_k = 50"),
        ({"trl": {"min_p": 0.1}}, "min_p = 0.1"),
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
