"""Other numbers in a word problem: what is certain is calculated again, and everything else is refused."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data import sources
from data.augment_chain import NUMBER, Refused, numbers, spell
from data.augment_numbers import perturbed, same_kind, understand
from rewards.correctness import Correctness
from rewards.reward import Sample

REAL = Path(__file__).parents[2] / "shared" / "data"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the public data files are not in {REAL}")

CLIPS = (
    "Natalia sold 48 clips in April, and half as many in May. She sold 30 in June. How many clips did she sell?",
    "She sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24+30 = <<48+24+30=102>>102 clips.\n#### 102",
)


def by_python(expression: str) -> Fraction:
    """A calculation as Python's own parser and operators evaluate it: nothing of the code under test."""
    assert re.fullmatch(r"[\d.+\-*/() ]+", expression), expression
    exact = re.sub(r"\d+(?:\.\d+)?|\.\d+", lambda m: f"Fraction('{m.group()}')", expression)
    return eval(exact, {"__builtins__": {}, "Fraction": Fraction})  # type: ignore[no-any-return]


def notes(answer: str) -> list[tuple[str, str]]:
    found = [note.replace(",", "") for note in re.findall(r"<<(.*?)>>", answer)]
    return [(note.rpartition("=")[0], note.rpartition("=")[2]) for note in found]


def verify(question: str, answer: str, new_question: str, new_answer: str) -> None:
    """A copy from outside: words untouched, every note comes out, the gold is the last, each given number is used."""
    assert NUMBER.sub("#", new_question) == NUMBER.sub("#", question)
    assert NUMBER.sub("#", new_answer) == NUMBER.sub("#", answer)
    assert new_question != question
    for expression, result in notes(new_answer):
        assert by_python(expression) == Fraction(result), new_answer
    gold = Fraction(new_answer.rpartition("####")[2].strip().replace(",", ""))
    assert gold == Fraction(notes(new_answer)[-1][1])
    literals = {Fraction(text) for expression, _ in notes(new_answer) for text in NUMBER.findall(expression)}
    for number in numbers(new_question):
        assert number.value in literals or (number.percent and number.value / 100 in literals), new_question
    for (_, old), (_, new) in zip(notes(answer), notes(new_answer), strict=True):
        assert same_kind(Fraction(old), Fraction(new))


def test_a_copy_is_calculated_again_from_end_to_end() -> None:
    seen = set()
    for seed in range(20):
        question, answer = perturbed(understand(*CLIPS), random.Random(seed))
        verify(*CLIPS, question, answer)
        april, june = (int(text) for text in re.findall(r"\d+", question))
        assert answer == (
            f"She sold {april}/2 = <<{april}/2={april // 2}>>{april // 2} clips in May.\n"
            f"She sold {april}+{april // 2}+{june} = "
            f"<<{april}+{april // 2}+{june}={april + april // 2 + june}>>{april + april // 2 + june} clips.\n"
            f"#### {april + april // 2 + june}"
        )
        seen.add(question)
    assert len(seen) > 10


def test_the_same_generator_gives_the_same_copy() -> None:
    problem = understand(*CLIPS)
    assert perturbed(problem, random.Random(3)) == perturbed(problem, random.Random(3))


@pytest.mark.parametrize(
    ("question", "answer", "pattern"),
    [
        ("Tom has 20% of 400 pens. How many?", "400*.20=<<400*.20=80>>80\n#### 80", r"(\d+)% of (\d+)"),
        ("Tom has 20% of 400 pens. How many?", "20/100*400=<<20/100*400=80>>80\n#### 80", r"(\d+)% of (\d+)"),
    ],
)
def test_a_percentage_may_be_calculated_with_as_a_share(question: str, answer: str, pattern: str) -> None:
    for seed in range(10):
        new_question, new_answer = perturbed(understand(question, answer), random.Random(seed))
        verify(question, answer, new_question, new_answer)
        found = re.search(pattern, new_question)
        assert found
        rate, whole = map(int, found.groups())
        assert rate < 100
        assert int(new_answer.rpartition("####")[2]) * 100 == rate * whole


def test_money_keeps_its_decimals_and_thousands_their_commas() -> None:
    question = "A lot of 1,200 pens at $2.50 each. What is the price?"
    answer = "1,200*2.5 = $<<1200*2.5=3000>>3,000\n#### 3000"
    for seed in range(10):
        new_question, new_answer = perturbed(understand(question, answer), random.Random(seed))
        verify(question, answer, new_question, new_answer)
        price = re.search(r"\$([\d.]+) each", new_question)
        assert price
        assert re.fullmatch(r"\d+\.\d\d", price.group(1))
        assert re.search(r"lot of (\d,\d{3}|\d{3}) pens", new_question)


