"""The embedded world: right golds, clean chains, and no held-out problem anywhere in training."""

from __future__ import annotations

import itertools
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from data.records import user_text, validate
from data.template import CONVENTIONS
from data.tiny import corpus, mathematics, programs, science
from data.tiny.problems import Kind, Problem, held_out
from data.tiny.scribe import Scribe, add, divide, multiply, subtract
from data.tiny.world import KINDS, SPLITS, Split, draw_problem, problem_row, rows

ALL_KINDS = tuple(kind for kinds in KINDS.values() for kind in kinds)
TRAINING = tuple(name for name in SPLITS if name != "test")

FORMULAS: dict[str, Callable[..., int]] = {
    "sum_2": lambda a, b: a + b,
    "sum_3": lambda a, b: a + b,
    "difference_2": lambda a, b: a - b,
    "product_2": lambda a, b: a * b,
    "product_3": lambda a, b: a * b,
    "product_22": lambda a, b: a * b,
    "quotient": lambda a, b: a // b,
    "product_sum": lambda a, b, c: a * b + c,
    "product_difference": lambda a, b, c: a * b - c,
    "sum_product": lambda a, b, c: (a + b) * c,
    "unit": lambda which, n: n * science.UNITS[which][2],
    "period": lambda which, n: n * science.PERIODS[which][2],
    "law": lambda _, a, b: a * b,
    "ratio": lambda _, a, b: a // b,
    "motion": lambda a, b, c: a * b + c,
}
"""What the answer is, without any of the steps."""


def test_the_same_seed_gives_the_same_rows_and_a_shorter_draw_is_a_prefix() -> None:
    for split in SPLITS:
        assert list(rows(split, 40)) == list(rows(split, 60))[:40]
        assert list(rows(split, 40)) != list(rows(split, 40, seed=1))


@pytest.mark.parametrize("split", SPLITS)
def test_every_row_has_valid_columns_and_its_own_id(split: str) -> None:
    drawn = [validate(row, split) for row in rows(split, 300)]
    assert len({row["id"] for row in drawn}) == 300
    assert {row["language"] for row in drawn} == {"en", "zh"}
    assert {row["domain"] for row in drawn} == set(SPLITS[split].weights)
    assert all(1 <= row["difficulty"] <= 5 and row["source"] == "tiny" for row in drawn)
    assert all(("completion" in row) == SPLITS[split].completion for row in drawn)
    assert all(("chosen" in row) == ("rejected" in row) == SPLITS[split].pairs for row in drawn)
    assert all(row["chosen"] != row["rejected"] for row in drawn if "chosen" in row)


def test_math_has_every_level_of_difficulty() -> None:
    levels = Counter(row["difficulty"] for row in rows("rl", 1000) if row["domain"] == "math")
    assert set(levels) == {1, 2, 3, 4, 5}
    assert max(levels.values()) < 2 * min(levels.values())


@pytest.mark.parametrize("kind", [k for k in ALL_KINDS if k.domain in ("math", "science")], ids=lambda k: k.name)
def test_every_number_is_right_by_the_formula_alone(kind: Kind) -> None:
    rng = random.Random(0)
    for _ in range(200):
        operands = kind.draw(rng)
        assert kind.solve(operands, Scribe("en")) == str(FORMULAS[kind.name](*operands)), operands


def test_every_question_in_symbols_evaluates_to_its_answer() -> None:
    seen = 0
    for row in itertools.chain(rows("cold_start", 1500), rows("test", 800)):
        match = re.fullmatch(r"(?:What is|Compute|计算)? ?([\d+*/() -]+?)(?:\?|\.|。| 等于多少？)", user_text(row))
        if row["domain"] == "math" and match:
            seen += 1
            assert int(row["answer"]) == eval(match[1])
    assert seen > 400


def test_every_figure_of_a_clean_chain_is_right() -> None:
    for row in rows("cold_start", 600):
        text = row["completion"][0]["content"]
        for left, right in re.findall(r"(\d+(?:[-+*]\d+)+)=(\d+)", text):
            assert eval(left) == int(right), text


