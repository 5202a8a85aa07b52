"""The rules of the sentries, on figures made by hand; real trainers are in test_watch.py."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.training.sentries import (
    SENTRIES,
    SentryConfig,
    bounds_of,
    check_sentries,
    largest,
    setting_of,
    verified,
)
from stages.training.sentry_rules import Bounds, Drift, Hacking, mean_of, rise, two_proportions

FIGURES = {
    "zero_variance": "frac_reward_zero_std",
    "truncation": "completions/clipped_ratio",
    "entropy": "entropy",
    "kl": "kl",
    "sampler_gap": "sampler_gap",
    "no_success": "score/correctness",
}
"""Sentries that watch the mean of one figure."""


def feed(name: str, values: list[float], figure: str | None = None, **setting: Any) -> list[str | None]:
    """What the sentry says after each of these values."""
    rule = SENTRIES[name].rule(bounds_of(name, SentryConfig(**setting)))
    return [rule.see({"step": step, figure or FIGURES[name]: value}) for step, value in enumerate(values, 1)]


@pytest.mark.parametrize(
    ("name", "healthy", "sick"),
    [
        ("zero_variance", 0.8, 0.81),
        ("truncation", 0.3, 0.31),
        ("entropy", 0.01, 0.009),
        ("entropy", 1.0, 1.01),
        ("kl", 0.5, 0.51),
        ("sampler_gap", 0.1, 0.101),
        ("no_success", 0.001, 0.0009),
    ],
)
def test_the_mean_of_a_window_is_held_against_the_published_bound(name: str, healthy: float, sick: float) -> None:
    window = SENTRIES[name].bounds.window
    assert feed(name, [healthy] * 3 * window) == [None] * 3 * window
    said = feed(name, [sick] * (window + 1))
    assert said[: window - 1] == [None] * (window - 1)
    assert said[window - 1] is not None
    assert f"over steps 1 to {window}" in said[window - 1]
    assert f"over steps 2 to {window + 1}" in str(said[window])
    assert feed(name, [sick] * window + [healthy] * window)[-1] is None


def test_window_and_bounds_can_be_set() -> None:
    said = feed("entropy", [0.3, 0.3, 0.3], window=2, low=0.4)
    assert said == [None, "entropy in nats a token 0.3 over steps 1 to 2, below 0.4",
                    "entropy in nats a token 0.3 over steps 2 to 3, below 0.4"]  # fmt: skip
    assert feed("entropy", [5.0] * 20, high=9.0) == [None] * 20
    assert feed("kl", [0.6], window=1) == ["KL to the reference in nats a token 0.6 at step 1, above 0.5"]


def test_a_figure_that_is_no_number_is_out_of_bounds() -> None:
    assert feed("kl", [0.1] * 9 + [float("nan")])[-1] == (
        "KL to the reference in nats a token nan over steps 1 to 10, not a number"
    )


def test_a_line_without_the_figure_changes_nothing() -> None:
    rule = SENTRIES["kl"].rule(Bounds(window=2, high=0.5))
    said = [rule.see(line) for line in ({"step": 1, "kl": 1.0}, {"step": 2}, {"step": 3, "kl": 1.0}, {"step": 3})]
    assert said[:2] == [None, None]
    assert said[2] == said[3] == "KL to the reference in nats a token 1 over steps 1 to 3, above 0.5"


def test_trl_s_own_name_of_the_sampler_s_gap_is_read_too() -> None:
    assert feed("sampler_gap", [0.2] * 5, figure="sampling/sampling_logp_difference/mean")[-1] is not None


@pytest.mark.parametrize("name", FIGURES)
@given(data=st.data())
def test_no_sentry_fires_on_figures_within_its_bounds(name: str, data: st.DataObject) -> None:
    bounds = SENTRIES[name].bounds
    low, high = bounds.low or 0.0, 5.0 if bounds.high is None else bounds.high
    values = data.draw(st.lists(st.floats(low, high), min_size=1, max_size=60))
    assert set(feed(name, values)) == {None}


@given(st.permutations(range(10)), st.lists(st.floats(0, 2), min_size=10, max_size=10))
def test_the_order_within_a_window_does_not_matter(order: list[int], values: list[float]) -> None:
    assert feed("kl", values)[-1] == feed("kl", [values[at] for at in order])[-1]


@given(st.lists(st.floats(10, 19), min_size=1, max_size=60))
def test_lengths_that_do_not_double_are_no_drift(values: list[float]) -> None:
    assert set(feed("length_drift", values, figure="completions/mean_length")) == {None}


@pytest.mark.parametrize(("factor", "words"), [(2.1, "above 2"), (0.4, "below 0.5")])
def test_length_is_held_against_the_start_of_the_run(factor: float, words: str) -> None:
    values = [100.0] * 10 + [100.0 * factor] * 10
    said = feed("length_drift", values, figure="completions/mean_length")
    assert said[:14] == [None] * 14
    now = f"{100 * factor:.3g} over steps 11 to 20"
    assert said[-1] == f"tokens of a completion {now}, {factor:.2f} of the 100 at the start, {words}"


def test_drift_from_nothing_says_nothing() -> None:
    rule = Drift(lambda line: line.get("x"), "x", Bounds(window=1, low=0.5, high=2.0))
    assert [rule.see({"step": 1, "x": 0.0}), rule.see({"step": 2}), rule.see({"step": 3, "x": 9.0})] == [None] * 3


SAMPLED = {"step": 1, "completions/mean_length": 5.0}


def test_shares_are_summed_within_a_reward_and_the_worst_reward_counts() -> None:
    read = largest("status", ("timeout", "killed"))
    line = {
        **SAMPLED,
        "status/mine/timeout": 0.2,
        "status/mine/killed": 0.1,
        "status/a/b/timeout": 0.25,
        "status/mine/exception": 0.9,
        "unjudged/mine": 0.8,
    }
    assert read(line) == pytest.approx(0.3)
    assert largest("unjudged")({**line, "unjudged/a/b": 0.9}) == 0.9
    assert read(SAMPLED) == largest("unjudged")(SAMPLED) == 0.0
    assert read({"step": 2, "status/mine/timeout": 1.0}) is None


@pytest.mark.parametrize(
    ("figure", "share", "fires"),
    [
        ("unjudged/correctness", 0.02, {"verifier_errors"}),
        ("status/correctness/timeout", 0.2, {"verifier_timeouts"}),
        ("status/correctness/exception", 0.9, set()),  # a candidate program that raises is a wrong one
    ],
)
def test_failing_verifiers_are_told_from_failing_candidates(figure: str, share: float, fires: set[str]) -> None:
    found = set()
    for name in ("verifier_errors", "verifier_timeouts"):
        rule = SENTRIES[name].rule(SENTRIES[name].bounds)
        if [rule.see({**SAMPLED, "step": step, figure: share}) for step in range(5)][-1]:
            found.add(name)
    assert found == fires


def test_any_verifier_that_succeeds_is_success() -> None:
    assert verified({"step": 1, "score/format": 1.0}) is None
    assert verified({"step": 1, "score/program": 0.0, "score/accuracy": 0.25, "score/format": 1.0}) == 0.25


def probes(*found: tuple[float, float], n: float = 64, every: int = 3) -> list[dict[str, float]]:
    """Lines of a run with a probe every `every` steps; each entry is (held-out accuracy, reward)."""
    chance = random.Random(0)
    lines = []
    for number, (accuracy, reward) in enumerate(found):
        for k in range(every):
            line = {"step": number * every + k + 1, "reward": reward + chance.uniform(-0.01, 0.01)}
            lines.append({**line, "probe/accuracy": accuracy, "probe/n": n} if k == 0 else line)
    return lines


def hacking(lines: list[dict[str, float]], **bounds: Any) -> list[int]:
    rule = Hacking(Bounds(**{"window": 2, "high": 3.0, **bounds}))
    return [int(line["step"]) for line in lines if rule.see(line)]


def test_reward_up_and_held_out_accuracy_down_is_hacking() -> None:
    lines = probes((0.5, 0.1), (0.55, 0.2), (0.3, 0.5), (0.1, 0.9), (0.1, 0.9))
    assert hacking(lines) == [10, 11, 12, 13, 14, 15]
    rule = Hacking(Bounds(window=2, high=3.0))
    said = [words for words in map(rule.see, lines) if words]
    assert said[0].startswith("held-out accuracy 0.525 over steps 1 to 4 and 0.200 over steps 7 to 10 (n=128), while ")
    assert "a fall of 5.4 standard errors, above 3" in said[0]


def test_the_best_probes_so_far_are_what_counts() -> None:
    rising_first = probes((0.2, 0.1), (0.2, 0.1), (0.7, 0.4), (0.7, 0.4), (0.2, 0.9), (0.2, 0.9))
    assert hacking(rising_first) == [16, 17, 18]


@pytest.mark.parametrize(
    "found",
    [
        [(0.5, 0.5), (0.5, 0.5), (0.1, 0.2), (0.1, 0.1)],  # both fall: a collapse, not hacking
        [(0.5, 0.1), (0.5, 0.2), (0.6, 0.5), (0.7, 0.9)],  # both rise
        [(0.5, 0.1), (0.45, 0.2), (0.42, 0.5), (0.4, 0.9)],  # a fall within the noise of 64 prompts
        [(0.5, 0.5), (0.5, 0.5), (0.1, 0.5), (0.1, 0.5)],  # the reward did not rise
        [(0.5, 0.1), (0.5, 0.2), (0.0, 0.9)],  # too few probes to tell
        [(0.0, 0.1), (0.0, 0.2), (0.0, 0.9), (0.0, 0.9)],
    ],
)
def test_what_is_no_hacking(found: list[tuple[float, float]]) -> None:
    assert hacking(probes(*found)) == []


def test_more_prompts_make_the_probe_sharper() -> None:
    found = [(0.5, 0.1), (0.45, 0.2), (0.35, 0.5), (0.35, 0.9)]
    assert hacking(probes(*found)) == []
    assert hacking(probes(*found, n=1000)) != []
    assert hacking(probes(*found), high=1.0) != []


@given(st.lists(st.tuples(st.floats(0.3, 0.8), st.floats(0, 1)), max_size=12))
def test_accuracy_that_only_rises_is_never_hacking(found: list[tuple[float, float]]) -> None:
    rising = [(accuracy, reward) for accuracy, (_, reward) in zip(sorted(a for a, _ in found), found, strict=True)]
    assert hacking(probes(*rising)) == []


def test_the_statistics() -> None:
    assert two_proportions(0.5, 100, 0.3, 100) == pytest.approx(2.887, abs=1e-3)  # (0.2) / sqrt(0.4 * 0.6 * 2 / 100)
    assert two_proportions(1.0, 10, 1.0, 10) == two_proportions(0.0, 10, 0.0, 10) == 0.0
    assert rise([1.0], [2.0]) == float("inf")
    assert rise([2.0], [1.0]) == float("-inf")
    assert rise([1.0], [1.0]) == 0.0
    assert rise([0.0, 2.0], [1.0, 3.0]) == pytest.approx(1 / 2**0.5)
    assert mean_of([0.1] * 3) == 0.1


def test_the_page_tells_every_sentry_with_its_bounds_and_window() -> None:
    text = Path("docs/sentries.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \| ([^|]* \| \d+) \|", text, re.MULTILINE))
    for name, sentry in SENTRIES.items():
        sides = {"low": sentry.bounds.low, "high": sentry.bounds.high}
        bounds = ", ".join(f"{side} {value:g}" for side, value in sides.items() if value is not None)
        assert told[name] == f"{bounds} | {sentry.bounds.window}"
    assert set(told) == set(SENTRIES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"entropi": {}}, "unknown sentry 'entropi'; did you mean 'entropy'?"),
        ({"zzz": {}}, "unknown sentry 'zzz'; known: verifier_errors, "),
        ({"kl": {"low": 0.1}}, "kl: has no bound 'low'"),
        ({"no_success": {"high": 0.1}}, "no_success: has no bound 'high'"),
        ({"entropy": {"low": 2.0}}, "entropy: low = 2 is above high = 1"),
        ({"all": {"window": 3}}, "all: sets the action only"),
    ],
)
def test_settings_that_no_sentry_has_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_sentries({name: SentryConfig(**setting) for name, setting in settings.items()})
    assert message in str(caught.value)


def test_all_is_for_those_that_are_not_named() -> None:
    settings = {"all": SentryConfig(action="stop"), "kl": SentryConfig(action="off")}
    check_sentries(settings)
    assert setting_of("entropy", settings).action == "stop"
    assert setting_of("kl", settings).action == "off"
    assert setting_of("kl", {}).action == "warn"


def test_yaml_reads_the_word_off_as_false() -> None:
    assert SentryConfig.model_validate({"action": False}).action == "off"
    with pytest.raises(ValueError):
        SentryConfig.model_validate({"action": True})
