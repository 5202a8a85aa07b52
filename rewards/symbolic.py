"""Equality by computer algebra (math-verify, sympy). Runs only in the scoring pool's workers: it can hang.

math-verify alone accepts some different values (it drops differences below 1e-15 and rounds to six decimals),
so whatever it accepts has to agree numerically to 40 digits too, at rational points where there are variables.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from rewards.exact import compare
from rewards.forms import Form, Shape, analyse
from rewards.reward import Status

_VARIABLE = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*°")
_DIGITS = 60
_AGREEMENT = 40
_POINTS = ((3, 7), (11, 5), (2, 13))
"""Numerators and denominators of the points at which formulas with variables are compared."""


def equal(gold: str, answer: str, prompt: str = "") -> tuple[float | None, str, str]:
    """Score, status and detail of one pair that the exact path could not decide."""
    failed = False

    def scalar(one: Form, other: Form) -> bool | None:
        nonlocal failed
        if one.shape is Shape.NUMBER and other.shape is Shape.NUMBER:
            return compare(one, other, prompt=prompt)
        if _changes_case(one.text, other.text) or _primes(one.text) != _primes(other.text):
            return False
        if "=" in one.text:
            return _same_equation(one.text, other.text)
        parsed = _parse(one.text)
        if parsed is None:
            failed = True
            return False
        theirs = _parse(other.text)
        return theirs is not None and _same(parsed, theirs)

    verdict = compare(analyse(gold), analyse(answer), prompt=prompt, scalar=scalar)
    if verdict is None:  # structures of different kinds: an interval against an inequality, say
        parsed, theirs = _parse(gold), _parse(answer)
        verdict = parsed is not None and theirs is not None and _same(parsed, theirs)
    if failed and not verdict:
        return None, Status.UNPARSED_GOLD, "the gold answer is not readable as mathematics"
    return (1.0, Status.OK, "") if verdict else (0.0, Status.WRONG, "")


def _changes_case(gold: str, answer: str) -> bool:
    """Whether a variable of the gold is written in the other case: X is not x, but the parser takes it for it."""
    ours, theirs = (set(_VARIABLE.findall(text)) for text in (gold, answer))
    return any(letter.swapcase() in ours for letter in theirs - ours)


def _primes(text: str) -> int:
    """Derivatives and second points, f' and A'; the parser drops them."""
    return text.count("'") + text.count("\\prime")


@lru_cache(maxsize=1024)
def _parse(text: str) -> Any:
    """A sympy object, or None."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    config = LatexExtractionConfig(
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
        )
    )
    text = _DEGREES.sub(r"(\\frac{\1 \\pi}{180})", text)
    found = parse(f"${text}$", extraction_config=[config], fallback_mode="no_fallback", parsing_timeout=None)
    return next((item for item in found if not isinstance(item, str)), None)


def _same(gold: Any, answer: Any) -> bool:
    from math_verify import verify

    if not _agree(gold, answer):  # first: it costs a hundredth of the simplification that a refusal takes
        return False
    return verify([gold], [answer], float_rounding=30, numeric_precision=_DIGITS, strict=True, timeout_seconds=None)


def _same_equation(gold: str, answer: str) -> bool:
    """Whether two equations have the same solutions as far as one is a constant multiple of the other."""
    import sympy  # type: ignore[import-untyped]

    sides = [side for text in (gold, answer) for side in text.split("=")]
    parsed = [_parse(side) for side in sides]
    if len(sides) != 4 or not all(isinstance(side, sympy.Expr) for side in parsed):
        return False
    left, right = parsed[0] - parsed[1], parsed[2] - parsed[3]
    if left.free_symbols != right.free_symbols or not left.free_symbols:
        return False
    ratio = sympy.simplify(left / right)
    return bool(ratio.is_number and ratio.is_finite and ratio != 0)


def _agree(gold: Any, answer: Any) -> bool:
    """Whether two expressions have the same numerical value; whatever is no expression was compared already."""
    import sympy

    if not isinstance(gold, sympy.Expr) or not isinstance(answer, sympy.Expr):
        return True
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    for shift, (top, bottom) in enumerate(_POINTS):
        point = {s: sympy.Rational(top + 2 * i + shift, bottom + 2 * i) for i, s in enumerate(symbols)}
        one, other = (sympy.N(side.subs(point), _DIGITS) for side in (gold, answer))
        if not (one.is_number and other.is_number) or not one.is_finite or not other.is_finite:
            continue
        if abs(one - other) > abs(one) * sympy.Float(10) ** -_AGREEMENT:
            return bool(one == other)
        if not symbols:
            break
    return True
