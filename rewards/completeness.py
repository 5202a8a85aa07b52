"""Completeness: is there a derivation, do its steps lead to the answer, and is it free of padding?

What is measured. The reasoning is cut into sentences. A *step* is an equality: arithmetic is recomputed exactly,
an equality with letters is taken as written. A chain such as 8 > 3 > 9 is a step too. Every step may use numbers
of the prompt and of earlier steps; a sentence that states a number made of the digits of the steps before it
("So 131.") is the result of these (column arithmetic). Going back from the final answer through what was used
gives the *live* steps. The score is

    live / (live + dead + repeated + false + excess prose)

and 0 where the answer does not come out of any step that starts from the prompt. Sentences without a step are
free up to three for each live step and two more, so ordinary explanation costs nothing.

Why it resists gaming. False equalities and repeated ones lower it, steps that lead nowhere lower it, stating the
answer is no step, and an equality that uses the answer to make the answer is none either. More text never raises
it: the best score is reached by the shortest honest derivation. It pays for form only, so it belongs behind a gate
on correctness. Left out: whether an equality with letters is true.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

from rewards.arithmetic import NUMBER, Equality, equalities, plain
from rewards.extract import final_answer
from rewards.forms import Form, analyse
from rewards.notation import canonical
from rewards.reward import Sample

_SENTENCE = re.compile(r"[。！？；\n]|(?<![\d.])[.!?;](?=\s|$)|(?<=\d)[.!?;](?=\s|$)")
_CLAUSE = re.compile(r"[,;，；]")
_VARIABLE = re.compile(r"[A-Za-z]")
_ORDER = re.compile(r"(?<!\d)\d{1,40}(?:\.\d{1,40})?(?:\s?[<>]\s?\d{1,40}(?:\.\d{1,40})?){1,50}(?!\d)")
_LONGEST = 60_000
"""Characters of reasoning that are read, from its end."""
_FREE_PROSE = 3


@dataclass(slots=True)
class _Node:
    """One step: what it makes, and the earlier steps it uses."""

    parents: list[int]
    grounded: bool
    """Uses a number of the prompt, or a step that is grounded."""
    false: bool = False
    repeated: bool = False
    computes: bool = True


@dataclass(slots=True)
class _Derivation:
    prompt: frozenset[Fraction]
    nodes: list[_Node] = field(default_factory=list)
    producers: dict[object, int] = field(default_factory=dict)
    """A number, or the canonical text of a formula, to the step that made it last."""
    pending: deque[tuple[int, Fraction]] = field(default_factory=lambda: deque(maxlen=12))
    """Arithmetic in small numbers since the last stated result: the columns of a longer calculation."""
    recent: deque[tuple[str, int]] = field(default_factory=lambda: deque(maxlen=16))
    """The last numbers made: column arithmetic takes its digits from them."""
    seen: set[str] = field(default_factory=set)
    given: str = ""
    """The numbers of the prompt, as written."""
    prose: int = 0

    def read(self, sentence: str) -> None:
        """Take in one sentence."""
        key = re.sub(r"\s+", "", sentence)
        repeated = key in self.seen and len(key) > 3
        self.seen.add(key)
        found = equalities(sentence)
        for equality in found:
            self._arithmetic(equality, repeated)
        if found:
            return
        if "=" in sentence and self._formulas(sentence, repeated):
            return
        if repeated:
            self.nodes.append(_Node([], grounded=False, repeated=True))
        elif not self._ordered(sentence) and not self._stated(sentence):
            self.pending.clear()
            self.prose += 1

    def _arithmetic(self, equality: Equality, repeated: bool) -> None:
        parents, grounded = [], False
        column = max(equality.inputs, default=Fraction(0)) < 20
        for number in equality.inputs:
            parent, given = self._source(number, column)
            parents += parent
            grounded = grounded or given or any(self.nodes[i].grounded for i in parent)
        circular = equality.output in equality.inputs and equality.output >= 10
        index = len(self.nodes)
        false = not equality.true
        self.nodes.append(_Node(parents, grounded=grounded, false=false, repeated=repeated, computes=equality.computes))
        if false or circular or not equality.computes:
            return
        if not repeated:
            self._makes(equality.output, index)
        if max([*equality.inputs, equality.output]) < 100:
            self.pending.append((index, equality.output))
        else:
            self.pending.clear()

    def _makes(self, number: Fraction, index: int) -> None:
        self.producers[number] = index
        self.recent.append((str(number), index))

    def _source(self, number: Fraction, column: bool) -> tuple[list[int], bool]:
        """Steps that made `number`, and whether the prompt gives it. In a column of digits it may be part of a longer
        number."""
        given = number in self.prompt
        made = [self.producers[number]] if number in self.producers and not given else []
        if number.denominator == 1 and number <= 99 and (column or not (made or given)):
            text = str(number)
            made += [index for written, index in self.recent if text in written and written != text][-2:]
            given = given or (not made and text in self.given)
        return made, given

    def _formulas(self, sentence: str, repeated: bool) -> bool:
        """Every equality with letters of a sentence; whether there was any."""
        found = False
        for clause in _CLAUSE.split(sentence):
            for left, right in pairwise(side[:120] for side in clause.split("=")):
                found = self._letters(left, right, repeated) or found
        return found

    def _letters(self, left: str, right: str, repeated: bool) -> bool:
        """An equality with letters uses the numbers in it and the step before it."""
        if not left.strip() or not right.strip() or not re.search(r"[A-Za-z\\]", plain(left + right)):
            return False
        previous = len(self.nodes) - 1
        parents = [previous] if previous >= 0 else []
        numbers = [Fraction(n) for n in NUMBER.findall(plain(left + " " + right))]
        grounded = any(n in self.prompt for n in numbers) or any(self.nodes[i].grounded for i in parents)
        parents += [self.producers[n] for n in numbers if n in self.producers]
        index = len(self.nodes)
        self.nodes.append(_Node(parents, grounded=grounded, repeated=repeated))
        if not repeated:
            made = left if _VARIABLE.fullmatch(right.strip(" $.\\")) else right
            self.producers[canonical(made)] = index
            for number in NUMBER.findall(plain(made)):
                self._makes(Fraction(number), index)
        return True

    def _ordered(self, sentence: str) -> bool:
        """A chain such as 8 > 3 > 9 uses the numbers in it and every step that made one of them."""
        found = _ORDER.search(plain(sentence))
        if found is None:
            return False
        numbers = [Fraction(number) for number in NUMBER.findall(found[0])]
        parents = sorted({self.producers[number] for number in numbers if number in self.producers})
        grounded = all(number in self.prompt for number in numbers)
        index = len(self.nodes)
        self.nodes.append(_Node(parents, grounded=grounded))
        for number in numbers:
            self.producers[number] = index
        return True

    def _stated(self, sentence: str) -> bool:
        """A stated number is a result if its digits come out of the arithmetic since the last one, or if it is an
        earlier result with noughts put behind it. Stating a known number again is neither a step nor prose."""
        numbers = NUMBER.findall(plain(sentence))
        if not numbers:
            return False
        value = Fraction(numbers[-1])
        parents = [index for index, _ in self.pending]
        if not _covered(numbers[-1], [output for _, output in self.pending]):
            tens = (value / 10**power for power in (1, 2, 3))
            parents = [self.producers[part] for part in tens if part in self.producers][:1]
            if value in self.producers or not parents:
                return value in self.producers
        self._makes(value, len(self.nodes))
        self.nodes.append(_Node(parents, grounded=any(self.nodes[i].grounded for i in parents)))
        self.pending.clear()
        return True

    def live(self, goals: list[object]) -> set[int]:
        """Steps that the goals rest on; empty unless every goal is made by a step and one starts from the prompt."""
        if not goals or any(goal not in self.producers for goal in goals):
            return set()
        waiting = [self.producers[goal] for goal in goals]
        found: set[int] = set()
        while waiting:
            index = waiting.pop()
            node = self.nodes[index]
            if index not in found and not node.false and not node.repeated:
                found.add(index)
                waiting += node.parents
        return found if any(self.nodes[i].grounded or not self.prompt for i in found) else set()


def _covered(number: str, outputs: list[Fraction]) -> bool:
    """Whether the digits of `number` are last digits of the outputs, the last output counting whole."""
    if not outputs or any(output.denominator != 1 for output in outputs):
        return False
    digits = [str(abs(output.numerator))[-1] for output in outputs[:-1]] + list(str(abs(outputs[-1].numerator)))
    for digit in number.strip("0") or "0":
        if digit not in digits:
            return False
        digits.remove(digit)
    return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Completeness:
    """A derivation that leads from the prompt to the answer without padding, 0 to 1 (see the module).

    None where there is nothing to derive: no gold answer, or one without numbers and formulas; a convention
    without reasoning.
    """

    def __call__(self, sample: Sample, /) -> float | None:
        if sample.answer is None or sample.tests is not None or sample.convention == "none":
            return None
        gold = analyse(sample.answer[:1000])
        if not _goals(gold):
            return None
        parsed = sample.parsed()
        written = final_answer(parsed.answer) if parsed.answer else None
        if not parsed.reasoning or not written:
            return 0.0
        numbers = NUMBER.findall(plain(sample.prompt))
        derivation = _Derivation(frozenset(map(Fraction, numbers)), given=" ".join(numbers))
        for sentence in _SENTENCE.split(parsed.reasoning[-_LONGEST:]):
            if sentence.strip():
                derivation.read(sentence.strip())
        live = _best(derivation, analyse(written[:1000]))
        if not live:
            return 0.0
        waste = len(derivation.nodes) - len(live)
        excess = max(0, derivation.prose - _FREE_PROSE * len(live) - 2)
        return len(live) / (len(live) + waste + excess)


def _best(derivation: _Derivation, answer: Form) -> set[int]:
    """Live steps of the answer as a whole formula, else of its numbers."""
    return derivation.live([answer.text]) or derivation.live(list(_goals(answer)))


def _goals(form: Form) -> list[object]:
    """The numbers an answer is made of; its text where it is a formula without numbers."""
    if form.value is not None:
        return [abs(form.value)]
    if form.parts:
        return [goal for part in form.parts for goal in _goals(part)]
    if form.shape.value in ("words", "choice"):
        return []
    numbers: list[object] = [Fraction(n) for n in NUMBER.findall(form.text)]
    return numbers or [form.text]
