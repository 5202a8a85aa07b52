"""Tiers of the layered KL and their controllers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from stages.training.kl import KLControllers, KLTier, refuse_unfit, tier_numbers

MATH_EASY = KLTier(domains=("math",), difficulty=(0, 3), beta=0.001)
MATH = KLTier(domains=("math",), beta=0.002)
HARD = KLTier(difficulty=(5, 9), beta=0.003)


def row(domain: str | None, difficulty: float | None) -> dict[str, Any]:
    return {"domain": domain, "difficulty": difficulty}


def test_a_row_belongs_to_the_first_tier_that_it_fits() -> None:
    rows = [
        row("math", 0),
        row("math", 3),
        row("math", 3.1),
        row("math", None),
        row("math", 7),
        row("code", 5),
        row("code", 4.9),
        row("code", None),
        row(None, 9),
    ]
    assert tier_numbers([MATH_EASY, MATH, HARD], rows) == [0, 0, 1, 1, 1, 2, 3, 3, 2]
    assert tier_numbers([], rows) == [0] * len(rows)
    assert tier_numbers([KLTier(beta=1)], rows) == [0] * len(rows)


def test_a_tier_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^kl_tiers: no row belongs to '5-9'; domains of the rows: general, math$"):
        tier_numbers([MATH, HARD], [row("math", 7), row(None, 1)])


def test_labels_tell_what_a_tier_holds() -> None:
    labels = [t.label for t in (MATH_EASY, MATH, HARD, KLTier(beta=0), KLTier(name="mine", beta=0))]
    assert labels == ["math:0-3", "math", "5-9", "all", "mine"]
    assert KLTier(domains=("math", "code"), beta=1).label == "math+code"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"beta": 0, "target": 0.1}, "beta = 0 stays 0"),
        ({"beta": 1, "difficulty": (3, 1)}, "difficulty: 3 is above 1"),
        ({"beta": -1}, "greater than or equal to 0"),
        ({"beta": 1, "target": 0}, "greater than 0"),
        ({"beta": 1, "gain": 0}, "greater than 0"),
        ({"beta": 1, "span": 0.5}, "greater than or equal to 1"),
        ({}, "Field required"),
        ({"beta": True}, "expected a number"),
    ],
)
def test_a_tier_that_makes_no_sense_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        KLTier(**keys)


def test_tiers_that_cannot_be_told_apart_or_do_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="'math' occurs twice"):
        refuse_unfit([MATH, MATH], 0.1)
    with pytest.raises(ValueError, match="'rest' occurs twice"):
        refuse_unfit([KLTier(name="rest", beta=1)], 0.1)
    with pytest.raises(ValueError, match="every coefficient is 0"):
        refuse_unfit([KLTier(beta=0)], 0.0)
    refuse_unfit([KLTier(beta=0)], 0.1)
    refuse_unfit([], 0.0)


def test_the_controller_is_that_of_ziegler_et_al() -> None:
    """beta <- beta (1 + K clip((KL - target) / target, -0.2, 0.2)), with K = 0.1."""
    control = KLControllers([KLTier(beta=0.5, target=0.1)], 0.3)
    control.update([0.11, 7.0])
    assert control.betas == [pytest.approx(0.5 * 1.01), 0.3]
    control.update([9.0, None])
    assert control.betas[0] == pytest.approx(0.5 * 1.01 * 1.02)
    control.update([0.0, None])
    assert control.betas[0] == pytest.approx(0.5 * 1.01 * 1.02 * 0.98)
    control.update([0.1, None])
    control.update([None, None])
    assert control.betas[0] == pytest.approx(0.5 * 1.01 * 1.02 * 0.98)


def test_a_coefficient_stays_within_its_span() -> None:
    control = KLControllers([KLTier(beta=0.5, target=0.1, gain=4, span=3)], 0.0)
    for _ in range(20):
        control.update([1.0, None])
    assert control.betas[0] == 1.5
    for _ in range(20):
        control.update([0.0, None])
    assert control.betas[0] == pytest.approx(0.5 / 3)


def test_restored_controllers_go_on_as_the_first_would_have() -> None:
    tiers = [KLTier(beta=0.5, target=0.1), KLTier(name="b", beta=0.2, target=0.4)]
    first, second = KLControllers(tiers, 0.1), KLControllers(tiers, 0.1)
    first.update([0.3, 0.2, 0.1])
    second.restore(json.loads(json.dumps(first.state())))
    assert second.betas == first.betas != [0.5, 0.2, 0.1]
