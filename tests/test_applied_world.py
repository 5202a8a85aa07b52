"""Medicine and finance: every answer is found again from the words of the question alone."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from data import sources
from data.applied import finance, medicine
from data.applied.world import KINDS, rows
from data.language import detect_language
from data.tiny.problems import draw
from rewards.correctness import Correctness
from rewards.reward import Sample

Formula = Callable[..., Fraction]
N = r"(\d+)"
QUESTIONS: list[tuple[str, Formula]] = [
    # medicine
    (rf"vial holds {N} g of a drug\. How many mg|Convert a dose of {N} g to mg", lambda g: g * 1000),
    (rf"一瓶药含{N}克。是多少毫克|把{N}克的剂量换算成毫克", lambda g: g * 1000),
    (rf"dose is {N} mg per kg\. A patient weighs {N} kg\. How many mg are given", lambda per, kg: per * kg),
    (rf"剂量是每千克体重{N}毫克。病人重{N}千克", lambda per, kg: per * kg),
    (rf"A dose is {N} mg and a tablet has {N} mg\. How many tablets", lambda dose, tablet: dose / tablet),
    (rf"剂量{N}毫克，每片{N}毫克。要服多少片", lambda dose, tablet: dose / tablet),
    (rf"{N} mL of saline run in over {N} hours\. How many mL is that per hour", lambda ml, hours: ml / hours),
    (rf"盐水{N}毫升，{N}小时输完。每小时多少毫升", lambda ml, hours: ml / hours),
    (rf"runs at {N} mL a minute and 1 mL is {N} drops\. How many drops fall a minute", lambda ml, drops: ml * drops),
    (rf"每分钟{N}毫升，1毫升为{N}滴。每分钟多少滴", lambda ml, drops: ml * drops),
    (rf"weighs {N} kg\. The square of the height is {N} m2\. What is the body-mass index", lambda kg, m2: kg / m2),
    (rf"体重{N}千克，身高的平方是{N}平方米。体重指数是多少", lambda kg, m2: kg / m2),
    (rf"takes {N} mg of a drug {N} times a day\. How many mg are that in {N} days", lambda mg, n, days: mg * n * days),
    (rf"每次服药{N}毫克，每天{N}次。{N}天共服多少毫克", lambda mg, n, days: mg * n * days),
    (
        rf"daily dose is {N} mg per kg, in {N} equal parts\. A child weighs {N} kg\. How many mg is one part",
        lambda per, parts, kg: per * kg / parts,
    ),
    (rf"每日剂量为每千克{N}毫克，分{N}次。孩子重{N}千克。每次多少毫克", lambda per, parts, kg: per * kg / parts),
    # finance
    (rf"One dollar buys {N} yuan\. How many yuan do {N} dollars buy", lambda rate, usd: rate * usd),
    (rf"rate is {N} yuan a dollar\. Change {N} dollars to yuan", lambda rate, usd: rate * usd),
    (rf"1美元换{N}元人民币。{N}美元换多少元|汇率是1美元兑{N}元。把{N}美元换成", lambda rate, usd: rate * usd),
    (rf"What is {N}% of {N} dollars|takes a fee of {N}% on {N} dollars", lambda rate, usd: usd * rate / 100),
    (rf"^{N}元的{N}%是多少元|银行对{N}元收{N}%的手续费", lambda sum_, rate: sum_ * rate / 100),
    (rf"costs {N} dollars and is sold at {N}% off\. What is the price now", lambda p, off: p * (100 - off) / 100),
    (rf"原价{N}元，降价{N}%。现价多少元", lambda p, off: p * (100 - off) / 100),
    (
        rf"bought at {N} dollars and sold at {N}\. What is the profit on {N} shares",
        lambda cost, sale, n: n * sale - n * cost,
    ),
    (rf"每股{N}元买入，{N}元卖出。{N}股赚多少元", lambda cost, sale, n: n * sale - n * cost),
    (rf"loan of {N} dollars is paid back in {N} equal parts", lambda loan, parts: loan / parts),
    (rf"贷款{N}元，分{N}期等额还清。每期多少元", lambda loan, parts: loan / parts),
    (
        rf"{N} dollars earn {N}% simple interest a year\. What is the interest after {N} years",
        lambda p, rate, years: p * rate * years / 100,
    ),
    (rf"本金{N}元，年利率{N}%，按单利算。{N}年的利息是多少元", lambda p, rate, years: p * rate * years / 100),
    (
        rf"{N} dollars earn {N}% interest a year, compounded yearly\. How many dollars are there after 2 years",
        lambda p, rate: p * (1 + rate / 100) ** 2,
    ),
    (rf"本金{N}元，年利率{N}%，按年复利。2年后共有多少元", lambda p, rate: p * (1 + rate / 100) ** 2),
]
"""What a question says, read anew, and the textbook's formula on its figures in their order."""


