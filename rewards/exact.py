"""Exact comparison of final answers without computer algebra: text, rationals, and lists, intervals and matrices.

`compare` is three-valued: True and False are proofs, None means "only algebra can tell". Numbers are compared as
`Fraction`s, never as floats. Costs tens of microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from rewards.forms import CHOICE, Form, Shape
from rewards.units import canonical_unit, contradicted

Scalar = Callable[[Form, Form], "bool | None"]


def undecided(gold: Form, answer: Form) -> bool | None:
    """The scalar comparison of someone who knows no algebra."""
    return None


def compare(gold: Form, answer: Form, *, prompt: str = "", scalar: Scalar = undecided) -> bool | None:
    """Whether `answer` is the value of `gold`; None where neither can be shown without algebra.

    `prompt` licenses what the question implies (percentages, number bases, counted things);
    `scalar` compares two formulas that are not both rational numbers.
    """
    if gold.text == answer.text:
        return gold.shape is Shape.NUMBER or _units_agree(gold.unit, answer.unit, prompt)
    if gold.shape is Shape.CHOICE:
        return _choice(gold.text) == _choice(answer.text)
    if gold.shape is Shape.WORDS:
        return _words(gold.text) == _words(answer.text)
    if answer.shape in (Shape.WORDS, Shape.CHOICE) and gold.shape is not Shape.FORMULA:
        return False
    if gold.shape is Shape.NUMBER and answer.shape is Shape.NUMBER:
        return _numbers(gold, answer, prompt)
    if Shape.LIST in (gold.shape, answer.shape) or Shape.MATRIX in (gold.shape, answer.shape):
        return _structures(gold, answer, prompt, scalar)
    if not _variables_agree(gold, answer) or not _units_agree(gold.unit, answer.unit, prompt):
        return False
    one, other = _inner(gold), _inner(answer)
    if "=" in one.text or "=" in other.text:  # "y = x + 1" against "x - y + 1 = 0", but never against "0"
        return scalar(gold, answer) if "=" in gold.text and "=" in answer.text else False
    if other.shape is Shape.NUMBER and _holds_variable(one.text):
        return False
    return scalar(one, other)


_COMMAND = re.compile(r"\\[A-Za-z]+")
_VARIABLE = re.compile(r"(?<![A-Za-z])[A-DF-HJ-Za-df-hj-z](?![A-Za-z])")


def _holds_variable(text: str) -> bool:
    """Whether a letter stands alone that is neither e nor i: 5x^2 is no number, whatever x is."""
    return _VARIABLE.search(_COMMAND.sub(" ", text)) is not None


def _inner(form: Form) -> Form:
    """The right side of "x = formula"."""
    return form.parts[0] if form.variable and form.shape is Shape.FORMULA else form


def _variables_agree(gold: Form, answer: Form) -> bool:
    return not (gold.variable and answer.variable and gold.variable != answer.variable)


def _choice(text: str) -> str:
    found = CHOICE.fullmatch(text)
    return (found[1] or found[2]).upper() if found else text


def _words(text: str) -> str:
    words = re.sub(r"[\s'\-]+", " ", text.casefold()).split()
    return " ".join(word for word in words if word not in ("the", "a", "an"))


def _numbers(gold: Form, answer: Form, prompt: str) -> bool:
    if not _variables_agree(gold, answer):
        return False
    assert gold.value is not None
    assert answer.value is not None
    if gold.base != answer.base:
        base = gold.base or answer.base
        if (gold.base and answer.base) or not _prompt_names_base(prompt, base):
            return False
    if not _units_agree(gold.unit, answer.unit, prompt):
        return False
    if gold.value.denominator == 1 and answer.division:
        return False  # 48/2 for 24: the last step of the calculation is missing
    if gold.percent == answer.percent:
        return gold.value == answer.value
    if gold.percent:
        return answer.value in (gold.value, gold.value / 100)
    return answer.value == gold.value * 100 or (answer.value == gold.value and _asks_percent(prompt))


def _asks_percent(prompt: str) -> bool:
    return "percent" in prompt.casefold() or "%" in prompt or "百分" in prompt


_BASE_WORDS = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def _prompt_names_base(prompt: str, base: str) -> bool:
    text = re.sub(r"[$ \-{}]", "", prompt.casefold())
    names = [base] + ([_BASE_WORDS[int(base)]] if int(base) < len(_BASE_WORDS) else [])
    return any(f"base{name}" in text for name in names) or f"{base}进制" in text


def _units_agree(gold: str, answer: str, prompt: str) -> bool:
    """A missing unit is the question's; a given one must be the gold's, a known one, or a thing the prompt counts."""
    if not answer or gold == answer:
        return True
    known = canonical_unit(answer)
    if gold and (canonical_unit(gold) is not None or known is not None):
        return (canonical_unit(gold) or gold) == (known or answer) or not known or not canonical_unit(gold)
    if known is not None:
        return not contradicted(known, prompt)
    text = prompt.casefold()
    return all(word.rstrip("s.")[:5] in text for word in re.split(r"[ /]", answer.casefold()) if len(word) > 2)


def _structures(gold: Form, answer: Form, prompt: str, scalar: Scalar) -> bool | None:
    def same(one: Form, other: Form) -> bool | None:
        return compare(one, other, prompt=prompt, scalar=scalar)

    if len(gold.parts) == 1 and gold.opening == "{" and answer.shape is not Shape.LIST:
        return same(gold.parts[0], answer)
    if len(answer.parts) == 1 and answer.opening == "{" and gold.shape is not Shape.LIST:
        return same(gold, answer.parts[0])
    if gold.shape is not answer.shape or not _variables_agree(gold, answer):
        return None if _may_hide_structure(gold) or _may_hide_structure(answer) else False
    unordered = gold.opening in ("", "{", "\\cup") and answer.opening in ("", "{", "\\cup")
    bare = gold.opening == "" or answer.opening == ""
    if not unordered and not bare and (gold.opening, gold.closing) != (answer.opening, answer.closing):
        return gold.shape is Shape.MATRIX and _in_order(gold.parts, answer.parts, same)
    if _is_union(gold) != _is_union(answer):
        return False
    return _matched(gold.parts, answer.parts, same) if unordered else _in_order(gold.parts, answer.parts, same)


def _is_union(form: Form) -> bool:
    """Written with the sign, or as "x < 1 or x > 2"."""
    intervals = bool(form.parts) and all(part.variable and part.opening in ("(", "[") for part in form.parts)
    return form.opening == "\\cup" or (form.opening == "" and intervals)


def _may_hide_structure(form: Form) -> bool:
    """A formula such as "x > 3" may stand for an interval, a set difference for a union; one value stands for none."""
    if form.shape is not Shape.FORMULA:
        return False
    return _STRUCTURE.search(form.text) is not None or _WORD.search(_COMMAND.sub(" ", form.text)) is not None


_WORD = re.compile(r"[A-Za-z]{3}")
_STRUCTURE = re.compile(
    r"[<>=,|&]|\\(?:le|ge|ne|in|notin|cup|cap|setminus|backslash|pm|mp|mathbb|mathcal|emptyset|begin|\{|text|vec|hat|to)"
)
"""What a formula may need to mean several values, or all of a range."""


def _in_order(golds: tuple[Form, ...], answers: tuple[Form, ...], same: Scalar) -> bool | None:
    if len(golds) != len(answers):
        return False
    verdict: bool | None = True
    for one, other in zip(golds, answers, strict=True):
        equal = same(one, other)
        if equal is False:
            return False
        verdict = verdict and equal
    return verdict


def _matched(golds: tuple[Form, ...], answers: tuple[Form, ...], same: Scalar) -> bool | None:
    """Equality as multisets: pairs that are surely equal are taken out first."""
    if len(golds) != len(answers):
        return False
    left = list(answers)
    open_golds = []
    for one in golds:
        match = next((i for i, other in enumerate(left) if same(one, other) is True), None)
        if match is None:
            open_golds.append(one)
        else:
            del left[match]
    if not open_golds:
        return True
    if any(all(same(one, other) is False for other in left) for one in open_golds):
        return False
    return None
