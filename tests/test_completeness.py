"""Completeness: what a derivation is, in both languages, and what does not pay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.records import user_text
from data.tiny.world import rows as tiny_rows
from rewards.arithmetic import equalities, evaluate
from rewards.completeness import Completeness
from rewards.reward import Sample

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def score(prompt: str, reasoning: str, answer: str, gold: str | None = None, **fields: object) -> float | None:
    completion = f"<think>\n{reasoning}\n</think>\n<answer>\n{answer}\n</answer>"
    return Completeness()(Sample(prompt=prompt, completion=completion, answer=gold or answer, **fields))  # type: ignore[arg-type]


SUM = "What is 12 + 7?"


@pytest.mark.parametrize(
    ("prompt", "reasoning", "answer"),
    [
        (SUM, "12 + 7 = 19", "19"),
        (SUM, "Ones: 2+7=9. Tens: 1+0=1. So 19.", "19"),
        (SUM, "We have twelve and seven.\nSo 12 + 7 = 19.", "19"),
        ("计算 85 + 47。", "个位：5+7=12，进1。十位：8+4+1=13。得132。", "132"),
        ("354 / 6 等于多少？", "35/6=5，5*6=30，余5。54/6=9，9*6=54，余0。得59。", "59"),
        ("Convert 3 km to m.", "1 km is 1000 m. 3*1000=3000.", "3000"),
        ("Solve 2x+3=13 for x.", "We have 2x + 3 = 13, so 2x = 10. Hence x = 5.", "5"),
        ("Box 8 is older than box 3, box 3 than box 9. Which is newest?", "Know 8>3. Know 3>9. 8>3>9. So 9.", "9"),
        ("Add $\\frac{1}{2}$ and $\\frac{1}{3}$.", "$\\frac{1}{2} + \\frac{1}{3} = \\frac{5}{6}$", "\\frac{5}{6}"),
        ("Expand $(x+1)^2$.", "$(x+1)^2 = (x+1)(x+1) = x^2+2x+1$", "x^2+2x+1"),
    ],
)  # fmt: skip
def test_an_honest_derivation_scores_full_marks(prompt: str, reasoning: str, answer: str) -> None:
    assert score(prompt, reasoning, answer) == 1.0


@pytest.mark.parametrize(
    "reasoning",
    [
        "The answer is 19.",
        "19",
        "19 = 19",
        "19 + 0 = 19",
        "19 * 1 = 19",
        "20 - 1 = 18",
        "12 + 7 = 20",
        "12 + 7 = 18, so 19.",
        "What is 12 + 7? We think hard about 12 and 7. The answer is 19.",
        "50 - 31 = 19",  # true, but nothing of it comes from the prompt
        "blah " * 500,
        "=" * 500,
        "1 = 1 = 1 = 1",
    ],
)
def test_an_answer_without_a_derivation_scores_nothing(reasoning: str) -> None:
    assert score(SUM, reasoning, "19") == 0.0


HONEST = "First 12 + 7 = 19."


@pytest.mark.parametrize(
    "padding",
    [
        " 12 + 7 = 19. First 12 + 7 = 19.",
        " 3 + 3 = 6.",
        " 4 * 4 = 16. 5 * 5 = 25.",
        " 2 + 2 = 5.",
        " Let us think about it.\n" + "\n".join(f"Hm, thought {'abcdefghij'[i]} comes to mind." for i in range(10)),
    ],
)
def test_padding_lowers_the_score(padding: str) -> None:
    assert score(SUM, HONEST, "19") == 1.0
    padded = score(SUM, HONEST + padding, "19")
    assert padded is not None
    assert padded < 0.75


def test_more_of_the_same_never_raises_the_score() -> None:
    scores = [score(SUM, HONEST + " 3 + 4 = 7. 7 + 1 = 8." * n, "19") for n in range(6)]
    assert scores == sorted(scores, key=lambda s: -(s or 0))


def test_what_it_does_not_apply_to() -> None:
    assert score(SUM, "x", "19", convention="none") is None
    assert score("Is it even?", "x", "yes", gold="yes") is None
    assert score("Which?", "x", "(B)", gold="B") is None
    assert score("Write f.", "x", "def f(): pass", tests={"kind": "function"}) is None
    assert Completeness()(Sample(prompt="hello", completion="<think>x</think><answer>y</answer>")) is None
    assert Completeness()(Sample(prompt=SUM, completion="no tags 12 + 7 = 19", answer="19")) == 0.0
    assert Completeness()(Sample(prompt=SUM, completion="<think>12 + 7 = 19</think>", answer="19")) == 0.0


@pytest.mark.parametrize("convention", ["think_answer", "zh"])
def test_the_worked_solutions_of_the_tiny_world(convention: str) -> None:
    scores = []
    for row in tiny_rows("cold_start", 400, seed=3, convention=convention):
        sample = Sample(
            prompt=user_text(row), completion=row["completion"][0]["content"], answer=row.get("answer"),
            tests=row.get("tests"), convention=convention,
        )  # fmt: skip
        scores.append(Completeness()(sample))
    known = [s for s in scores if s is not None]
    assert len(known) > 200
    assert sum(known) / len(known) > 0.97


def gsm8k() -> list[tuple[str, str, str]]:
    path = DATA / "gsm8k" / "train.jsonl"
    if not path.exists():
        pytest.skip(f"real data not found: {path}")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:1500]]
    return [(r["question"], *(part.strip() for part in r["answer"].rpartition("####")[::2])) for r in rows]


def test_real_solutions_score_high_and_those_of_other_rows_low() -> None:
    rows = gsm8k()
    own = [score(question, solution, gold) or 0.0 for question, solution, gold in rows]
    assert sum(own) / len(own) > 0.85
    other = [
        score(question, rows[i - 1][1], gold) or 0.0
        for i, (question, _, gold) in enumerate(rows)
        if rows[i - 1][2] != gold
    ]
    assert sum(other) / len(other) < 0.05
    stated = [score(q, f"{q}\nThe answer is {gold}.", gold) or 0.0 for q, _, gold in rows]
    assert sum(stated) / len(stated) < 0.01
    padded = [score(rows[i][0], rows[i - 1][1] + "\n" + rows[i][1], rows[i][2]) or 0.0 for i in range(len(rows))]
    assert sum(padded) / len(padded) < sum(own) / len(own) - 0.2


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("48/2 = 24", [(24, True)]),
        ("sold 48/2 = <<48/2=24>>24 clips", [(24, True)]),
        ("5 apples + 3 apples = 8 apples", [(8, True)]),
        ("2*3 + 4 = 6 + 4 = 10", [(10, True)]),
        ("2+2=4 and 3+3=7", [(4, True), (7, False)]),
        ("17/5=3, rest 2", [(3, True)]),
        ("17/5=3", [(3, False)]),
        ("1/3 = 0.33", [(0.33, True)]),
        ("19 = 12 + 7", [(19, True)]),
        ("x = 5", []),
        ("1,200 + 300 = 1,500", [(1500, True)]),
        ("3 × 4 ＝ 12", [(12, True)]),
        ("10% * 50 = 5", [(5, True)]),
        ("1/0 = 5", []),
        ("9^9^9^9 = 1", []),
        ("= = =", []),
    ],
)
def test_equalities_are_found_and_checked(sentence: str, found: list[tuple[float, bool]]) -> None:
    assert [(float(e.output), e.true) for e in equalities(sentence)] == [(pytest.approx(v), t) for v, t in found]


@pytest.mark.parametrize(
    ("text", "value"),
    [("2+3*4", 14), ("(2+3)*4", 20), ("2^3^2", 512), ("-3+5", 2), ("8/4/2", 1),
     ("(1", None), ("1+", None), ("", None), ("2^99", None), ("1/0", None)],
)  # fmt: skip
def test_arithmetic_is_exact(text: str, value: int | None) -> None:
    assert evaluate(text) == value


@given(st.text(max_size=400))
def test_no_text_breaks_it(text: str) -> None:
    made = score(text, text, text or "1", gold="12")
    assert made is None or 0.0 <= made <= 1.0


@given(st.text(alphabet="0123456789+-*/^()=<>.% \nabx", max_size=300))
def test_no_arithmetic_breaks_it(text: str) -> None:
    made = score("3 and 4", text, "12", gold="12")
    assert made is not None
    assert 0.0 <= made <= 1.0
