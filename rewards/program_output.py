"""Whether a program printed what it should have: the same lines, the same words, numbers by rule.

Lines are never paired off with `zip`: a missing or extra line is a difference, whatever it holds.
"""

from __future__ import annotations

import re

TOLERANCE = 1e-6
"""Relative and absolute, for numbers that are expected with a fraction or an exponent."""

_NUMBER = re.compile(r"[+-]?(\d{1,300}(\.\d{0,300})?|\.\d{1,300})([eE][+-]?\d{1,4})?", re.ASCII)
_WORD = re.compile(r"[^ \t\r\f\v]+")
_FLOAT = re.compile(r".*[.eE].*", re.ASCII)


def difference(printed: str, expected: str) -> str | None:
    """The first difference in one short line, or None if there is none.

    White space at the ends of lines and blank lines at the end do not count; integers and words must agree exactly.
    """
    got, wanted = _lines(printed), _lines(expected)
    if len(got) != len(wanted):
        return f"{len(got)} lines instead of {len(wanted)}"
    for number, (one, other) in enumerate(zip(got, wanted, strict=True), start=1):
        if len(one) != len(other):
            return f"line {number}: {len(one)} words instead of {len(other)}"
        if not all(_same(a, b) for a, b in zip(one, other, strict=True)):
            return f"line {number} differs"
    return None


def _lines(text: str) -> list[list[str]]:
    return [_WORD.findall(line) for line in text.rstrip(" \t\r\f\v\n").split("\n")]


def _same(printed: str, expected: str) -> bool:
    if printed == expected:
        return True
    if not (_FLOAT.fullmatch(expected) and _NUMBER.fullmatch(expected) and _NUMBER.fullmatch(printed)):
        return False
    a, b = float(printed), float(expected)
    return abs(a - b) <= TOLERANCE * max(1.0, abs(b))  # infinity differs from everything here: inf - inf is nan
