"""Mixtures: exact proportions, determinism, going on from a position, phases and replay."""

from __future__ import annotations

import logging
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.mixing import Phase, mix, mix_phases, quotas

SIZES = {"math": 60, "code": 25, "science": 10, "general": 40}


def make(sizes: dict[str, int], tokens: int = 1) -> list[dict[str, Any]]:
    return [
        {"id": f"{domain}-{n}", "domain": domain, "source": f"s{n % 2}", "tokens": 1 + (7 * n) % tokens}
        for domain, size in sizes.items()
        for n in range(size)
    ]


def tally(rows: Any) -> Counter[str]:
    return Counter(row["domain"] for row in rows)


weights_of = st.dictionaries(
    st.sampled_from(sorted(SIZES)), st.one_of(st.integers(1, 1000), st.floats(0.001, 1000)), min_size=1
)


@given(weights_of, st.integers(0, 5000))
def test_quotas_sum_to_the_total_and_miss_the_exact_share_by_less_than_one(
    weights: dict[str, float], total: int
) -> None:
    got = quotas(weights, total)
    whole = sum(Fraction(str(w)) for w in weights.values())
    assert sum(got.values()) == total
    assert all(abs(got[n] - Fraction(str(w)) * total / whole) < 1 for n, w in weights.items())


def test_a_ratio_is_normalised_and_the_remainder_goes_to_the_largest() -> None:
    assert quotas({"math": 6, "code": 2, "science": 1}, 10) == {"math": 7, "code": 2, "science": 1}
    assert quotas({"math": 600_000, "code": 200_000, "science": 100_000}, 900) == quotas(
        {"math": 6, "code": 2, "science": 1}, 900
    )
    assert quotas({"a": 1, "b": 1, "c": 1}, 1) == {"a": 1, "b": 0, "c": 0}
    assert quotas({"a": 1, "b": 0}, 3) == {"a": 3}


@settings(deadline=None, max_examples=60)
@given(weights_of, st.integers(1, 200), st.integers(0, 99))
def test_rows_follow_the_quotas_exactly_and_the_stream_is_a_function_of_the_seed(
    weights: dict[str, float], count: int, seed: int
) -> None:
    rows = make(SIZES)
    first = list(mix(rows, weights, count, seed, repeat=True))
    assert tally(first) == Counter(quotas(weights, count)) - Counter()
    assert first == list(mix(rows, weights, count, seed, repeat=True))


@settings(deadline=None, max_examples=60)
@given(weights_of, st.integers(1, 150), st.data())
def test_a_stream_goes_on_from_any_position(weights: dict[str, float], count: int, data: st.DataObject) -> None:
    rows = make(SIZES)
    start = data.draw(st.integers(0, count))
    whole = list(mix(rows, weights, count, 1, repeat=True))
    assert list(mix(rows, weights, count, 1, repeat=True, start=start)) == whole[start:]


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.sampled_from(sorted(SIZES)), st.integers(1, 20), min_size=1), st.integers(1, 150))
def test_every_prefix_stays_close_to_the_weights(weights: dict[str, int], count: int) -> None:
    stream = list(mix(make(SIZES), weights, count, 0, repeat=True))
    want = quotas(weights, count)
    for length in range(len(stream)):
        got = tally(stream[:length])
        assert all(abs(got[name] - want[name] * length / count) <= len(weights) for name in want)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.sampled_from(sorted(SIZES)), st.integers(1, 9), min_size=1), st.integers(1, 3000))
def test_by_tokens_each_group_exceeds_its_share_by_less_than_a_row(weights: dict[str, int], count: int) -> None:
    rows = make(SIZES, tokens=40)
    got: Counter[str] = Counter()
    for row in mix(rows, weights, count, 0, by="tokens", length=lambda r: r["tokens"], repeat=True):
        got[row["domain"]] += row["tokens"]
    for name, weight in weights.items():
        share = Fraction(weight * count, sum(weights.values()))
        assert share <= got[name] < share + 40


def test_without_a_count_the_scarcest_group_decides_and_nothing_repeats() -> None:
    got = list(mix(make(SIZES), {"math": 6, "code": 2, "science": 1}, None, 0))
    assert tally(got) == {"math": 60, "code": 20, "science": 10}
    assert len({row["id"] for row in got}) == len(got)


def test_another_seed_is_another_order_of_the_same_proportions() -> None:
    one, two = (list(mix(make(SIZES), {"math": 1, "code": 1}, 40, seed)) for seed in (0, 1))
    assert tally(one) == tally(two)
    assert one != two


def test_weights_can_be_over_sources() -> None:
    got = list(mix(make(SIZES), {"s0": 3, "s1": 1}, 40, 0, key="source"))
    assert Counter(row["source"] for row in got) == {"s0": 30, "s1": 10}


