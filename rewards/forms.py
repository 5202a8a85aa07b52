"""Taking a final answer apart as far as its spelling allows: number, choice, words, list, matrix or formula."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache

from rewards.notation import canonical, encloses, split_top
from rewards.units import MULTIPLIERS, NOT_UNITS, NUMERALS, canonical_unit


class Shape(StrEnum):
    NUMBER = "number"
    CHOICE = "choice"
    WORDS = "words"
    LIST = "list"
    MATRIX = "matrix"
    FORMULA = "formula"


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """An answer taken apart as far as spelling allows."""

    text: str
    """Canonical spelling."""
    shape: Shape
    value: Fraction | None = None
    division: bool = False
    """Whether a number is written as an unreduced division such as 48/2."""
    percent: bool = False
    unit: str = ""
    """What stands behind a number, as written."""
    base: str = ""
    """Subscript that names the base of a numeral."""
    variable: str = ""
    """Left side of "x = 5"."""
    opening: str = ""
    closing: str = ""
    parts: tuple[Form, ...] = field(default=())

    @property
    def numeric(self) -> bool:
        """Whether it is a rational number, or made of nothing else."""
        if self.shape in (Shape.LIST, Shape.MATRIX):
            return all(part.numeric for part in self.parts)
        return self.shape is Shape.NUMBER


_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+"
_NUMBER = re.compile(
    rf"""(?P<sign>[-+]?)\s*[$¥€]?\s*(?:
        (?P<whole>\d+)?\s*\\frac\{{(?P<top>[-+]?\d+)\}}\{{(?P<bottom>[-+]?\d+)\}}
      | (?P<mixed>\d+)\s(?P<mtop>\d+)/(?P<mbottom>\d+)
      | \(?(?P<a>{_DECIMAL})\)?/\(?(?P<b>-?(?:{_DECIMAL}))\)?
      | (?P<head>\d*\.\d*)\\overline\{{?(?P<cycle>\d+)\}}?
      | (?P<mantissa>{_DECIMAL})(?:\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*(?:\{{(?P<e1>[-+]?\d{{1,4}})\}}|(?P<e2>\d))
          | [eE](?P<e3>[-+]?\d{{1,4}}))?
    )(?P<rest>.*)""",
    re.VERBOSE | re.DOTALL,
)
_UNIT = re.compile(r"\s*(°?[A-Za-z¢€¥$°一-鿿][A-Za-z.一-鿿 ]*(?:/ ?[A-Za-z一-鿿]+)?(?:\^[23])?)")
_BASE = re.compile(r"_(?:\{(\d{1,2})\}|(\d))")
_ASSIGNMENT = re.compile(
    r"([A-Za-z]|\\[a-z]+|[A-Za-z]{1,3}_\w|[A-Za-z]\([A-Za-z](?:,[A-Za-z])*\))(?:=|\\in ?(?=[\[({\\]))(.+)", re.S
)
CHOICE = re.compile(
    r"(?:(?:[Oo]ption|[Cc]hoice|选项?|选择)\s*)?(?:\(([A-J]|[a-j](?=\)$))\)\s*|([A-J])(?:[.):]\s*|\s+|$))"
    r"(?!.*(?:\b(?:or|and|not)\b|[或和与]|(?<![A-Za-z\\])[A-J](?![A-Za-z])))(?:.*)",
    re.DOTALL,
)
_INEQUALITY = re.compile(
    r"(?:([^<>=a-zA-Z]*(?:\\(?:frac|sqrt|pi)[^<>=a-zA-Z]*)*)(<|>|\\le|\\ge) ?)?([a-zA-Z]) ?(<|>|\\le|\\ge) ?"
    r"([^<>=a-zA-Z]*(?:\\(?:frac|sqrt|pi)[^<>=a-zA-Z]*)*)"
)
_MATRIX = re.compile(r"\\begin\{([pbvB]?matrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}", re.DOTALL)
_AND = re.compile(r"\s*(?:,\s*)?(?<![A-Za-z])(?:and|or)(?![A-Za-z])\s*|\s*(?<=[\w})%])[和或与;](?=\s*[-\w\\({])\s*")
_PLURAL_MINUS = re.compile(r"\\pm ?")
_MODULUS = re.compile(r"(?<=\d)\s*(?:\\pmod\s*\{?\d{1,9}\}?|\(\\?mod\s*\d{1,9}\))$")
_FORMULA_UNIT = re.compile(
    r"(.*(?:[})\d]|\\pi(?= )))\s*([A-Za-z]{2,12}(?:\^[23])?|(?:square|cubic|sq\.?) [A-Za-z]{2,12}|[一-鿿]{1,4})",
    re.DOTALL,
)
_APPROXIMATELY = re.compile(r"^(?:\\approx|\\simeq|about |approximately )\s*|^约(?=\d)")


def _fraction(text: str) -> Fraction:
    return Fraction(text.replace(",", "").rstrip(".") if text not in (".", "") else "0")


def _parse_number(text: str) -> Form | None:
    """A rational number in any of its spellings, with its unit; None where `text` is something else."""
    if text[:1] == "(" and text[-1:] == ")" and encloses(text):
        text = text[1:-1]
    found = _NUMBER.fullmatch(text)
    if found is None:
        return _numeral(text)
    part = found.groupdict()
    division = False
    try:
        if part["top"] is not None:
            top, bottom = int(part["top"]), int(part["bottom"])
            value = Fraction(top, bottom)
            division = value.denominator != abs(bottom)
            if part["whole"] is not None:
                if top < 0 or bottom < 0:
                    return None
                value += int(part["whole"])
        elif part["mixed"] is not None:
            value = int(part["mixed"]) + Fraction(int(part["mtop"]), int(part["mbottom"]))
        elif part["a"] is not None:
            top_value, bottom_value = _fraction(part["a"]), _fraction(part["b"])
            value = top_value / bottom_value
            division = value.denominator != abs(bottom_value)
        elif part["cycle"] is not None:
            head, _, tail = part["head"].partition(".")
            size, lead = len(part["cycle"]), 10 ** len(tail)
            value = Fraction(int((head + tail) or 0), lead) + Fraction(int(part["cycle"]), (10**size - 1) * lead)
        else:
            value = _fraction(part["mantissa"])
            power = part["e1"] or part["e2"] or part["e3"]
            if power is not None:
                value *= Fraction(10) ** int(power)
    except (ZeroDivisionError, ValueError):
        return None
    if part["sign"] == "-":
        value = -value
    return _with_rest(text, value, division, part["rest"])


def _with_rest(text: str, value: Fraction, division: bool, rest: str) -> Form | None:
    percent, unit, base = False, "", ""
    if rest.startswith("_"):
        found = _BASE.fullmatch(rest.strip())
        if found is None:
            return None
        base, rest = found[1] or found[2], ""
    rest = rest.strip()
    if rest.startswith("%"):
        percent, rest = True, rest[1:].strip()
    if rest:
        found = _UNIT.fullmatch(rest)
        if found is None:
            return None
        unit = found[1].strip()
        if unit.casefold() in MULTIPLIERS or unit.split(" ")[0].casefold() in MULTIPLIERS:
            first, _, unit = unit.partition(" ")
            value, unit = value * MULTIPLIERS[first.casefold()], unit.strip()
        elif unit[0] in "万亿" and len(unit) > 1:
            value, unit = value * MULTIPLIERS[unit[0]], unit[1:]
        if unit.casefold() in ("percent", "percentage", "pct"):
            percent, unit = True, ""
        words = unit.casefold().split()
        if any(word in NOT_UNITS for word in words) or (unit and not _may_be_unit(unit, rest)):
            return None
    return Form(text=text, shape=Shape.NUMBER, value=value, division=division, percent=percent, unit=unit, base=base)


def _may_be_unit(unit: str, rest: str) -> bool:
    """Known, Chinese, or a word of three letters and more: "5x" and "5ab" are products."""
    if canonical_unit(unit) is not None:
        return True
    letters = unit.split("/")[0].split(" ")[0]
    return bool(letters) and (len(letters) >= 3 or not letters.isascii()) and len(rest) <= 40


def _numeral(text: str) -> Form | None:
    word = text.casefold()
    value = NUMERALS.get(word)
    if value is None:
        return None
    return Form(text=text, shape=Shape.NUMBER, value=value)


@lru_cache(maxsize=4096)
def analyse(text: str) -> Form:
    """Take an answer apart; `text` as written. Never raises."""
    return _analyse(_MODULUS.sub("", _APPROXIMATELY.sub("", canonical(text))))


def _analyse(text: str, depth: int = 0) -> Form:
    number = _parse_number(text)
    if number is not None:
        return number
    if depth < 6:
        structured = _structure(text, depth)
        if structured is not None:
            return structured
    if CHOICE.fullmatch(text) and depth == 0:
        return Form(text=text, shape=Shape.CHOICE)
    if _is_words(text):
        return Form(text=text, shape=Shape.WORDS)
    measured = _FORMULA_UNIT.fullmatch(text)
    if measured is not None and canonical_unit(measured[2]) and measured[2].casefold() not in NOT_UNITS:
        return Form(text=measured[1], shape=Shape.FORMULA, unit=measured[2])
    return Form(text=text, shape=Shape.FORMULA)


def _structure(text: str, depth: int) -> Form | None:
    found = _ASSIGNMENT.fullmatch(text)
    if found is not None and "=" not in found[2]:
        inner = _analyse(found[2].strip(), depth + 1)
        variable = found[1]
        return Form(
            text=text, shape=inner.shape, value=inner.value, division=inner.division, percent=inner.percent,
            unit=inner.unit, base=inner.base, variable=variable, opening=inner.opening, closing=inner.closing,
            parts=inner.parts or ((inner,) if inner.shape is Shape.FORMULA else ()),
        )  # fmt: skip
    matrix = _MATRIX.fullmatch(text)
    if matrix is not None:
        rows = [row for row in matrix[2].split("\\\\") if row.strip()]
        cells = tuple(
            Form(text=row, shape=Shape.LIST, opening="[", closing="]",
                 parts=tuple(_analyse(canonical(cell), depth + 1) for cell in row.split("&")))
            for row in rows
        )  # fmt: skip
        return Form(text=text, shape=Shape.MATRIX, opening=matrix[1], parts=cells)
    return _interval(text, depth) or _list(text, depth)


def _interval(text: str, depth: int) -> Form | None:
    """An inequality in one variable as the interval it stands for."""
    found = _INEQUALITY.fullmatch(text)
    if found is None:
        return None
    left, first, variable, second, right = found.groups()
    if not right or (first is not None and (not left or (first in ("<", "\\le")) != (second in ("<", "\\le")))):
        return None
    low, high = ("-\\infty", right) if second in ("<", "\\le") else (right, "\\infty")
    closed_low, closed_high = second == "\\ge", second == "\\le"
    if first is not None:
        low, high = (left, right) if second in ("<", "\\le") else (right, left)
        closed_low, closed_high = (first == "\\le", closed_high) if low == left else (closed_low, first == "\\ge")
    made = _make_list(text, [low, high], "[" if closed_low else "(", "]" if closed_high else ")", depth)
    return dataclasses.replace(made, variable=variable)


def _list(text: str, depth: int) -> Form | None:
    if "\\cup" in text:
        return _make_list(text, text.split("\\cup"), "\\cup", "", depth)
    if text.startswith("\\{") and text.endswith("\\}") and encloses(text[1:-2] + "}"):
        return _make_list(text, split_top(text[2:-2], ","), "{", "}", depth)
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and encloses(text):
        parts = split_top(text[1:-1], ",")
        return _make_list(text, parts, text[0], text[-1], depth) if len(parts) > 1 else None
    if text.count("\\pm") == 1 and text.startswith("\\pm"):
        bare = _PLURAL_MINUS.sub("", text)
        return _make_list(text, [bare, "-" + bare], "", "", depth)
    parts = [part for piece in split_top(text, ",") for part in _AND.split(piece)]
    parts = [part for part in parts if part.strip()]
    return _make_list(text, parts, "", "", depth) if len(parts) > 1 else None


def _make_list(text: str, parts: list[str], opening: str, closing: str, depth: int) -> Form:
    forms = tuple(_analyse(canonical(part), depth + 1) for part in parts)
    return Form(text=text, shape=Shape.LIST, opening=opening, closing=closing, parts=forms)


_WORDS = re.compile(r"[A-Za-z一-鿿][A-Za-z一-鿿 '\-]*")


def _is_words(text: str) -> bool:
    """Plain words: Chinese, or at least one run of four letters or a known short answer."""
    if not _WORDS.fullmatch(text):
        return False
    return not text.isascii() or any(len(word) >= 4 for word in re.split(r"[ '\-]", text)) or (
        text.casefold() in ("yes", "no", "odd", "red", "sin", "cat", "dog")
    )  # fmt: skip
