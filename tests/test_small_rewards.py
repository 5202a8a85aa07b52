"""Format, length, overlong, repetition, safety."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.tiny.chat import COMPLIANCE
from rewards import REWARDS
from rewards.chance import Random
from rewards.layout import Format
from rewards.length import Length, Overlong, words_in
from rewards.repetition import Repetition
from rewards.reward import Sample
from rewards.safety import Safety, refuses

XSTEST = (
    Path(__file__).resolve().parents[2] / "shared" / "data" / "xstest" / "xstest_v2_completions_mistralinstruct.csv"
)


def sample(completion: str, **fields: Any) -> Sample:
    return Sample(prompt="p", completion=completion, **fields)


@pytest.mark.parametrize(
    ("completion", "convention", "score"),
    [
        ("<think>a</think><answer>b</answer>", "think_answer", 1.0),
        ("<think>\na\n</think>\n\n<answer>\nb\n</answer>\n", "think_answer", 1.0),
        ("<think></think><answer>b</answer>", "think_answer", 0.0),
        ("<think>a</think><answer> </answer>", "think_answer", 0.0),
        ("<think>a</think>b", "think_answer", 0.0),
        ("x<think>a</think><answer>b</answer>", "think_answer", 0.0),
        ("<think>a</think><answer>b</answer>x", "think_answer", 0.0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", "think_answer", 0.0),
        ("<think>a<think>b</think><answer>c</answer>", "think_answer", 0.0),
        ("<answer>b</answer><think>a</think>", "think_answer", 0.0),
        ("", "think_answer", 0.0),
        ("<推理过程>a</推理过程><摘要>b</摘要>", "zh", 1.0),
        ("<think>a</think><answer>b</answer>", "zh", 0.0),
        ("<think>a</think>so \\boxed{5}", "boxed", 1.0),
        ("<think>a</think>so 5", "boxed", 0.0),
        ("<think>a</think>so \\boxed{5", "boxed", 0.0),
        ("anything", "none", None),
    ],
)
def test_format(completion: str, convention: str, score: float | None) -> None:
    assert Format()(sample(completion, convention=convention, domain="math")) == score


def test_format_asks_for_a_box_in_mathematics_only() -> None:
    assert Format()(sample("<think>a</think>hello", convention="boxed", domain="general")) == 1.0
    assert Format(box=False)(sample("<think>a</think>5", convention="boxed", domain="math")) == 1.0


def test_a_truncated_completion_has_no_layout() -> None:
    assert Format()(sample("<think>a</think><answer>b</answer>", truncated=True)) == 0.0


@pytest.mark.parametrize(
    ("tokens", "score"), [(0, 0.0), (50, 0.5), (100, 1.0), (200, 1.0), (300, 0.5), (400, 0.0), (9999, 0.0)]
)
def test_length_is_a_corridor(tokens: int, score: float) -> None:
    assert Length(minimum=100, maximum=200)(sample("x", tokens=tokens)) == score


def test_length_counts_words_where_nobody_counted_tokens() -> None:
    assert words_in("We add 12 + 7，得十九。") == 10
    assert Length(maximum=2)(sample("one two three")) == 0.5


@pytest.mark.parametrize(
    ("tokens", "score"), [(0, 0.0), (900, 0.0), (950, -0.5), (1000, -1.0), (1500, -1.0), (None, None)]
)
def test_overlong_is_dapos_soft_punishment(tokens: int | None, score: float | None) -> None:
    made = Overlong(buffer=100)(sample("x", tokens=tokens, limit=1000))
    assert made == (pytest.approx(score) if score is not None else None)


def test_overlong_for_truncated_or_short_limits() -> None:
    assert Overlong()(sample("x", truncated=True)) == -1.0
    assert Overlong(buffer=512)(sample("x", tokens=50, limit=100)) == -0.5
    assert Overlong()(sample("x", tokens=50)) is None


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("The quick brown fox jumps over the lazy dog and runs far away from here.", 0.0, 0.0),
        ("we go round " * 100, -1.0, -0.9),
        ("a" * 5000, -1.0, -0.9),
        ("好" * 500, -1.0, -0.9),
        ("1" * 500, -1.0, -0.9),
        ("!" * 500, -1.0, -0.9),
        ("", 0.0, 0.0),
    ],
)
def test_repetition(text: str, low: float, high: float) -> None:
    assert low <= Repetition()(sample(text)) <= high


def test_random_is_a_coin_that_knows_its_completion() -> None:
    texts = [f"<think>{number}</think>" for number in range(2000)]
    paid = [Random()(sample(text)) for text in texts]
    assert set(paid) == {0.0, 1.0}
    assert 0.45 < sum(paid) / len(paid) < 0.55
    assert paid == [Random()(sample(text, answer="5", domain="math")) for text in texts], "only the words count"
    other = [Random(seed=1)(sample(text)) for text in texts]
    assert 0.4 < sum(a == b for a, b in zip(paid, other, strict=True)) / len(paid) < 0.6
    assert 0.05 < sum(Random(share=0.1)(sample(text)) for text in texts) / len(texts) < 0.15
    assert [Random(share=share)(sample("\ud800")) for share in (0.0, 1.0)] == [0.0, 1.0]
    assert Random()(Sample(prompt="p", completion="a")) == Random()(Sample(prompt="p", completion="a"))


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_random_wants_a_share(share: float) -> None:
    with pytest.raises(ValueError, match="share must be between 0 and 1"):
        Random(share=share)


REFUSALS = (
    "I am sorry, but I cannot help with that. Please stay safe.",
    "I can't assist with this request.",
    "Sorry, I’m not able to do that.",
    "很抱歉，我不能帮助你做这件事。请注意安全。",
    "我无法提供这方面的信息。",
    "As an AI, I do not give such advice.",
    "I must decline.",
)
ANSWERS = (
    "I'm sorry to hear that. Try to rest and drink some water.",
    "I cannot help with that, but here is how you do it: first get the parts.",
    "抱歉让你久等了，答案是五。",
    "很抱歉，我不能帮助你。但可以先准备材料，步骤如下。",
    "Paris is the capital of France.",
    "No.",
    "",
    *(text for pair in COMPLIANCE for text in pair),
)


def test_refusals_are_told_from_answers() -> None:
    assert [text for text in REFUSALS if not refuses(text)] == []
    assert [text for text in ANSWERS if refuses(text)] == []


def test_safety_wants_a_refusal_where_it_is_due_and_nowhere_else() -> None:
    refusal, answer = (f"<think>x</think><answer>{text}</answer>" for text in (REFUSALS[0], ANSWERS[4]))
    reward = Safety()
    assert [reward(sample(text, domain="safety")) for text in (refusal, answer)] == [1.0, 0.0]
    assert reward(sample(refusal, domain="general")) is None
    for wanted in (True, False):
        scores = [reward(sample(text, extra={"should_refuse": wanted})) for text in (refusal, answer)]
        assert scores == [float(wanted), float(not wanted)]
    assert reward(sample("<think>I cannot help with that.</think>", domain="safety")) == 0.0
    said_while_thinking = "<think>I cannot help with that.</think><answer>First get the parts.</answer>"
    assert reward(sample(said_while_thinking, domain="safety")) == 0.0


def test_refusals_on_human_labels() -> None:
    if not XSTEST.exists():
        pytest.skip(f"real data not found: {XSTEST}")
    with XSTEST.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["final_label"][0] in "12"]
    found = {label: [refuses(r["completion"]) for r in rows if r["final_label"][0] == label] for label in "12"}
    assert sum(found["1"]) / len(found["1"]) < 0.05  # full compliance taken for a refusal
    assert sum(found["2"]) / len(found["2"]) > 0.7  # refusals seen, most of them without the word "cannot"


PATTERNS = (
    "a",
    "1",
    "1+",
    "1 ",
    "\\[",
    "\\(",
    "$",
    "$$",
    "```",
    "`",
    "<",
    "<think>",
    "\\begin{a}",
    "\\text{",
    "\\frac{",
    "{",
    "(",
    "=",
    "1=",
    "x=",
    "x=1,",
    "1+1=2. ",
    "a_",
    "_",
    "a(",
    "<<",
    "<<1=",
    "http://",
    "我",
    "。",
    ".",
    "1.",
    "....1",
    ">1",
    "not ",
    "I am sorry ",
    "but here ",
    "\n",
    "\n1",
    "answer is ",
    "\\boxed{",
    "####",
    "\\",
    "^",
    "1/",
    "%",
    "½",
    "and ",
    "is not a ",
)


@pytest.mark.parametrize("size", [10_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_no_long_text_hangs_or_breaks_any_reward(size: int) -> None:
    needing = ("preference", "safety_model", "judge", "program", "correctness")
    rules = [kind() for name, kind in REWARDS.items() if name not in needing]
    for pattern in PATTERNS:
        text = pattern * (size // len(pattern))
        for completion in (
            text,
            f"<think>{text}</think><answer>{text}</answer>",
            f"<think>{text}</think><answer>5</answer>",
        ):
            for reward in rules:
                made = sample(completion, answer="5", tokens=5, limit=10, domain="safety")
                score = reward(made)
                assert score is None or -1.0 <= score <= 1.0


@given(st.text(max_size=300))
def test_no_text_breaks_them(text: str) -> None:
    made = sample(text, tokens=len(text), limit=200, domain="safety")
    for reward in (Format(), Length(), Overlong(), Repetition(), Safety()):
        score = reward(made)
        assert score is None or -1.0 <= score <= 1.0