def test_repetition_covers_all_before_it_repeats_any(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        got = list(mix(make({"math": 10}), {"math": 1}, 25, 0, repeat=True))
    assert "'math' has 10 rows left, the mixture needs 25" in caplog.text
    assert sorted(Counter(row["id"] for row in got).values()) == [2] * 5 + [3] * 5
    assert len({row["id"] for row in got[:10]}) == len({row["id"] for row in got[10:20]}) == 10
    assert got[:10] != got[10:20]


def test_phases_go_on_where_the_last_one_stopped() -> None:
    phases = [
        Phase(name="reasoning", weights={"math": 6, "code": 2, "science": 1}, count=45),
        Phase(name="general", weights={"math": 1, "general": 1}, count=20),
    ]
    got = list(mix_phases(make(SIZES), phases, 0))
    assert [name for name, _ in got] == ["reasoning"] * 45 + ["general"] * 20
    assert tally(row for name, row in got if name == "general") == {"math": 10, "general": 10}
    assert len({row["id"] for _, row in got}) == 65
    assert list(mix_phases(make(SIZES), phases, 0, start=50)) == got[50:]


def test_a_phase_may_reuse_earlier_rows_once_its_new_ones_are_gone() -> None:
    rows = make({"math": 10, "code": 40})
    phases = [
        Phase(name="one", weights={"math": 3, "code": 4}, count=14, reuse=True),
        Phase(name="two", weights={"math": 1, "code": 1}, reuse=True),
        Phase(name="three", weights={"math": 1, "code": 1}, reuse=True),
    ]
    got = list(mix_phases(rows, phases, 0))
    ids = {name: [row["id"] for phase, row in got if phase == name] for name in ("one", "two", "three")}
    assert tally(row for name, row in got if name == "two") == {"math": 10, "code": 10}, "as much as the weights allow"
    for found in ids.values():
        assert len(set(found)) == len(found), "nothing twice within a phase"
    one, two = set(ids["one"]), set(ids["two"])
    assert not {i for i in one & two if i.startswith("code")}, "new rows first"
    fresh = [i for i in ids["two"] if i.startswith("math") and i not in one]
    assert [i for i in ids["two"] if i.startswith("math")][:4] == fresh
    with pytest.raises(ValueError, match="'math' has 10 rows left, the mixture needs 11"):
        mix_phases(rows, [Phase(name="p", weights={"math": 1}, count=11, reuse=True)], 0)


def test_a_phase_for_which_nothing_is_left_is_refused() -> None:
    phases = [Phase(name="one", weights={"math": 1}), Phase(name="two", weights={"math": 1, "code": 1})]
    with pytest.raises(ValueError, match="phase 'two': 'math' has no row left to give"):
        mix_phases(make(SIZES), phases, 0)


def test_replay_repeats_a_share_of_the_earlier_phases() -> None:
    phases = [
        Phase(name="one", weights={"math": 1}, count=20),
        Phase(name="two", weights={"general": 1}, count=20, replay=0.25),
    ]
    got = list(mix_phases(make(SIZES), phases, 0))
    earlier = {row["id"] for name, row in got if name == "one"}
    second = [row["id"] for name, row in got if name == "two"]
    assert len(second) == 20
    assert len(earlier.intersection(second)) == 5


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "at least one must be above 0"),
        ({"math": 0}, "at least one must be above 0"),
        ({"math": -1}, "math must be a finite number that is not negative"),
        ({"math": float("nan")}, "math must be a finite number"),
        ({"math": float("inf")}, "math must be a finite number"),
        ({"maths": 1}, "no rows whose domain is 'maths'; did you mean 'math'"),
    ],
)
def test_wrong_weights_are_refused_before_the_first_row(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mix(make(SIZES), weights, 5, 0)


def test_a_group_that_is_too_short_is_named() -> None:
    with pytest.raises(ValueError, match=r"'science' has 10 rows left, the mixture needs 20; .*repeat: true"):
        mix(make(SIZES), {"science": 1}, 20, 0)


def test_rows_without_the_column_and_tokens_without_a_count_are_refused() -> None:
    with pytest.raises(ValueError, match="row 'x' has no column 'domain'"):
        mix([{"id": "x"}], {"math": 1}, 1, 0)
    with pytest.raises(ValueError, match="needs a function that counts them"):
        mix(make(SIZES), {"math": 1}, 5, 0, by="tokens")
    with pytest.raises(ValueError, match="'math-0' has a length of 0 tokens"):
        mix(make({"math": 1}), {"math": 1}, 5, 0, by="tokens", length=lambda row: 0)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        mix(make(SIZES), {"math": 1}, 0, 0)


def test_replay_needs_something_to_repeat() -> None:
    with pytest.raises(ValueError, match="replay must be at least 0 and below 1, got 1"):
        mix_phases(make(SIZES), [Phase(name="p", weights={"math": 1}, count=5, replay=1.0)], 0)
    alone = Phase(name="p", weights={"math": 1}, count=10, replay=0.5, repeat=True)
    with pytest.raises(ValueError, match=r"'\(replay\)' has 0 rows left, the mixture needs 5"):
        mix_phases(make(SIZES), [alone], 0)


def test_each_row_stands_where_its_middle_falls() -> None:
    """Sainte-Lague: of 6 and 2 rows the middles lie at 1/12, 3/12, ... and 1/4, 3/4; equal ones go by the weights."""
    stream = mix(make({"a": 6, "b": 2}), {"a": 3, "b": 1}, 8, 0)
    assert "".join(row["domain"] for row in stream) == "aabaaaba"
