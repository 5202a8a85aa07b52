"""The accuracy reward: labelled pairs, real golds, echoes, hostile answers, and where the answer is looked for."""

from __future__ import annotations

import json
import pickle
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.accuracy import Accuracy, Undecided, prepare_gold
from rewards.exact import compare
from rewards.extract import final_answer
from rewards.forms import Shape, analyse
from rewards.notation import canonical
from rewards.reward import Sample, Status
from rewards.scoring import ScoringPool
from tests.hostile import BOMBS

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PAIRS = Path(__file__).with_name("data") / "answer_pairs.txt"


@pytest.fixture(scope="module")
def pool() -> Iterator[ScoringPool]:
    with ScoringPool(workers=2, spare=0) as made:
        yield made


def sample(completion: str, answer: str | None, prompt: str = "", convention: str = "none") -> Sample:
    return Sample(prompt=prompt, completion=completion, answer=answer, convention=convention)


def read_pairs() -> list[tuple[bool, str, str, str]]:
    pairs = []
    for line in PAIRS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            sign, gold, answer, prompt = (*(part.strip() for part in line.split(" ;; ")), "")[:4]
            assert sign in "=!"
            pairs.append((sign == "=", gold, answer, prompt))
    return pairs


def test_labelled_pairs(pool: ScoringPool) -> None:
    pairs = read_pairs()
    assert len(pairs) >= 150
    assert min(sum(p[0] for p in pairs), sum(not p[0] for p in pairs)) >= 60
    verdicts = Accuracy().judge_batch([sample(answer, gold, prompt) for _, gold, answer, prompt in pairs], pool)
    wrong = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if (verdict.score == 1.0) != pair[0]]
    assert wrong == []


def gsm8k() -> list[dict[str, str]]:
    path = DATA / "gsm8k" / "train.jsonl"
    if not path.exists():
        pytest.skip(f"real data not found: {path}")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def math_train() -> list[dict[str, str]]:
    path = DATA / "math_train" / "math.json"
    if not path.exists():
        pytest.skip(f"real data not found: {path}")
    rows: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def in_every_dress(gold: str, solution: str) -> list[tuple[str, str]]:
    return [
        (gold, "none"),
        (f"${gold}$", "none"),
        (f"\\boxed{{{gold}}}", "none"),
        (f"{solution}\nThe answer is $\\boxed{{{gold}}}$.", "none"),
        (f"<think>\n{solution}\n</think>\n<answer>\n{gold}\n</answer>", "think_answer"),
        (f"<think>\n{solution}\n</think>\nTherefore \\boxed{{{gold}}}.", "boxed"),
        (f"<推理过程>\n{solution}\n</推理过程>\n<摘要>\n{gold}\n</摘要>", "zh"),
    ]


def test_every_gsm8k_gold_and_solution_verifies() -> None:
    reward = Accuracy()
    for row in gsm8k():
        gold = prepare_gold(row["answer"])
        for completion, convention in [*in_every_dress(gold, row["answer"][:300]), (row["answer"], "none")]:
            verdict = reward.decide(sample(completion, gold, row["question"], convention))
            assert not isinstance(verdict, Undecided)
            assert verdict.score == 1.0, (gold, completion)
        empty = reward.decide(sample("", gold, row["question"]))
        assert not isinstance(empty, Undecided)
        assert empty.score == 0.0


def test_every_usable_math_gold_verifies_and_the_rest_are_named() -> None:
    reward, unusable = Accuracy(), 0
    for row in math_train():
        if not row["answer"]:
            unusable += 1
            with pytest.raises(ValueError, match="empty"):
                prepare_gold(row["answer"])
            continue
        gold = prepare_gold(row["answer"])
        for completion, convention in in_every_dress(gold, "Some words. " * 20):
            verdict = reward.decide(sample(completion, gold, row["problem"], convention))
            assert not isinstance(verdict, Undecided)
            assert verdict.score == 1.0, (gold, completion)
    assert unusable == 4


BUSY = 1.5
"""Seconds that a loaded machine may add to a deadline; on an idle one it is below 0.1."""

SPAN = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL)


def echoes(problem: str) -> set[str]:
    spans = {next(g for g in found.groups() if g) for found in SPAN.finditer(problem)}
    return spans | {part for span in spans for part in re.split(r"=|<|>|\\le|\\ge|,", span)}


def test_copying_from_the_prompt_does_not_pay(pool: ScoringPool) -> None:
    samples, rows = [], 0
    for row in math_train():
        if not row["answer"] or analyse(prepare_gold(row["answer"])).shape is not Shape.NUMBER:
            continue
        rows += 1
        gold = prepare_gold(row["answer"])
        samples += [
            sample(f"\\boxed{{{echo}}}", gold, row["problem"])
            for echo in echoes(row["problem"])
            if canonical(echo) != canonical(gold)
        ]
    verdicts = Accuracy().judge_batch(samples, pool)
    fooled = {s.prompt for s, v in zip(samples, verdicts, strict=True) if v.score == 1.0}
    assert rows > 6000
    assert len(fooled) < 0.005 * rows


