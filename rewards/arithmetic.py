"""Equalities of plain arithmetic inside prose: finding them, and checking them exactly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

_TOKEN = re.compile(r"\d+(?:\.\d+)?|\.\d+|[-+*/^()%]")
_ANY = re.compile(r"(?:\d+(?:\.\d+)?|\.\d+|[-+*/^()%])|\S")
NUMBER = re.compile(r"(?<!\d)(?:\d{1,40}(?:\.\d{1,40})?|\.\d{1,40})(?!\d)")
_ANNOTATION = re.compile(r"<<([^<>]*)>>")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_PER = re.compile(r"/ ?[A-Za-z]{2,}")
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}(?![A-Za-z])|[一-鿿]+|\\(?:text|mathrm)\s*\{[^{}]*\}|[$€¥￥]")
_SIGNS = str.maketrans(
    {"×": "*", "÷": "/", "−": "-", "–": "-", "·": "*", "＝": "=", "＋": "+", "（": "(", "）": ")", "x": "x"}
)
_REST = re.compile(r"\b(?:rest|remainder)\b|余", re.IGNORECASE)
_MULTIPLY = re.compile(r"(?<=\d)\s*[x]\s*(?=[\d(])|\\times|\\cdot|\\ast")


@dataclass(frozen=True, slots=True)
class Equality:
    """One chain such as `2*3 + 4 = 6 + 4 = 10`."""

    inputs: frozenset[Fraction]
    """Numbers of all sides but the last; of the last, where the first is a single number."""
    output: Fraction
    """What it computes."""
    true: bool
    computes: bool
    """Whether any side holds an operation."""


def plain(text: str) -> str:
    r"""`text` with one spelling for signs, `\frac` as a division, annotations and words taken out."""
    text = _ANNOTATION.sub("", text).translate(_SIGNS)
    text = _MULTIPLY.sub("*", _FRACTION.sub(r"(\1)/(\2)", text))
    return _THOUSANDS.sub("", _WORDS.sub(" ", _PER.sub(" ", text)))


def equalities(sentence: str) -> list[Equality]:
    """Every chain of arithmetic in one sentence, checked. A division may leave a rest where the sentence says so;
    where GSM8K's annotations `<<48/2=24>>` are given, these are read instead of the words around them."""
    rest = _REST.search(sentence) is not None
    notes = _ANNOTATION.findall(sentence)
    texts = [plain(note) for note in notes] if notes else [plain(sentence)[:2000]]
    return [made for text in texts for chain in _chains(text) if (made := _check(chain, rest)) is not None]


def _chains(text: str) -> list[list[str]]:
    """Sides of each run of equal signs: the end of what stands before, the beginning of what stands after."""
    pieces = re.split("[=≈]", text)
    chains: list[list[str]] = [[]]
    for index, piece in enumerate(pieces):
        head = _head(piece) if index else ""
        if head:
            chains[-1].append(head)
        if head != piece.strip() or not index:  # words in between: a new chain may begin behind them
            tail = _tail(piece)
            chains.append([tail] if tail else [])
    return [chain for chain in chains if len(chain) > 1]


def _tail(piece: str) -> str:
    """The longest expression at the end of `piece`; "" if it is only part of one with letters ("2x + 3")."""
    piece = piece[-300:]
    start, operand = len(piece), False  # whether an operand stands to the right
    for token in reversed(list(_ANY.finditer(piece))):
        text = token[0]
        if text[-1].isdigit() and not operand:
            operand, start = True, token.start()
        elif (text in ")%" and not operand) or (text == "(" and operand):
            start = token.start()
        elif text in "+-*/^" and operand:
            operand, start = False, token.start()
        else:
            joined = token.end() == start and (text.isalnum() or text in "\\_.})")
            return piece[start:].strip() if operand and not joined else ""
    return piece[start:].strip()


def _head(piece: str) -> str:
    """The longest expression at the beginning of `piece`; "" if it is only part of one with letters."""
    end, operand, depth = 0, False, 0
    for token in _ANY.finditer(piece[:300]):
        text = token[0]
        if text[-1].isdigit() and not operand:
            operand = True
        elif text == "%" and operand:
            pass
        elif text == "(" and not operand:
            depth += 1
        elif text == ")" and operand and depth:
            depth -= 1
        elif text in "+-*/^" and (operand or text in "+-"):
            operand = False
        else:
            joined = token.start() == end and (text.isalnum() or text in "\\_(")
            return piece[:end].strip() if operand and not joined and not depth else ""
        end = token.end()
    return piece[:end].strip() if operand and not depth else ""


def _check(sides: list[str], rest: bool) -> Equality | None:
    values = [evaluate(side) for side in sides]
    numbers = [value for value in values if value is not None]
    if len(numbers) != len(sides):
        return None
    single = [NUMBER.fullmatch(side.lstrip("+-").rstrip("%")) is not None for side in sides]
    turned = single[0] and not single[-1]
    parts = sides[1:] if turned else sides[:-1]
    return Equality(
        inputs=frozenset(Fraction(number) for side in parts for number in NUMBER.findall(side)),
        output=numbers[0] if turned else numbers[-1],
        true=all(_equal(one, other, rest=rest) for one, other in pairwise(numbers)),
        computes=not all(single),
    )


def _equal(one: Fraction, other: Fraction, *, rest: bool) -> bool:
    if one == other:
        return True
    if rest and other == one.numerator // one.denominator:
        return True
    return other.denominator > 1 and abs(one - other) <= abs(one) / 100  # a rounded decimal


def evaluate(text: str) -> Fraction | None:
    """The exact value of `+ - * / ^ % ( )` over decimals; None if it has none or would be huge."""
    tokens = _TOKEN.findall(text)
    if not tokens or len(tokens) > 200:
        return None
    try:
        value, rest = _sum(tokens, 0)
    except (ValueError, ZeroDivisionError, IndexError, RecursionError):
        return None
    return value if rest == len(tokens) else None


def _sum(tokens: list[str], at: int) -> tuple[Fraction, int]:
    value, at = _product(tokens, at)
    while at < len(tokens) and tokens[at] in "+-":
        sign = tokens[at]
        term, at = _product(tokens, at + 1)
        value = value + term if sign == "+" else value - term
    return value, at


def _product(tokens: list[str], at: int) -> tuple[Fraction, int]:
    value, at = _power(tokens, at)
    while at < len(tokens) and tokens[at] in "*/":
        sign = tokens[at]
        factor, at = _power(tokens, at + 1)
        value = value * factor if sign == "*" else value / factor
    return value, at


def _power(tokens: list[str], at: int) -> tuple[Fraction, int]:
    if tokens[at] in "+-":
        value, rest = _power(tokens, at + 1)
        return (-value if tokens[at] == "-" else value), rest
    value, at = _atom(tokens, at)
    if at < len(tokens) and tokens[at] == "^":
        exponent, at = _power(tokens, at + 1)
        if exponent.denominator != 1 or abs(exponent) > 64 or value.numerator.bit_length() > 64:
            raise ValueError("power out of range")
        value = value ** int(exponent)
    return value, at


def _atom(tokens: list[str], at: int) -> tuple[Fraction, int]:
    if tokens[at] == "(":
        value, at = _sum(tokens, at + 1)
        if tokens[at] != ")":
            raise ValueError("bracket not closed")
        at += 1
    elif tokens[at][-1].isdigit():
        if len(tokens[at]) > 80:
            raise ValueError("number out of range")
        value, at = Fraction(tokens[at]), at + 1
    else:
        raise ValueError("not a number")
    if at < len(tokens) and tokens[at] == "%":
        value, at = value / 100, at + 1
    return value, at
