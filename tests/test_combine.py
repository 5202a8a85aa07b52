"""Mixes: weights, gates, domains, schedules, what does not apply, and the configuration that builds them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rewards
from rewards.combine import Mix, Schedule, Term, as_verdict
from rewards.reward import Sample, Status, Verdict

GOOD = (
    "<think>\nWe add the numbers: 12 + 7 = 19, and nothing more is left to be done here by anyone at all who reads"
    " this text now.\n</think>\n<answer>\n19\n</answer>"
)


def sample(completion: str = GOOD, **fields: Any) -> Sample:
    return Sample(**{"prompt": "What is 12 + 7?", "completion": completion, "answer": "19", "domain": "math", **fields})


@dataclass(frozen=True)
class Fixed:
    """Says the same of every sample."""

    score: float | None
    status: Status = Status.OK

    def __call__(self, sample: Sample, /) -> float | None:
        return self.score

    def judge(self, sample: Sample, /) -> Verdict:
        return Verdict(score=self.score, status=self.status)


def mix(**terms: tuple[Fixed, dict[str, Any]]) -> Mix:
    return Mix(terms=tuple(Term(name=name, reward=reward, **more) for name, (reward, more) in terms.items()))


def test_the_default_pays_by_the_recipe() -> None:
    scored = rewards.build().score([sample(), sample(GOOD.replace("\n19\n", "\n18\n")), sample("19")])
    assert scored[0].total == pytest.approx(1.0)
    assert scored[0].paid == pytest.approx({"correctness": 0.28, "completeness": 0.21, "format": 0.21, "language": 0.3})
    assert scored[1].scores["format"] == 1.0
    assert scored[1].total == pytest.approx(0.3)  # nothing for the layout of a wrong answer
    assert scored[2].total == 0.0
    assert sum(spec["weight"] for spec in rewards.DEFAULT) == pytest.approx(1.0)


def test_code_rows_are_paid_by_their_tests() -> None:
    tests = {"kind": "function", "entry_point": "f", "asserts": ["assert f(2) == 4"]}
    specs = [{"name": "correctness", "program": {"sandbox": "weak"}}, {"name": "format", "gate": "correctness"}]
    rows = [
        sample("<think>double</think><answer>def f(x): return 2*x</answer>", answer=None, tests=tests, domain="code"),
        sample("<think>double</think><answer>def f(x): return x</answer>", answer=None, tests=tests, domain="code"),
        sample(),
        sample(answer=None),
    ]
    totals = [b.total for b in rewards.build(specs).score(rows)]
    assert totals == [2.0, 0.0, 2.0, 1.0]


def test_a_gate_is_open_where_its_reward_does_not_apply() -> None:
    for score, paid in ((1.0, 1.0), (0.0, 0.0), (0.99, 0.0), (None, 1.0)):
        status = Status.NOT_APPLICABLE if score is None else Status.OK
        made = mix(a=(Fixed(score, status), {"weight": 0.0}), b=(Fixed(1.0), {"gate": ("a",)}))
        assert made.score([sample()])[0].paid["b"] == paid


def test_several_gates_must_all_be_passed() -> None:
    made = mix(a=(Fixed(1.0), {}), b=(Fixed(0.0), {}), c=(Fixed(1.0), {"gate": ("a", "b")}))
    assert made.score([sample()])[0].paid["c"] == 0.0


def test_what_does_not_apply_contributes_nothing_and_moves_no_weight() -> None:
    terms = {"a": (Fixed(1.0), {"weight": 0.5}), "b": (Fixed(None, Status.NOT_APPLICABLE), {"weight": 0.5})}
    assert mix(**terms).score([sample()])[0].total == 0.5
    made = Mix(terms=mix(**terms).terms, renormalise=True)
    assert made.score([sample()])[0].total == 1.0
    assert mix(b=terms["b"]).score([sample()])[0].total is None


@pytest.mark.parametrize("status", [Status.UNPARSED_GOLD, Status.SANDBOX_ERROR, Status.EXCEPTION])
def test_a_sample_that_failed_through_no_fault_of_its_own_trains_nothing(status: Status) -> None:
    made = mix(a=(Fixed(None, status), {}), b=(Fixed(1.0), {}))
    assert made.score([sample()])[0].total is None
    watched = mix(a=(Fixed(None, status), {"weight": 0.0}), b=(Fixed(1.0), {}))
    assert watched.score([sample()])[0].total == 1.0
    gate = mix(a=(Fixed(None, status), {"weight": 0.0}), b=(Fixed(1.0), {"gate": ("a",)}))
    assert gate.score([sample()])[0].total is None


def test_rewards_are_routed_by_domain() -> None:
    made = mix(a=(Fixed(1.0), {"domains": ("math", "code")}), b=(Fixed(2.0), {}))
    math, chat = made.score([sample(), sample(domain="general")])
    assert (math.total, chat.total) == (3.0, 2.0)
    assert chat.statuses["a"] is Status.NOT_APPLICABLE


def test_weights_follow_their_schedule() -> None:
    made = rewards.build([{"name": "format", "weight": 2.0, "schedule": {10: 0.0, 20: 1.0, 30: 0.5}}])
    totals = [made.score([sample()], step)[0].total for step in (0, 10, 15, 20, 25, 30, 99, None)]
    assert totals == [0.0, 0.0, 1.0, 2.0, 1.5, 1.0, 1.0, 1.0]


@given(st.dictionaries(st.integers(0, 1000), st.floats(-5, 5), min_size=1, max_size=6), st.integers(-5, 1100))
def test_a_schedule_stays_between_its_points(points: dict[int, float], step: int) -> None:
    schedule = Schedule(points=tuple(sorted(points.items())))
    assert min(points.values()) - 1e-9 <= schedule.factor(step) <= max(points.values()) + 1e-9
    for at, factor in points.items():
        assert schedule.factor(at) == pytest.approx(factor)


@given(st.lists(st.tuples(st.floats(-2, 2), st.one_of(st.none(), st.floats(-1, 1))), min_size=1, max_size=6))
def test_the_breakdown_adds_up(items: list[tuple[float, float | None]]) -> None:
    made = mix(
        **{
            f"r{i}": (Fixed(score, Status.NOT_APPLICABLE if score is None else Status.OK), {"weight": weight})
            for i, (weight, score) in enumerate(items)
        }
    )
    breakdown = made.score([sample()])[0]
    expected = [weight * score for weight, score in items if score is not None]
    assert breakdown.total == (pytest.approx(sum(expected)) if expected else None)
    assert set(breakdown.scores) == {f"r{i}" for i in range(len(items))}


def test_a_score_that_is_no_number_is_never_paid() -> None:
    for bad in (float("nan"), float("inf")):
        verdict = as_verdict(bad)
        assert (verdict.score, verdict.status) == (None, Status.EXCEPTION)


def test_order_is_kept_over_mixed_rows() -> None:
    rows = [sample(answer=str(number)) for number in (19, 20, 19, 21)]
    assert [b.total for b in rewards.build([{"name": "accuracy"}]).score(rows)] == [1.0, 0.0, 1.0, 0.0]
    assert rewards.build([{"name": "accuracy"}]).score([]) == []


def test_every_reward_and_the_default_mix_pickle() -> None:
    model = {"model": "x"}
    parameters = {"preference": model, "safety_model": model, "judge": {"url": "http://127.0.0.1:1", "model": "x"}}
    for name, kind in rewards.REWARDS.items():
        made = kind(**parameters.get(name, {}))
        assert pickle.loads(pickle.dumps(made)) == made
        with pytest.raises((AttributeError, TypeError)):
            made.something = 1
    assert pickle.loads(pickle.dumps(rewards.build())) == rewards.build()


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], "the list is empty"),
        ([{"name": "acuracy"}], "unknown reward 'acuracy'; did you mean 'accuracy'?"),
        ([{"name": "zzz"}], "unknown reward 'zzz'; known: accuracy"),
        ([{"name": "language", "min_word": 3}], "language has no parameter 'min_word'; did you mean 'min_words'?"),
        ([{"name": "language", "wieght": 3}], "did you mean 'weight'?"),
        ([{"name": "language", "min_words": "three"}], "parameter 'min_words' must be int, got 'three'"),
        ([{"name": "language", "min_words": True}], "parameter 'min_words' must be int, got True"),
        ([{"name": "language", "min_words": 2.5}], "must be int, got 2.5"),
        ([{"name": "language", "allow": "GPU"}], "parameter 'allow' must be tuple, got 'GPU'"),
        ([{"name": "preference"}], "preference needs the parameter 'model'"),
        ([{"name": "preference", "model": "x", "squash": "tanh"}], "parameter 'squash' must be 'sigmoid' or 'none'"),
        ([{"name": "safety_model"}], "safety_model needs the parameter 'model'"),
        ([{"name": "safety_model", "model": "x", "threshold": 0}], "threshold is a probability above 0, got 0"),
        ([{"name": "safety_model", "model": "x", "max_length": 4}], "needs batch_size >= 1 and max_length >= 16"),
        ([{"name": "overlong", "buffer": 0}], "buffer must be at least 1"),
        ([{"name": "length", "minimum": 9, "maximum": 3}], "minimum <= maximum"),
        ([{"name": "repetition", "size": 0}], "size >= 1"),
        ([{"name": "judge", "url": "ftp://x", "model": "m"}], "url must begin with"),
        ([{"name": "judge", "url": "http://x", "model": "m", "best": 0}], "best > 0"),
        ([{"name": "correctness", "accuracy": {"ecko": 1}}], "accuracy has no parameter 'ecko'; did you mean 'echo'?"),
        ([{"name": "correctness", "program": {"sandbox": "none"}}], "sandbox must be one of"),
        ([{"name": "accuracy"}, {"name": "accuracy"}], "'accuracy' occurs twice"),
        ([{"name": "format", "gate": "accuracy"}], "gate 'accuracy' is none of the other rewards"),
        ([{"name": "format", "gate": "format"}], "gate 'format' is none of the other rewards"),
        ([{"name": "format", "gate": 3}], "gate must be a name or a list of names"),
        ([{"name": "format", "weight": "much"}], "weight must be a number, got 'much'"),
        ([{"name": "format", "weight": float("nan")}], "weight must be a number"),
        ([{"name": "format", "schedule": [1, 2]}], "schedule must map steps to factors"),
        ([{"name": "format", "schedule": {"x": 1}}], "schedule must map steps to factors"),
        ([{"name": "format", "schedule": {}}], "needs at least one step"),
        ([{"name": "format", "schedule": {5: 1, 2: 0}}], "rising"),
        ([{"name": "format", "schedule": {"x": 1}}], "schedule"),
        ([{"name": "format", "schedule": {1: float("inf")}}], "finite"),
        ([{"weight": 1.0}], "needs either `name`"),
        ([{"name": "format", "function": "f"}], "needs either `name`"),
        ([{"name": "format", "path": "x.py"}], "`path` goes with `function`"),
        (["format"], "must be a mapping"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_clear_line(specs: list[Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        rewards.build(specs)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_beside_the_configuration_is_found(tmp_path: Path) -> None:
    (tmp_path / "scorer").mkdir()
    made = rewards.build(
        [{"name": "preference", "model": "scorer"}, {"name": "judge", "url": "http://x", "model": "m"}], tmp_path
    )
    assert made.terms[0].reward.model == str(tmp_path / "scorer")
    assert made.terms[1].reward.model == "m"


def test_two_of_a_kind_are_told_apart_by_their_label() -> None:
    specs = [{"name": "length", "label": "short", "maximum": 10}, {"name": "length", "label": "long", "maximum": 9999}]
    assert rewards.build(specs).names == ("short", "long")


def test_importing_rewards_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "trl", "datasets", "sympy", "numpy", "httpx", "math_verify")
    modules = "sys, rewards, rewards.cli, rewards.adapter, rewards.scoring"
    code = f"import {modules}; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
