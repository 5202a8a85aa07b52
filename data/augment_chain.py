"""Numbers in a text, number words, and the calculations that a solution notes as `<<48/2=24>>`, all exact.

What may be changed, and whether a change is certain, is augment_numbers.py.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction


class Refused(Exception):
    """A row of which no certain copy can be made; the message is the reason under which it is counted."""


NUMBER = re.compile(r"\d+(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+")
_NOTE = re.compile(r"<<([^<>]*)>>")
_UNNOTED = re.compile(r"=(?!\s*[$£€]?\s*<<)")
_TIME = re.compile(r"\d\s*:\s*\d")
_MOST = 200
"""Characters of a calculation, at most."""

_HALF, _THIRD, _QUARTER = Fraction(1, 2), Fraction(1, 3), Fraction(1, 4)
_SMALL = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
WORDS: Mapping[str, frozenset[Fraction]] = {
    **{word: frozenset({Fraction(n)}) for n, word in enumerate(f"{_SMALL} nineteen".split(), 2)},
    **{word: frozenset({Fraction(10 * n)}) for n, word in enumerate(_TENS.split(), 2)},
    **{word: frozenset({Fraction(1)}) for word in ("one", "single", "once", "first", "another", "himself", "herself")},
    **{word: frozenset({Fraction(2)}) for word in ("twice", "double", "doubled", "doubles", "both", "pair", "couple")},
    **{word: frozenset({Fraction(3)}) for word in ("thrice", "triple", "tripled", "triples", "triplets")},
    **{word: frozenset({Fraction(4)}) for word in ("quadruple", "quadrupled")},
    "second": frozenset({Fraction(2)}),
    "twins": frozenset({Fraction(2)}),
    "half": frozenset({Fraction(2), _HALF, Fraction(50)}),
    "halves": frozenset({Fraction(2), _HALF, Fraction(50)}),
    "halved": frozenset({Fraction(2), _HALF, Fraction(50)}),
    "third": frozenset({Fraction(3), _THIRD}),
    "thirds": frozenset({Fraction(3), _THIRD}),
    "quarter": frozenset({Fraction(4), _QUARTER, Fraction(25)}),
    "quarters": frozenset({Fraction(4), _QUARTER, Fraction(25)}),
    "fourth": frozenset({Fraction(4), _QUARTER}),
    "fifth": frozenset({Fraction(5), Fraction(1, 5)}),
    "sixth": frozenset({Fraction(6), Fraction(1, 6)}),
    "eighth": frozenset({Fraction(8), Fraction(1, 8)}),
    "tenth": frozenset({Fraction(10), Fraction(1, 10)}),
    "dozen": frozenset({Fraction(12)}),
    "dozens": frozenset({Fraction(12)}),
    "hundred": frozenset({Fraction(100)}),
    "thousand": frozenset({Fraction(1000)}),
    "million": frozenset({Fraction(10**6)}),
}
"""Number words and the values that a calculation may use for them."""

_CUES: tuple[tuple[str, tuple[int, ...]], ...] = (
    (r"weeks?|weekly|days?|daily", (7, 52)),
    (r"months?|monthly|years?|yearly|annual\w*", (12, 52, 365)),
    (r"months?|monthly|weeks?|weekly", (4, 28, 30, 31)),
    (r"days?|hours?|hourly|daily", (24,)),
    (r"hours?|hourly|minutes?|seconds?", (60, 3600)),
    (r"foot|feet|inch(?:es)?", (12,)),
    (r"yards?|foot|feet", (3, 36)),
    (r"pounds?|ounces?|lbs?|oz", (16,)),
    (r"percent\w*|cents?|pennies|penny|quarters?|dimes?|nickels?|met(?:er|re)s?|centimet\w+|cm|%", (100,)),
    (r"kilo\w+|km|kg|grams?|mg|ml|milli\w+|lit(?:er|re)s?", (1000,)),
    (r"quarters?", (25, 4)),
    (r"dimes?", (10,)),
    (r"nickels?", (5,)),
    (r"gallons?|quarts?", (4,)),
)
"""Words and the constants of the world that a calculation may take from them."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it stands in a text."""

    start: int
    end: int
    text: str
    value: Fraction
    percent: bool = False
    fraction: bool = False
    """Whether a stroke joins it to another, as in 2/3."""

    @property
    def decimals(self) -> int:
        return len(self.text.partition(".")[2])