def test_the_last_calculation_left_undone_does_not_pay() -> None:
    fooled = 0
    rows = gsm8k()
    for row in rows:
        gold = prepare_gold(row["answer"])
        found = re.findall(r"<<([^=<>]+)=", row["answer"])
        if found and canonical(found[-1]) != canonical(gold):
            verdict = Accuracy().decide(sample(f"\\boxed{{{found[-1]}}}", gold, row["question"]))
            fooled += not isinstance(verdict, Undecided) and verdict.score == 1.0
    assert fooled < 0.005 * len(rows)


def ground_types() -> tuple[float, str, str]:
    """What a worker's sympy and mpmath compute with."""
    from mpmath import libmp
    from sympy.external.gmpy import GROUND_TYPES

    return 1.0, "ok", f"{GROUND_TYPES} {libmp.BACKEND}"


QUICK = [bomb for bomb in BOMBS if len(bomb) > 5000] + list(BOMBS[:60])


@pytest.mark.parametrize("gold", ["5", "Monday", "C"])
def test_hostile_answers_are_wrong_answers(pool: ScoringPool, gold: str) -> None:
    for bomb in QUICK:
        verdict = Accuracy().judge_batch([sample(f"\\boxed{{{bomb}}}", gold, "p")], pool)[0]
        assert verdict.score == 0.0 or final_answer(f"\\boxed{{{bomb}}}") in ("5", "\u200b" * 500 + "5"), bomb[:80]


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("integers", ["python", "gmpy"])
def test_no_hostile_answer_hangs_or_crashes(integers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """gmpy2's factorials are single calls into C that no signal ends, so sympy is tried with it and without."""
    assert len(BOMBS) >= 60
    monkeypatch.setenv("SYMPY_GROUND_TYPES", integers)
    monkeypatch.delenv("MPMATH_NOGMPY", raising=False)
    if integers == "python":
        monkeypatch.setenv("MPMATH_NOGMPY", "1")
    with ScoringPool(workers=2) as own:
        used = own.run("tests.test_accuracy:ground_types", [()])[0]
        assert used.detail == f"{integers} {integers}", "gmpy2 is in the extra dev"
        for bomb in BOMBS:
            for gold in ("5", "x^2+1", r"\frac{\sqrt{3}}{2}", "(1,2)", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"):
                for completion in (bomb, f"\\boxed{{{bomb}}}"):
                    start = time.monotonic()
                    verdict = Accuracy().judge_batch([sample(completion, gold, "p")], own)[0]
                    assert time.monotonic() - start < own.deadline + BUSY, completion[:80]
                    assert verdict.score is not None, completion[:80]


@pytest.mark.parametrize(
    ("completion", "convention", "score"),
    [
        (r"<think>\boxed{5}</think><answer>6</answer>", "think_answer", 0.0),
        (r"<think>\boxed{5}</think>", "boxed", 0.0),
        (r"<think>\boxed{5}", "boxed", 0.0),
        ("<answer>5</answer>", "think_answer", 0.0),
        ("<think>x</think>5", "think_answer", 0.0),
        ("<think>x</think><answer>5", "think_answer", 1.0),
        (r"<think>x</think>\boxed{6} or rather \boxed{5}", "boxed", 0.0),
        (r"<think>x</think>First \boxed{6}. No, it is \boxed{5}.", "boxed", 1.0),
        ("<think></think><think>y</think><answer>5</answer>", "think_answer", 1.0),
        ("<推理过程>五</推理过程><摘要>答案是5。</摘要>", "zh", 1.0),
        ("", "none", 0.0),
    ],
)
def test_only_what_follows_the_reasoning_counts(completion: str, convention: str, score: float) -> None:
    verdict = Accuracy().decide(sample(completion, "5", "", convention))
    assert not isinstance(verdict, Undecided)
    assert verdict.score == score


PEOPLE = "(1) Zoey is a knave\n(2) Oliver is a knight\n(3) Ann is a knave"


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        (PEOPLE, 1.0),
        (f"So we know:\n\n{PEOPLE}.\n", 1.0),
        (f"\\boxed{{{PEOPLE}}}", 1.0),
        (PEOPLE.replace("\n", "\r\n").replace("Ann is a knave", "Ann is a Knave."), 1.0),
        ("(3) Ann is a knave", 0.0),
        (PEOPLE.replace("Zoey is a knave", "Zoey is a knight"), 0.0),
        (f"\\boxed{{{PEOPLE.replace('knight', 'knave')}}}", 0.0),
        ("\n".join(reversed(PEOPLE.splitlines())), 0.0),
        (f"{PEOPLE}\n(1) Zoey is a knight", 0.0),
        ("", 0.0),
    ],
)
def test_a_gold_of_several_lines_is_compared_line_by_line(answer: str, score: float) -> None:
    for completion, convention in ((answer, "none"), (f"<think>x</think><answer>{answer}</answer>", "think_answer")):
        verdict = Accuracy().decide(sample(completion, PEOPLE, "", convention))
        assert not isinstance(verdict, Undecided)
        assert verdict.score == score


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"so \boxed{\frac{1}{2}} is it", r"\frac{1}{2}"),
        (r"\boxed 7", "7"),
        (r"x=\boxed{1} or x=\boxed{2}", "1,2"),
        (r"\boxed{a \} b}", r"a \} b"),
        (r"\boxed{5", ""),
        ("a\n#### 72\n", "72"),
        ("work\nThe final answer is: 12", "12"),
        ("多行\n答案：12", "12"),
        ("one line", "one line"),
        ("first\nlast", "last"),
        ("   ", None),
        (r"\boxed{9}" + "x" * 5000 + "\n3", "3"),
    ],
)
def test_where_the_answer_is_found(text: str, found: str | None) -> None:
    assert final_answer(text) == found


