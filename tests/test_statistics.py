"""Intervals and estimators against brute force, simulation and tables."""

from __future__ import annotations

import itertools
import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.statistics import (
    average,
    bootstrap_difference,
    difference,
    majority,
    pass_at,
    pass_at_k,
    proportion,
    student_quantile,
    wilson,
)


@pytest.mark.parametrize(("n", "correct", "k"), [(5, 0, 1), (5, 2, 1), (5, 2, 3), (6, 1, 4), (6, 6, 6), (7, 3, 5)])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_one(n, correct, k):
    subsets = list(itertools.combinations([1] * correct + [0] * (n - correct), k))
    assert pass_at_k(n, correct, k) == pytest.approx(sum(any(s) for s in subsets) / len(subsets))


@pytest.mark.parametrize(("n", "correct", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 2), (4, -1, 2)])
def test_pass_at_k_refuses_nonsense(n, correct, k):
    with pytest.raises(ValueError, match="pass@k needs"):
        pass_at_k(n, correct, k)


def test_wilson_against_published_values():
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-4)  # Newcombe 1998, table I
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-4)
    with pytest.raises(ValueError, match="positive sample size"):
        wilson(0.5, 0)


def test_student_quantiles_against_the_table():
    table = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 10: 2.228, 30: 2.042, 1000: 1.962}
    for freedom, value in table.items():
        assert student_quantile(freedom) == pytest.approx(value, abs=0.04 if freedom == 3 else 0.012)
    with pytest.raises(ValueError, match="degree of freedom"):
        student_quantile(0)


def test_one_sample_a_prompt_is_wilson():
    metric = average([[1.0]] * 81 + [[0.0]] * 182)
    assert (metric.n, metric.value) == (263, pytest.approx(81 / 263))
    assert (metric.low, metric.high) == wilson(81 / 263, 263)


def test_copies_of_a_sample_add_no_certainty():
    once = average([[1.0]] * 30 + [[0.0]] * 20)
    copied = average([[1.0] * 16] * 30 + [[0.0] * 16] * 20)
    assert copied.n == once.n == 50
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=0.03)
    even = average([[1.0, 0.0]] * 50)  # every prompt alike: all samples count
    assert (even.low, even.high) == wilson(0.5, 100)
    independent = average([[1.0, 0.0] * 8] * 50)
    assert independent.high - independent.low < 0.5 * (once.high - once.low)


def test_unanimity_leaves_doubt():
    assert average([[1.0, 1.0]] * 50).low < 0.95


def test_the_clustered_interval_covers_the_truth():
    rng, covered = random.Random(0), 0
    for _ in range(400):
        rates = [rng.betavariate(2, 1) for _ in range(60)]  # prompts differ in difficulty; the true mean is 2/3
        metric = average([[float(rng.random() < rate) for _ in range(8)] for rate in rates])
        covered += metric.low <= 2 / 3 <= metric.high
    assert 0.92 <= covered / 400 <= 0.985


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), max_size=4), min_size=1).filter(any))
def test_an_interval_holds_its_value_and_stays_a_share(clusters):
    metric = average(clusters)
    assert 0 <= metric.low <= metric.value <= metric.high <= 1
    assert metric.n == sum(map(bool, clusters))


def test_scores_on_a_scale_get_student():
    metric = average([[1.0, 3.0], [4.0], [6.0]])
    assert (metric.value, metric.n) == (4.0, 3)
    assert metric.high - metric.value == pytest.approx(4.303 * 2 / 3**0.5, abs=0.01)
    single = average([[0.3]])
    assert single.low == single.high == 0.3
    with pytest.raises(ValueError, match="at least one score"):
        average([[], []])


def test_a_proportion_stays_a_share():
    assert proportion([1.0] * 81 + [0.0] * 182) == average([[1.0]] * 81 + [[0.0]] * 182)
    nearly = proportion([1.0, 1.0, 1.0, 0.5])
    assert (nearly.value, nearly.n, nearly.high) == (0.875, 4, 1.0)


def test_pass_at_over_prompts():
    metric = pass_at([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0]], k=2)
    assert (metric.value, metric.n) == (pytest.approx(2 / 3), 3)
    mixed = pass_at([[1.0, 0.0, 0.0]] * 5 + [[0.0] * 3] * 5, k=1)
    assert mixed.value == pytest.approx(1 / 6)
    assert 0 <= mixed.low < mixed.value < mixed.high
    with pytest.raises(ValueError, match="no prompt has 3 samples"):
        pass_at([[1.0]], k=3)


def test_majority_counts_ties_by_halves_and_silence_as_wrong():
    votes = [
        [("4", 1.0), ("4", 1.0), ("5", 0.0)],
        [("4", 1.0), ("5", 0.0), (None, 0.0), (None, 0.0), (None, 0.0)],
        [(None, 0.0)],
        [],
    ]
    assert majority(votes).value == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert majority([[("a", 1.0), ("b", 0.0), ("b", 0.0)]]).value == 0


def test_pairing_removes_what_prompts_share():
    rng = random.Random(1)
    theirs = {str(i): rng.random() for i in range(200)}
    ours = {key: value + 0.05 + rng.gauss(0, 0.01) for key, value in theirs.items()} | {"only ours": 9.0}
    paired, boot = difference(ours, theirs), bootstrap_difference(ours, theirs)
    assert paired.n == boot.n == 200
    assert paired.value == pytest.approx(boot.value) == pytest.approx(0.05, abs=0.005)
    assert 0.045 < paired.low < paired.high < 0.055
    assert (boot.low, boot.high) == pytest.approx((paired.low, paired.high), abs=0.001)
    assert bootstrap_difference(ours, theirs) == boot
    unpaired = average([[v] for v in theirs.values()])
    assert paired.high - paired.low < 0.1 * (unpaired.high - unpaired.low)
    assert fmean(theirs.values()) == pytest.approx(unpaired.value)
    for compare in (difference, bootstrap_difference):
        with pytest.raises(ValueError, match="no prompt in common"):
            compare({"a": 1.0}, {"b": 1.0})