def test_constants_of_the_world_and_years_stay() -> None:
    question = "Ann works 8 hours a day for 5 days in 2021 and earns 9 dollars an hour. How much?"
    answer = "She works 8*5=<<8*5=40>>40 hours.\nShe earns 40*9=<<40*9=360>>360 dollars.\n#### 360"
    with pytest.raises(Refused, match="not calculated with"):
        understand(question, answer)
    problem = understand(question.replace(" in 2021", ""), answer)
    for seed in range(10):
        assert "works 8 hours a day" in perturbed(problem, random.Random(seed))[0]
    born = (
        "Ann was born in 1990. How old was she 25 years later, in what year?",
        "1990+25=<<1990+25=2015>>2015\n#### 2015",
    )
    for seed in range(10):
        assert "born in 1990" in perturbed(understand(*born), random.Random(seed))[0]


REFUSED: dict[str, tuple[str, str]] = {
    "the answer is no number": ("Tom has 3 pens. How many?", "<<3+0=3>>3\n#### three"),
    "the question may ask for a comparison": ("One costs 3 and one 5. Which is cheaper?", "5-3=<<5-3=2>>2\n#### 2"),
    "no calculation is noted": ("Tom has 3 pens. How many?", "Three.\n#### 3"),
    "the question holds no number": ("Tom has ten pens and gets ten. How many?", "10+10=<<10+10=20>>20\n#### 20"),
    "the answer is not the last result": ("Tom has 3 and 5. How many?", "3+5=<<3+5=8>>8\n#### 9"),
    "a number of the question is not calculated with": ("Tom, who is 7, has 3 and 5.", "3+5=<<3+5=8>>8\n#### 8"),
    "a number word of the question is not calculated with": (
        "Ten boys have 3 pens and 5 pens. How many pens?",
        "3+5=<<3+5=8>>8\n#### 8",
    ),
    "a number of the solution comes from nowhere": ("Tom has 3 and 5.", "3+5+11=<<3+5+11=19>>19\n#### 19"),
    "a calculation is not noted": ("Tom has 3 and 5.", "3+2 = 5, and 3+5=<<3+5=8>>8\n#### 8"),
    "a calculation does not come out": ("Tom has 3 and 5.", "3+5=<<3+5=9>>9\n#### 9"),
    "a calculation cannot be read": ("Tom has 3 and 5.", "3^5=<<3**5=243>>243\n#### 243"),
    "a division by zero": ("Tom has 3 and 5.", "3/(5-5)=<<3/(5-5)=3>>3\n#### 3"),
    "a number is part of a word": ("Tom is 2nd of 5.", "2+5=<<2+5=7>>7\n#### 7"),
    "a time of day": ("From 3:30 until 5, how long?", "5-3=<<5-3=2>>2\n#### 2"),
    "no number of the question may change": ("Tom has 1 pen and gets 1.", "1+1=<<1+1=2>>2\n#### 2"),
    "a number of the question is not written as it would be": ("Agent 007 has 9.", "7+9=<<7+9=16>>16\n#### 16"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_certain_is_refused_with_its_reason(reason: str) -> None:
    with pytest.raises(Refused, match=re.escape(reason)):
        perturbed(understand(*REFUSED[reason]), random.Random(0))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        # 5 is given, and is also what 3 and 2 make: nobody can tell which is multiplied by 4
        ("Tom has 3 and 2 pens, and 5 boxes of 4.", "3+2=<<3+2=5>>5\n5*4=<<5*4=20>>20\n#### 20"),
        # 12 eggs, or a dozen
        ("A dozen eggs and 12 pears. How many?", "12+12=<<12+12=24>>24\n#### 24"),
        # "two" in the solution is a result that would change
        ("Tom has 6 pens in 3 boxes.", "6/3=<<6/3=2>>2\nSo two a box, 6-2=<<6-2=4>>4\n#### 4"),
    ],
)
def test_two_meanings_of_one_number_are_never_told_apart_by_guessing(question: str, answer: str) -> None:
    try:
        problem = understand(question, answer)
        for seed in range(30):
            new_question, new_answer = perturbed(problem, random.Random(seed))
            verify(question, answer, new_question, new_answer)
            changed = {
                old.value
                for old, new in zip(numbers(question), numbers(new_question), strict=True)
                if old.value != new.value
            }
            if changed & {5, 12}:
                assert _ties_hold(new_question, new_answer)
            assert "two" not in new_answer or "=2>>" in new_answer
    except Refused:
        return