@pytest.mark.parametrize(
    ("gold", "part"),
    [
        (None, "empty"),
        ("  ", "empty"),
        (r"\boxed{}", "no content"),
        ("$ $", "no content"),
        ("1" * 2000, "too long"),
        ("5\x00", "control characters"),
        (r"\frac{1}{2", "unbalanced"),
        ("}{", "unbalanced"),
        ("{" * 70 + "1" + "}" * 70, "nested"),
    ],
)
def test_a_gold_that_cannot_be_used_is_an_error_of_the_row(gold: str | None, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        prepare_gold(gold)
    if gold is not None:
        verdict = Accuracy().judge(sample("5", gold))
        assert (verdict.score, verdict.status) == (None, Status.UNPARSED_GOLD)


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("It is 6.\n#### 72", "72"),
        (r"so $\boxed{\frac12}$", r"\frac12"),
        (r"$\sqrt{51}$", r"\sqrt{51}"),
        ("$5$;$10$", "5 ; 10"),
        (r"\$18.90", "18.90"),
    ],
)
def test_a_gold_is_unwrapped(text: str, gold: str) -> None:
    assert prepare_gold(text) == gold


def test_a_row_without_gold_does_not_apply() -> None:
    assert Accuracy()(sample("5", None)) is None


def test_an_unreadable_formula_is_an_error_of_the_row_and_not_a_wrong_answer(pool: ScoringPool) -> None:
    verdict = Accuracy().judge_batch([sample("x+1", r"\foo{\bar}=\baz|<")], pool)[0]
    assert verdict.score in (None, 0.0)
    assert Accuracy().judge_batch([sample(r"\foo{\bar}=\baz|<", r"\foo{\bar}=\baz|<")], pool)[0].score == 1.0


def test_guards_can_be_switched_off(pool: ScoringPool) -> None:
    prompt = "Compute $5! - 1$."
    assert Accuracy().judge_batch([sample("5! - 1", "119", prompt)], pool)[0].score == 0.0
    open_ended = Accuracy(numeric_form=False, echo=False)
    assert open_ended.judge_batch([sample("5! - 1", "119", prompt)], pool)[0].score == 1.0


def test_the_reward_pickles_and_scores_alone() -> None:
    reward = pickle.loads(pickle.dumps(Accuracy(echo=False)))
    assert reward == Accuracy(echo=False)
    assert reward(sample("1+x", "x+1")) == 1.0  # the process's shared pool


@given(st.text(max_size=300))
def test_no_text_breaks_the_exact_path(text: str) -> None:
    for gold in ("5", "x+1", "(1,2)", "Monday"):
        verdict = Accuracy().decide(sample(text, gold, text))
        assert isinstance(verdict, Undecided) or verdict.score in (0.0, 1.0)


@given(st.text(alphabet="0123456789+-*/^(){}[].,\\fracsqrt $%=<>! |&_", max_size=60))
def test_a_spelling_is_canonical_once_and_equal_to_itself(text: str) -> None:
    form = analyse(text)
    assert compare(form, form) is True
    assert canonical(text) == canonical(text)


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_numbers_are_compared_exactly(one: object, other: object) -> None:
    forms = [analyse(str(one)), analyse(str(other))]
    assert compare(*forms) is (one == other)
