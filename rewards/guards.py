r"""Static guards between the exact path and algebra: cheap, and each closes a hole that algebra leaves open.

Computer algebra cannot see whether anything was computed: an expression copied from the prompt, or one that was
never evaluated, equals the gold. And some expressions never finish.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache

from rewards.extract import LONGEST
from rewards.forms import Form, Shape
from rewards.notation import FORBIDDEN, canonical, nesting

DEEPEST = 64
"""Levels of brackets; a deeper answer is refused."""

_OPERATIONS = (
    (re.compile(r"\\(?:sum|prod|int|iint|oint|lim)(?![a-z])"), "a sum, product, integral or limit"),
    (re.compile(r"!|\\binom|\\tbinom|\\dbinom|\\choose|\\atop"), "a factorial or binomial"),
    (
        re.compile(r"\\(?:gcd|lcm|max|min|det|mod|pmod|bmod|lfloor|rfloor|lceil|rceil|sup|inf)(?![a-z])|\bmod\b"),
        "an unevaluated function",
    ),
    (re.compile(r"\\?(?<![a-z])(?:sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan)(?![a-z])"), "a trigonometric function"),
    (re.compile(r"\\?(?<![a-z])(?:log|ln|lg)(?![a-z])"), "a logarithm"),
)  # fmt: skip
_TOWER = re.compile(r"\^\s*(?:\{[^{}]*\^|\w\s*\^|\([^()]*\^|\{\{|\{[^{}]*\{[^{}]*\^)")
_LONG_EXPONENT = re.compile(r"\^\s*(?:\{?\s*[-+]?\d{4,}|\([-+]?\d{4,})")
_LONG_DIGITS = re.compile(r"\d{80,}")
_FACTORIAL = re.compile(r"(?:\d{4,}|[)}\]!])\s*!")
_BIG_BINOMIAL = re.compile(r"binom[^a-z]{0,4}\d{4,}|\\choose[^a-z]{0,4}\d{4,}|\d{4,}[^a-z]{0,4}\\choose")
_BIG_BOUND = re.compile(r"\\(?:sum|prod)[^a-z]?.{0,40}?(?:\d{4,}|\^)(?=.*)")
_BIG_POWER = re.compile(r"\)\s*\^\s*\{?\s*\d{2,}")
_OPERATOR = re.compile(r"(?<=[\w)}\]!°%])\s*(?:[-+*]|\\times|\\cdot|\\div|/)")


def refuse(gold: Form, answer: Form, prompt: str, *, numeric_form: bool = True, echo: bool = True) -> str:
    """Why `answer` is wrong without asking algebra; "" if nothing speaks against it."""
    return (
        (numeric_form and _unevaluated(gold, answer))
        or (echo and prompt and is_echo(gold, answer, prompt) and "copied from the prompt")
        or explosive(answer.text)
        or ""
    )


def malformed(text: str) -> str:
    """Why `text` cannot be an honest answer, whatever it says; "" if it can."""
    if len(text) > LONGEST:
        return "answer too long"
    if FORBIDDEN.search(text):
        return "control characters in the answer"
    if nesting(text) > DEEPEST:
        return "answer nested too deeply"
    return ""


def _unevaluated(gold: Form, answer: Form) -> str:
    """The numeric-form guard: the gold is a number, so the answer has to be one, not a way to get one."""
    if gold.shape is Shape.NUMBER:
        return "not a plain number"
    listed = gold.shape in (Shape.LIST, Shape.MATRIX) and gold.opening != "\\cup"
    if listed and gold.numeric and answer.shape is not Shape.FORMULA:
        return "not plain numbers"
    for pattern, name in _OPERATIONS:
        if pattern.search(answer.text) and not pattern.search(gold.text):
            return f"holds {name}, the gold does not"
    if is_constant(gold.text):
        if answer.shape is Shape.NUMBER and "." in answer.text:
            return "a decimal for an exact value"
        allowed = len(_OPERATOR.findall(gold.text))
        if len(_OPERATOR.findall(answer.text)) > (2 * allowed + 1 if allowed else _slack(gold.text)):
            return "not evaluated"
    return ""


def _slack(gold: str) -> int:
    r"""Operators allowed where the gold has none: the dot of "2 \cdot \sqrt{3}" or the bar of "pi/2"."""
    return 1 if "sqrt" in gold or "pi" in gold or "frac" in gold or "^" in gold else 0


_CONSTANT = re.compile(r"\\(?:frac|sqrt|pi|infty|cdot|times|div|pm)(?![a-z])|(?<![a-zA-Z\\])[ei](?![a-zA-Z])")


def is_constant(text: str) -> bool:
    """Whether no variable occurs in `text`."""
    return not re.search(r"[A-Za-z]", _CONSTANT.sub(" ", text))


def explosive(text: str) -> str:
    """Why evaluating `text` might never end; "" if it should."""
    if _TOWER.search(text) or _LONG_EXPONENT.search(text):
        return "power tower or huge exponent"
    if _LONG_DIGITS.search(text):
        return "huge number"
    if "!" in text and _FACTORIAL.search(text):
        return "huge factorial"
    if _BIG_BINOMIAL.search(text) or _BIG_BOUND.search(text):
        return "huge binomial, sum or product"
    if _BIG_POWER.search(text) and len(re.findall(r"[a-z]", text)) > 3:
        return "huge expansion"
    return ""


_SPAN = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL)
_PLAIN_SPAN = re.compile(r"[\w.()\[\]{}^%\\]+(?:\s*[-+*/=^×÷!]\s*[\w.()\[\]{}^%\\]+)+")
_SIDES = re.compile(r"=|<|>|\\le|\\ge|\\ne|\\equiv|\\approx|,|;|\\to|\\in|\\text")
_TOKEN = re.compile(r"\\[A-Za-z]+|[A-Za-z]|\d+(?:\.\d+)?|[^\s\\]")
_EMPTY_TOKENS = frozenset(("(", ")", "[", "]", "{", "}", "\\cdot", "\\times", "*", "\\left", "\\right", ",", "."))


def is_echoed_number(gold: Form, answer: Form, prompt: str) -> bool:
    """A decimal or fraction of the prompt where the gold is spelled otherwise: "write 0.25 as a fraction".

    Whole numbers never count as copied.
    """
    if answer.value is None or answer.value.denominator == 1 or answer.text == gold.text:
        return False
    return any(answer.text == span for span in _prompt_numbers(prompt))


_PLAIN_NUMBER = re.compile(r"(?<![\w.])\d*[./]\d+(?![\w/])")


@lru_cache(maxsize=1024)
def _prompt_numbers(prompt: str) -> frozenset[str]:
    spans = set(_PLAIN_NUMBER.findall(prompt[:20000]))
    for found in _SPAN.finditer(prompt[:20000]):
        span = next(group for group in found.groups() if group is not None)
        spans |= {canonical(part) for part in (span, *_SIDES.split(span))}
    return frozenset(spans)


def is_echo(gold: Form, answer: Form, prompt: str) -> bool:
    """The prompt-echo guard: the answer is a formula of the prompt, perhaps with brackets or terms moved.

    Numbers never count as copied, nor does anything where the gold itself is a formula of the prompt.
    """
    tokens = _bag(answer.text)
    if len(tokens) < 2:
        return False
    spans = _prompt_bags(prompt)
    return (tokens in spans or _bag(_NEUTRAL.sub("", answer.text)) in spans) and _bag(gold.text) not in spans


_NEUTRAL = re.compile(
    r"(?<![\d.\w}^_])[-+]?0[-+](?!\d)|[-+]0(?![\d.\w!^])|(?:\\cdot|\\times|\*|/|\^)\s*1(?![\d.\w!^])|"
    r"(?<![\d.\w}^_\\/])1\s*(?:(?:\\cdot|\\times|\*)\s*|(?=[(\[a-zA-Z\\]))"
)
"""Zero added, one multiplied: a copy with "+0" behind it is a copy."""


@lru_cache(maxsize=1024)
def _prompt_bags(prompt: str) -> frozenset[frozenset[tuple[str, int]]]:
    bags = set()
    for found in _SPAN.finditer(prompt[:20000]):
        span = next(group for group in found.groups() if group is not None)
        for part in {span, *_SIDES.split(span)}:
            bags.add(_bag(canonical(part)))
    for found in _PLAIN_SPAN.finditer(prompt[:20000]):
        for part in {found[0], *_SIDES.split(found[0])}:
            bags.add(_bag(canonical(part)))
    return frozenset(bags)


def _bag(text: str) -> frozenset[tuple[str, int]]:
    """The tokens of a formula with their counts, brackets and dots of multiplication left out."""
    counts = Counter(_TOKEN.findall(text))
    return frozenset((token, count) for token, count in counts.items() if token not in _EMPTY_TOKENS)