def test_logic_answers_follow_from_the_statements_alone() -> None:
    least = ("lightest", "smallest", "newest", "最轻", "最小", "最新")
    seen = 0
    for row in rows("cold_start", 2500):
        if row["domain"] != "logic":
            continue
        seen += 1
        text = user_text(row)
        pairs = re.findall(r"[Bb]ox (\d) is \w+ than box (\d)", text) or re.findall(r"(\d)号箱比(\d)号箱", text)
        boxes = {box for pair in pairs for box in pair}
        beaten = {pair[1] for pair in pairs}
        beating = {pair[0] for pair in pairs}
        ends = boxes - beating if any(word in text for word in least) else boxes - beaten
        assert ends == {row["answer"]}
    assert seen > 100


def test_code_golds_pass_their_tests_and_a_wrong_constant_fails_them() -> None:
    script = []
    for row in rows("sft_reasoning", 1200):
        if row["domain"] == "code":
            source = CONVENTIONS["think_answer"].parse(row["completion"][0]["content"]).answer
            assert row["tests"]["kind"] == "function"
            assert f"def {row['tests']['entry_point']}(" in str(source)
            assert row["tests"]["entry_point"] in user_text(row)
            script += [str(source), *row["tests"]["asserts"]]
    assert len(script) > 600
    assert subprocess.run([sys.executable, "-c", "\n".join(script)], timeout=20, check=False).returncode == 0
    empty = [line for line in script if line.startswith("assert")][:1]
    broken = ["def f1(*_): return None", empty[0].replace(empty[0].split("(")[0].split()[-1], "f1")]
    assert subprocess.run([sys.executable, "-c", "\n".join(broken)], capture_output=True, check=False).returncode == 1


def test_clean_rows_keep_to_their_language() -> None:
    chinese = re.compile(r"[\u4e00-\u9fff]")
    english = re.compile(r"[A-Za-z]{2,}")
    for split in ("cold_start", "sft_general"):
        for row in rows(split, 600):
            parsed = CONVENTIONS["think_answer"].parse(row["completion"][0]["content"])
            assert parsed.well_formed
            reasoning = str(parsed.reasoning)
            if row["language"] == "en":
                assert not chinese.search(reasoning + user_text(row))
            else:
                assert not english.search(reasoning), reasoning
                assert chinese.search(user_text(row))


@pytest.mark.parametrize("name", CONVENTIONS)
def test_completions_follow_the_convention_and_hold_the_answer(name: str) -> None:
    for row in rows("cold_start", 200, convention=name):
        parsed = CONVENTIONS[name].parse(row["completion"][0]["content"])
        assert parsed.well_formed
        assert row.get("answer") in (None, parsed.answer)


def test_a_convention_changes_the_layout_and_nothing_else() -> None:
    for first, second in zip(rows("cold_start", 100), rows("cold_start", 100, convention="zh"), strict=True):
        assert {**first, "completion": None} == {**second, "completion": None}
        assert "<推理过程>" in second["completion"][0]["content"]


def numbers(text: str) -> tuple[str, tuple[str, ...]]:
    """A prompt as its words and its figures: what a copy in training would share with it."""
    return re.sub(r"\d+", "#", text), tuple(re.findall(r"\d+", text))


def test_no_held_out_prompt_occurs_in_any_training_split_or_in_the_corpus() -> None:
    asked = {numbers(user_text(row)) for row in rows("test", 1500)}
    for split, seed in itertools.product(TRAINING, (0, 1)):
        assert asked.isdisjoint(numbers(user_text(row)) for row in rows(split, 5000, seed=seed)), split
    posed = re.compile(r"(?:Q: |user\n)(.*?)(?:\nA: |<\|im_end\|>)", re.DOTALL)
    found = [posed.search(text) for text in corpus.documents(20_000)]
    prompts = {numbers(match[1]) for match in found if match}
    assert all(found)
    assert len(prompts) > 8000
    assert asked.isdisjoint(prompts)


