"""Accuracy: is the final answer the gold answer? 1.0 or 0.0; None where there is no (usable) gold.

The exact path (rewards/exact.py) decides most answers in tens of microseconds; the guards (rewards/guards.py)
refuse what cannot be honest; only the rest is sent to algebra in a killable worker (rewards/scoring.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from rewards import guards
from rewards.exact import compare
from rewards.extract import WINDOW, final_answer
from rewards.forms import Form, Shape, analyse
from rewards.notation import canonical
from rewards.reward import Sample, Status, Verdict

if TYPE_CHECKING:
    from rewards.scoring import ScoringPool

EQUAL = "rewards.symbolic:equal"
"""What the pool's workers call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Undecided:
    """A pair that only algebra can decide."""

    gold: str
    answer: str
    prompt: str
    """Only what a comparison may need of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """The final answer equals the gold answer (1 or 0); taken only after the reasoning ends."""

    numeric_form: bool = True
    """Refuse unevaluated answers: 48/2 for 24, a sum for its value."""
    echo: bool = True
    """Refuse formulas copied from the prompt."""

    def __call__(self, sample: Sample, /) -> float | None:
        return self.judge(sample).score

    def judge(self, sample: Sample, /) -> Verdict:
        """One sample; what algebra must decide goes to the process's shared pool."""
        return self.judge_batch([sample])[0]

    def judge_batch(self, samples: Sequence[Sample], pool: ScoringPool | None = None) -> list[Verdict]:
        """Many samples, in order; equal pairs are sent to algebra once."""
        decided = [self.decide(sample) for sample in samples]
        waiting = [item for item in decided if isinstance(item, Undecided)]
        if not waiting:
            return [item for item in decided if isinstance(item, Verdict)]
        from rewards.scoring import shared_pool

        verdicts = iter((pool or shared_pool()).run(EQUAL, [(w.gold, w.answer, w.prompt) for w in waiting]))
        return [next(verdicts) if isinstance(item, Undecided) else item for item in decided]

    def decide(self, sample: Sample) -> Verdict | Undecided:
        """The verdict as far as it can be had without algebra."""
        if sample.answer is None:
            return Verdict(score=None, status=Status.NOT_APPLICABLE, detail="the row has no gold answer")
        try:
            gold = _gold(sample.answer)
        except ValueError as error:
            return Verdict(score=None, status=Status.UNPARSED_GOLD, detail=str(error))
        shown = sample.parsed().answer
        lines = _gold_lines(sample.answer)
        if shown and len(lines) > 1:
            return Verdict(score=1.0) if _says_lines(shown, lines) else _wrong("different")
        written = final_answer(shown) if shown else None
        if not written:
            return _wrong("no final answer")
        reason = guards.malformed(written)
        if reason:
            return _wrong(reason)
        answer = analyse(written)
        verdict = compare(gold, answer, prompt=sample.prompt)
        if verdict is True and gold.text == answer.text:
            return Verdict(score=1.0)
        if verdict is True and self.echo and guards.is_echoed_number(gold, answer, sample.prompt):
            return _wrong("copied from the prompt")
        if verdict is True and (answer.numeric or gold.shape in (Shape.WORDS, Shape.CHOICE)):
            return Verdict(score=1.0)
        if verdict is False:
            return _wrong("different")
        reason = guards.refuse(gold, answer, sample.prompt, numeric_form=self.numeric_form, echo=self.echo)
        if reason:
            return _wrong(reason)
        if verdict is True:
            return Verdict(score=1.0)
        return Undecided(gold=gold.text, answer=answer.text, prompt=_relevant(sample.prompt))


def _wrong(detail: str) -> Verdict:
    return Verdict(score=0.0, status=Status.WRONG, detail=detail)


def _relevant(prompt: str) -> str:
    return prompt[-4000:]


@lru_cache(maxsize=8192)
def _gold(text: str) -> Form:
    return analyse(prepare_gold(text))


@lru_cache(maxsize=8192)
def _gold_lines(text: str) -> tuple[str, ...]:
    """Lines of a gold that is a text of several, as of a puzzle with one line a person; else ()."""
    if any(mark in text for mark in ("\\begin{", "\\boxed", "####")):
        return ()
    return _lines(text)


def _says_lines(shown: str, gold: tuple[str, ...]) -> bool:
    """Whether the box of `shown`, or its last lines, are those of the gold; algebra has no say in prose."""
    said = (final_answer(shown) or "") if "\\boxed" in shown else shown[-WINDOW:]
    return _lines(said)[-len(gold) :] == gold


def _lines(text: str) -> tuple[str, ...]:
    return tuple(canonical(line).casefold() for line in text.splitlines() if line.strip())


def prepare_gold(text: str | None) -> str:
    r"""A dataset's gold answer, ready to be stored: GSM8K's `####`, a box and dollar signs taken off.

    Raises ValueError with one line if it is empty, unbalanced, too long or not text: such a row is an error of
    the data and never a wrong answer.
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError("the gold answer is empty")
    written = final_answer(text) if ("\\boxed" in text or "####" in text) else text.strip()
    if not written:
        raise ValueError(f"the gold answer has no content: {text.strip()[:60]!r}")
    reason = guards.malformed(written)
    if reason:
        raise ValueError(f"the gold answer cannot be used ({reason}): {written[:60]!r}")
    gold = written.replace("\\$", "").replace("$", " ").strip() if "$" in written else written.strip()
    if not canonical(gold):
        raise ValueError(f"the gold answer has no content: {text.strip()[:60]!r}")
    if not _balanced(gold):
        raise ValueError(f"the gold answer has unbalanced braces: {gold[:60]!r}")
    return gold


def _balanced(text: str) -> bool:
    depth = 0
    for char in text.replace("\\{", "").replace("\\}", ""):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth < 0:
            return False
    return depth == 0
