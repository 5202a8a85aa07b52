"""Other numbers in a word problem that carries its calculations, and the solution and answer that follow from them.

GSM8K (arXiv 2110.14168) notes each calculation as `<<48/2=24>>`. A copy changes given numbers, calculates the chain
again and rewrites the solution. Nothing is guessed: whatever a number of the solution may stand for, its new value must
be the same, or the row is refused. What numbers mean, and the calculations: augment_chain.py.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from data.augment_chain import (
    NUMBER,
    Calculation,
    Number,
    Refused,
    calculations,
    constants,
    number_words,
    numbers,
    spell,
)

DRAWS = 100
"""Sets of new numbers that are tried for one copy."""

_CHOICE = re.compile(
    r"\b(most|least|cheap\w+|maximum|minimum|largest|smallest|highest|lowest|fewest|best|better|enough|whichever|exceed\w*"
    r"|closest|nearest|round\w*|remainder|afford|at least|at most|up to|limit\w*|a\.?m\.?|p\.?m\.?|o'clock)(?!\w)",
    re.IGNORECASE,
)
"""Words that may decide which calculations are made, by a comparison that the chain does not show."""

_BOUNDED = re.compile(
    r"\b(hours?|days?|weeks?|months?|minutes?|seconds?)\b[^.?!,\d]{0,12}?\b(a|per|each|every|in an?|of the|out of)\b"
    r"[^.?!,\d]{0,12}?\b(day|week|month|year|hour|minute)",
    re.IGNORECASE,
)
"""What follows a number that the calendar or the clock bounds: 8 hours a day."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem that was understood: what may change, and what each number may stand for."""

    question: str
    solution: str
    """With its notes, without the line of the answer."""
    answer: str
    given: tuple[Number, ...]
    steps: tuple[Calculation, ...]
    free: tuple[Fraction, ...]
    """Values of the question that may change."""
    percents: frozenset[Fraction]
    """Values of the question that are percentages."""
    fixed: frozenset[Fraction]
    """Constants of the world and number words: values that stay."""

    def meanings(self, value: Fraction, new: dict[Fraction, Fraction], results: list[Fraction]) -> set[Fraction]:
        """The new values of everything that `value` may stand for; `results` are those of the first steps."""
        found = {new[value]} if value in new else set()
        found |= {new[p] / 100 for p in self.percents if p / 100 == value}
        found |= {after for step, after in zip(self.steps, results, strict=False) if step.result == value}
        return found | ({value} if value in self.fixed else set())


def understand(question: str, answer: str) -> Problem:
    """Read a question and its answer (solution, `####`, gold). Raises Refused, whose message is the reason."""
    solution, mark, gold = answer.rpartition("####")
    if not mark or not NUMBER.fullmatch(gold.strip()):
        raise Refused("the answer is no number")
    if _CHOICE.search(question):
        raise Refused("the question may ask for a comparison")
    steps = calculations(solution)
    given = numbers(question)
    if not steps:
        raise Refused("no calculation is noted")
    if not given:
        raise Refused("the question holds no number")
    if steps[-1].result != Fraction(gold.strip().replace(",", "")):
        raise Refused("the answer is not the last result")
    classes = {number.value: number for number in given}
    percents = frozenset(number.value for number in given if number.percent)
    words = number_words(question)
    fixed = constants(question + " " + solution)
    leaves = {literal.value for step in steps for literal in step.literals}
    for value in classes:
        if value not in leaves and not (value in percents and value / 100 in leaves):
            raise Refused("a number of the question is not calculated with")
    for word in words.values():
        if max(word) > 2 and not leaves & word:
            raise Refused("a number word of the question is not calculated with")
    spoken = {value for word in words.values() for value in word}
    held = {n.value for n in given if n.fraction or _unchanging(n) or _BOUNDED.match(question[n.end :].lstrip(" -"))}
    free = tuple(value for value in classes if value not in held and value not in fixed)
    problem = Problem(question, solution, gold.strip(), given, steps, free, percents, fixed | spoken)
    if _rewritten(problem, {value: value for value in classes})[0] != question:
        raise Refused("a number of the question is not written as it would be")
    if not free:
        raise Refused("no number of the question may change")
    return problem