def recomputed(question: str) -> Fraction:
    found = [(match, formula) for pattern, formula in QUESTIONS if (match := re.search(pattern, question))]
    assert len(found) == 1, question
    match, formula = found[0]
    return formula(*(Fraction(text) for text in match.groups() if text is not None))


def asked(row: dict[str, Any]) -> str:
    return row["prompt"][-1]["content"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_answer_is_that_of_an_independent_formula(split: str) -> None:
    kinds: Counter[str] = Counter()
    for row in rows(split, 1200 if split == "train" else 300, seed=5):
        assert Fraction(row["answer"]) == recomputed(asked(row)), asked(row)
        kinds[re.sub(r"\d+", "#", asked(row))] += 1
        assert row["language"] == detect_language(asked(row))
    assert len(kinds) == 36 or split == "test", "every wording of every kind was drawn"


def test_each_solution_is_right_to_its_last_line() -> None:
    """Each equation of a chain holds, each answer is the last figure, and the reward of the pipeline agrees."""
    reward = Correctness()
    for row in rows("train", 300, seed=1):
        text = row["completion"][-1]["content"]
        for left, right in re.findall(r"([\d+*/\-]*\d[+*/\-][\d+*/\-]*)=(\d+)", text):
            value = eval(left.replace("/", "//"), {"__builtins__": {}})
            assert value == int(right), (left, text)
        sample = Sample(prompt=asked(row), completion=text, answer=row["answer"], domain=row["domain"])
        assert reward(sample) == 1.0


def test_both_domains_and_languages_are_even_and_the_sequence_is_a_function_of_the_seed() -> None:
    drawn = list(rows("train", 1000))
    assert all(400 < n < 600 for n in Counter(row["domain"] for row in drawn).values())
    assert all(400 < n < 600 for n in Counter(row["language"] for row in drawn).values())
    assert {row["domain"] for row in drawn} == set(KINDS) == {"medicine", "finance"}
    assert list(rows("train", 50)) == drawn[:50] != list(rows("train", 50, seed=1))
    assert len({row["id"] for row in drawn}) == 1000
    assert len(finance.KINDS) == 7
    assert len(medicine.KINDS) == 8


def test_no_test_question_is_trained_on_in_either_language() -> None:
    """Whether a problem is held out depends on its kind and figures; the language is drawn behind that."""
    train, test = rows("train", 1500), list(rows("test", 400))
    assert len({asked(row) for row in test}) == 400
    assert not {asked(row) for row in train} & {asked(row) for row in test}
    for kind in (*finance.KINDS, *medicine.KINDS):
        sides = [{draw(kind, random.Random(n), test=test).identity for n in range(40)} for test in (False, True)]
        assert sides[0].isdisjoint(sides[1])
        assert all(name.startswith(kind.name) for side in sides for name in side)


@pytest.mark.parametrize(
    ("split", "convention", "told"), [("tset", "zh", "split 'tset'"), ("test", "z", "convention 'z'")]
)
def test_an_unknown_split_or_convention_is_named(split: str, convention: str, told: str) -> None:
    with pytest.raises(ValueError, match=f"the applied world has no {told}"):
        rows(split, 1, convention=convention)


def test_a_test_split_that_is_used_up_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.applied.world._MOST_REPEATS", 12)
    with pytest.raises(ValueError, match=r"has only \d+ problems, 100000 wanted"):
        list(rows("test", 100_000))


def test_an_entry_of_a_configuration_reads_it_with_filters(tmp_path: Any) -> None:
    spec = {"source": "applied", "split": "train", "rows": 40, "domains": ["finance"], "languages": ["zh"]}
    found = list(sources.load(spec, tmp_path, 0, "zh").rows)
    assert {(row["domain"], row["language"]) for row in found} == {("finance", "zh")}
    assert "<推理过程>" in found[0]["completion"][0]["content"]
    assert (
        sources.identity(spec, tmp_path)["content"]
        != sources.identity({**spec, "source": "tiny", "split": "rl"}, tmp_path)["content"]
    )
    with pytest.raises(ValueError, match="unknown split 'tests' of applied; did you mean 'test'"):
        sources.check({**spec, "split": "tests"})