@dataclass(frozen=True, slots=True)
class Calculation:
    """One note: an expression over literals, and its result."""

    expression: str
    body: ast.expr
    literals: tuple[Number, ...]
    result: Fraction
    result_text: str

    def evaluated(self, values: Sequence[Fraction]) -> Fraction:
        """The exact result with other literals. Raises Refused for a division by zero."""
        remaining = iter(values)
        try:
            return _evaluated(self.body, lambda: next(remaining))
        except ZeroDivisionError:
            raise Refused("a division by zero") from None

    def rewritten(self, values: Sequence[Fraction], result: Fraction) -> str:
        """The note with other literals."""
        parts, end = [], 0
        for literal, value in zip(self.literals, values, strict=True):
            parts += [self.expression[end : literal.start], spell(value, literal.text)]
            end = literal.end
        return f"<<{''.join(parts)}{self.expression[end:]}={spell(result, self.result_text)}>>"


def numbers(text: str) -> tuple[Number, ...]:
    """All numbers of a text. Raises Refused for a time of day and for a number that is part of a word (2nd, 5k)."""
    if _TIME.search(text):
        raise Refused("a time of day")
    found = []
    for match in NUMBER.finditer(text):
        before, after = text[: match.start()][-2:], text[match.end() :][:2]
        if before[-1:].isalpha() and before not in ("x", "1x") and not re.fullmatch(r"\dx", before):
            raise Refused("a number is part of a word")
        if after[:1].isalpha() and not re.fullmatch(r"x\d", after):
            raise Refused("a number is part of a word")
        tail = text[match.end() :]
        found.append(
            Number(
                match.start(),
                match.end(),
                match.group(),
                Fraction(match.group().replace(",", "")),
                percent=re.match(r"\s?(%|percent\b)", tail) is not None,
                fraction=tail.startswith("/") or text[: match.start()].endswith("/"),
            )
        )
    return tuple(found)


def number_words(text: str) -> dict[str, frozenset[Fraction]]:
    """The number words of a text with the values that they may have."""
    said = re.findall(r"[a-z]+", text.lower())
    return {word: WORDS[word] for word in said if word in WORDS}


def constants(text: str) -> frozenset[Fraction]:
    """Constants of the world that the words of a text call for: 60 where hours are spoken of."""
    found: set[Fraction] = set()
    for words, values in _CUES:
        if re.search(rf"(?<![a-z])(?:{words})(?![a-z])", text, re.IGNORECASE):
            found.update(map(Fraction, values))
    return frozenset(found)


def calculations(solution: str) -> tuple[Calculation, ...]:
    """The notes of a solution, each of which must come out. Raises Refused, also for an equation without a note."""
    if _UNNOTED.search(_NOTE.sub("<<>>", solution)):
        raise Refused("a calculation is not noted")
    return tuple(map(_calculation, _NOTE.findall(solution)))


def _calculation(note: str) -> Calculation:
    expression, equals, result = (part.strip() for part in note.rpartition("="))
    expression = re.sub(r"(?<=\d),(?=\d{3})", "", expression)
    if not equals or not re.fullmatch(rf"-?(?:{NUMBER.pattern})", result) or len(expression) > _MOST:
        raise Refused("a calculation cannot be read")
    try:
        body = ast.parse(expression, mode="eval").body
        literals = _literals(expression, body)
        values = iter([literal.value for literal in literals])
        found = _evaluated(body, lambda: next(values))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Refused("a calculation cannot be read") from None
    except ZeroDivisionError:
        raise Refused("a division by zero") from None
    stated = Fraction(result.replace(",", ""))
    if found != stated:
        raise Refused("a calculation does not come out")
    return Calculation(expression, body, literals, stated, result)


_OPERATORS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def _literals(expression: str, body: ast.expr) -> tuple[Number, ...]:
    if not expression.isascii():  # offsets below are in bytes
        raise ValueError(expression)
    places = [(n.col_offset, n.end_col_offset) for n in ast.walk(body) if isinstance(n, ast.Constant)]
    found = []
    for start, end in sorted(places):
        text = expression[start:end]
        if not NUMBER.fullmatch(text):
            raise ValueError(text)
        found.append(Number(start, int(end or start), text, Fraction(text)))
    return tuple(found)


def _evaluated(node: ast.expr, literal: Callable[[], Fraction]) -> Fraction:
    """The value of sums, differences, products and quotients; literals are asked for from left to right."""
    if isinstance(node, ast.Constant):
        return literal()
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left = _evaluated(node.left, literal)
        return _OPERATORS[type(node.op)](left, _evaluated(node.right, literal))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluated(node.operand, literal)
    raise ValueError(f"not arithmetic: {type(node).__name__}")


def spell(value: Fraction, like: str) -> str:
    """`value` written as `like` is, with its decimals and commas. Raises Refused where that would round."""
    places = len(like.partition(".")[2])
    while value * 10**places != int(value * 10**places):
        places += 1
        if places > max(2, len(like.partition(".")[2])):
            raise Refused("a result has too many decimals")
    whole, rest = divmod(abs(int(value * 10**places)), 10**places)
    text = f"{whole:,}" if "," in like else str(whole)
    return ("-" if value < 0 else "") + text + (f".{rest:0{places}d}" if places else "")