def _unchanging(number: Number) -> bool:
    """Whether a number is 0, 1, all of a whole, or a year."""
    year = number.decimals == 0 and "," not in number.text and 1800 <= number.value <= 2100
    return (number.value <= 1 and number.decimals == 0) or year or (number.percent and number.value >= 100)


def perturbed(problem: Problem, rng: random.Random) -> tuple[str, str]:
    """Question and answer with other numbers. Raises Refused where no draw keeps the kind of every result."""
    stays = {number.value: number.value for number in problem.given}
    choices = {value: _choices(problem, value) for value in problem.free}
    for _ in range(DRAWS):
        chosen = rng.sample(problem.free, rng.randint(1, len(problem.free)))
        new = {**stays, **{value: _drawn(*choices[value], rng) for value in chosen}}
        if new == stays:
            continue
        try:
            return _rewritten(problem, new)
        except Refused:
            continue
    raise Refused("no other numbers were found that keep the kind of every result")


def _drawn(low: int, high: int, unit: Fraction, rng: random.Random) -> Fraction:
    return rng.randint(low, high) * unit


def _choices(problem: Problem, value: Fraction) -> tuple[int, int, Fraction]:
    """(lowest, highest, unit): from half to twice `value`, as round as it and with as many decimals."""
    like = [number for number in problem.given if number.value == value]
    unit = Fraction(1, 10 ** max(number.decimals for number in like))
    while unit < value / 4 and (value / (unit * 10)).denominator == 1 and value / (unit * 10) >= 4:
        unit *= 10
    low, high = max(2 if unit >= 1 else 1, -(-value // (2 * unit))), 2 * value // unit
    if value in problem.percents:
        high = min(high, 99 // unit if unit <= 99 else 0)
    return int(low), int(max(low, high)), unit


def _rewritten(problem: Problem, new: dict[Fraction, Fraction]) -> tuple[str, str]:
    """The problem with each value of the question replaced. Raises Refused where that is not certain."""
    results: list[Fraction] = []
    literals = []
    for step in problem.steps:
        values = [_certain(problem, literal.value, new, results) for literal in step.literals]
        result = step.evaluated(values)
        if not same_kind(step.result, result):
            raise Refused("a result changes its kind")
        results.append(result)
        literals.append(values)
    notes = [
        step.rewritten(*made) for step, made in zip(problem.steps, zip(literals, results, strict=True), strict=True)
    ]
    _speakable(problem, new, results)
    parts = []
    for text, note in _pieces(problem.solution, notes):
        parts.append(_replaced(text, lambda value: _certain(problem, value, new, results)) + note)
    question = _replaced(problem.question, new.__getitem__)
    return question, f"{''.join(parts)}#### {spell(results[-1], problem.answer)}"


def _certain(problem: Problem, value: Fraction, new: dict[Fraction, Fraction], results: list[Fraction]) -> Fraction:
    found = problem.meanings(value, new, results)
    if not found:
        raise Refused("a number of the solution comes from nowhere")
    if len(found) > 1:
        raise Refused("a number of the solution may stand for two things")
    return found.pop()


def _speakable(problem: Problem, new: dict[Fraction, Fraction], results: list[Fraction]) -> None:
    """Raise Refused where the solution has a word for a number that changes."""
    for word in number_words(problem.solution).values():
        for value in word:
            if (problem.meanings(value, new, results) | {value}) != {value}:
                raise Refused("a number word of the solution would have to change")


def same_kind(old: Fraction, new: Fraction) -> bool:
    """Whether two results are alike: sign, whole or not, one or many, below one or above."""

    def kind(value: Fraction) -> tuple[bool, ...]:
        return value > 0, value < 0, value.denominator == 1, value == 1, abs(value) < 1

    return kind(old) == kind(new)


def _pieces(solution: str, notes: list[str]) -> Iterator[tuple[str, str]]:
    """Text of the solution and the note that follows it; the last has none."""
    texts = re.split(r"<<[^<>]*>>", solution)
    yield from zip(texts, [*notes, ""], strict=True)


def _replaced(text: str, new: Callable[[Fraction], Fraction]) -> str:
    parts, end = [], 0
    for number in numbers(text):
        parts += [text[end : number.start], spell(new(number.value), number.text)]
        end = number.end
    return "".join([*parts, text[end:]])