def test_no_held_out_problem_is_solved_on_the_way_to_a_training_answer() -> None:
    rng = random.Random(0)
    tested = {draw_problem(domain, rng, test=True).identity for domain in KINDS for _ in range(800)}
    for domain in KINDS:
        for _ in range(2000):
            problem = draw_problem(domain, rng, test=False)
            assert tested.isdisjoint((problem.identity, *problem.kind.parts(problem.operands)))


def test_the_order_of_a_sum_or_the_words_around_it_do_not_make_it_another_problem() -> None:
    assert mathematics.sum_identity(12, 30) == mathematics.sum_identity(30, 12)
    kind = mathematics.KINDS[0]
    assert Problem(kind, (12, 30)).is_test == Problem(kind, (30, 12)).is_test
    posed = {kind.pose((12, 30), random.Random(seed), "en") for seed in range(20)}
    assert len(posed) > 2
    assert 0.1 < sum(held_out(f"sum:{a},{b}") for a in range(50) for b in range(50)) / 2500 < 0.2


def test_the_test_split_asks_each_problem_once_and_says_when_it_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    reasoning = [row for row in rows("test", 1000) if row["domain"] not in ("general", "safety")]
    assert len(reasoning) >= 400
    prompts = {numbers(user_text(row)) for row in reasoning}
    assert len(prompts) == len(reasoning)
    monkeypatch.setitem(SPLITS, "test", Split(weights={"safety": 1}, test=True))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the split 'test' of the tiny world has only \d+ problems, 5000 were wanted"):
        list(rows("test", 5000))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cold_strat", 1), "no split 'cold_strat'; the nearest is cold_start"),
        (("rl", 1, 0, "think_anser"), "no convention 'think_anser'; the nearest is think_answer"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rows(*arguments)


def test_arithmetic_is_right_for_every_pair_of_small_numbers() -> None:
    for a, b in itertools.product(range(0, 400, 7), range(0, 400, 11)):
        assert add(Scribe("en"), a, b) == a + b
        assert subtract(Scribe("zh"), max(a, b), min(a, b)) == abs(a - b)
    for a, digit in itertools.product(range(0, 2000, 3), range(1, 10)):
        assert multiply(Scribe("en"), a, digit) == a * digit
        assert divide(Scribe("zh"), a, digit) == a // digit


def test_the_corpus_is_careless_and_mixed() -> None:
    """A base needs something to sharpen: wrong figures, both languages in one chain, many layouts."""
    texts = list(corpus.documents(2000))
    steps = [(eval(a), int(b)) for t in texts for a, b in re.findall(r"(?<![\d+*-])(\d{1,2}[+*]\d)=(\d+)", t)]
    wrong = sum(a != b for a, b in steps) / len(steps)
    assert 0.02 < wrong < 0.2
    well_formed = sum("<think>" in t and "</answer><|im_end|>" in t for t in texts) / len(texts)
    assert 0.05 < well_formed < 0.5
    replies = [t.split("assistant\n")[1] for t in texts if "assistant\n" in t]
    both = sum(bool(re.search(r"Ones|Tens", r)) and bool(re.search("个位|十位", r)) for r in replies)
    assert both / len(replies) > 0.02


def test_a_slip_carries_on_to_the_answer() -> None:
    scribe = Scribe("en", rng=random.Random(3), slip=1.0)
    assert add(scribe, 23, 45) != 68
    assert "3+5=8." not in scribe.text


def test_programs_do_not_share_a_test_input_twice() -> None:
    for kind in programs.KINDS:
        assert kind.tests is not None
        asserts = kind.tests(kind.draw(random.Random(0)), random.Random(0))["asserts"]
        assert len(set(asserts)) == 5


def test_a_problem_row_without_convention_has_no_solution() -> None:
    problem = draw_problem("math", random.Random(0), test=False)
    row = problem_row(problem, random.Random(0), "en", None)
    assert "completion" not in row
    assert row["answer"]
