"""Rows with golds that cannot be read are counted by reason and left out, wherever a reward would read them."""

from __future__ import annotations

from typing import Any

import pytest

import rewards
from stages.checkable import ANSWER, NEITHER, TESTS, checkable
from stages.general_rl import default_rewards

GOOD_TESTS = {"kind": "function", "entry_point": "f", "asserts": ["assert f(1) == 1"]}
BAD_TESTS = {"kind": "function", "entry_point": "f", "asserts": ["assert f(1 =="]}


def row(domain: str = "math", **columns: Any) -> dict[str, Any]:
    return {"id": "r", "prompt": [{"role": "user", "content": "q"}], "domain": domain, "language": "en", **columns}


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (row(answer="42"), None),
        (row(answer="#### 42"), None),
        (row(answer=""), ANSWER),
        (row(answer=r"\frac{1}{2"), ANSWER),
        (row(answer="####"), ANSWER),
        (row(tests=GOOD_TESTS), None),
        (row(tests=BAD_TESTS), TESTS),
        (row(tests={"kind": "fonction"}), TESTS),
        (row(tests=BAD_TESTS, answer="42"), TESTS),
        (row(tests=GOOD_TESTS, answer=""), None),
        (row(), NEITHER),
    ],
)
def test_the_default_mix(found: dict[str, Any], reason: str | None) -> None:
    counts: dict[str, int] = {}
    assert checkable([found], rewards.DEFAULT, counts, verified=True) == ([] if reason else [found])
    assert counts == ({reason: 1} if reason else {})


def test_rows_that_no_rule_judges_need_no_gold() -> None:
    rows = [row("general"), row("general", answer=""), row("math", answer=""), row("safety")]
    counts: dict[str, int] = {}
    assert checkable(rows, default_rewards(), counts, verified=False) == [rows[0], rows[1], rows[3]]
    assert counts == {ANSWER: 1}


def test_golds_are_read_by_those_rewards_only_that_would_read_them() -> None:
    rows = [row(answer=""), row(tests=BAD_TESTS), row(tests=GOOD_TESTS, answer="")]
    for specs, kept in (
        ([{"name": "format"}], [0, 1, 2]),
        ([{"name": "accuracy"}], [1]),
        ([{"name": "program"}], [0, 2]),
        ([{"name": "correctness", "domains": "code"}], [0, 1, 2]),
        ([{"path": "mine.py", "function": "f"}], [0, 1, 2]),
    ):
        assert checkable(rows, specs, {}, verified=True) == [rows[i] for i in kept], specs