def _ties_hold(question: str, answer: str) -> bool:
    """Three and two were changed so that they still make what is given as boxes: either reading gives the answer."""
    three, two, boxes, each = (int(text) for text in NUMBER.findall(question))
    return three + two == boxes and answer.endswith(f"#### {boxes * each}")


def test_a_number_is_spelled_as_the_one_it_replaces_or_not_at_all() -> None:
    assert spell(Fraction(1234), "1,000") == "1,234"
    assert spell(Fraction(1234), "1000") == "1234"
    assert spell(Fraction(5, 2), "1.50") == "2.50"
    assert spell(Fraction(5, 2), "1") == "2.5"
    assert spell(Fraction(-3), "4") == "-3"
    with pytest.raises(Refused, match="too many decimals"):
        spell(Fraction(1, 3), "0.25")


OPERATIONS = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__}


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(3, 60), min_size=2, max_size=5, unique=True), st.data())
def test_any_chain_over_given_numbers_is_followed(given_numbers: list[int], data: st.DataObject) -> None:
    """The question's numbers alone, put through the operations in order, give the new gold."""
    total, chain, lines = Fraction(given_numbers[0]), [], []
    for number in given_numbers[1:]:
        sign = data.draw(st.sampled_from([s for s in "+-*" if s != "-" or total > number + 1]))
        after = OPERATIONS[sign](total, Fraction(number))
        lines.append(f"Then {total}{sign}{number} = <<{total}{sign}{number}={after}>>{after}.")
        chain.append(sign)
        total = after
    question = "Numbers: " + ", ".join(f"{n} pens" for n in given_numbers) + ". What comes out?"
    answer = "\n".join([*lines, f"#### {total}"])
    try:
        new_question, new_answer = perturbed(understand(question, answer), random.Random(data.draw(st.integers(0, 99))))
    except Refused:
        assume(False)  # two numbers are equal, or nothing else keeps the sign: too many of these fail the health check
    verify(question, answer, new_question, new_answer)
    replayed = [Fraction(text) for text in NUMBER.findall(new_question)]
    total = replayed[0]
    for sign, number in zip(chain, replayed[1:], strict=True):
        total = OPERATIONS[sign](total, number)
    assert Fraction(new_answer.rpartition("####")[2].strip()) == total


def audited(every: int) -> Counter[str]:
    """Every so many rows of GSM8K through the entry of a configuration; each copy verified from outside."""
    lines = (REAL / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()[::every]
    tally: Counter[str] = Counter()
    for number, line in enumerate(lines):
        value = json.loads(line)
        try:
            problem = understand(value["question"], value["answer"])
            question, answer = perturbed(problem, random.Random(number))
        except Refused as reason:
            tally[str(reason)] += 1
            continue
        verify(value["question"], value["answer"], question, answer)
        tally["copies"] += 1
    return tally


@needs_real
def test_real_rows_are_augmented_or_counted_and_every_copy_comes_out() -> None:
    tally = audited(30)
    assert sum(tally.values()) == 250
    assert 0.35 < tally["copies"] / 250 < 0.6, tally
    assert "a calculation is not noted" in tally


@needs_real
@pytest.mark.slow
def test_the_fraction_of_gsm8k_that_can_be_augmented() -> None:
    tally = audited(4)
    assert 0.42 < tally["copies"] / sum(tally.values()) < 0.5, tally


@needs_real
def test_the_reward_accepts_each_rewritten_solution_and_refuses_the_old_one() -> None:
    spec = {
        "source": "gsm8k",
        "path": "gsm8k/train.jsonl",
        "solutions": True,
        "rows": 100,
        "augment": {"methods": ["numbers"]},
    }
    loaded = sources.load(spec, REAL, 0, "think_answer")
    rows = list(loaded.rows)
    originals = {row["id"]: row for row in rows if "origin" not in row}
    copies = [row for row in rows if "origin" in row]
    assert len(originals) == 100
    assert len(copies) == loaded.counts["augmented by numbers"] > 30
    reward = Correctness()
    differing = 0
    for copy in copies:
        original = originals[copy["origin"]]
        assert "<<" not in copy["completion"][-1]["content"]
        assert reward(sample(copy, copy)) == 1.0
        if copy["answer"] != original["answer"]:
            differing += 1
            assert reward(sample(copy, original)) == 0.0
    assert differing > 0.8 * len(copies)


def sample(asked: dict[str, Any], said: dict[str, Any]) -> Sample:
    return Sample(
        prompt=asked["prompt"][-1]["content"],
        completion=said["completion"][-1]["content"],
        answer=asked["answer"],
        domain=asked["domain"],
    )
