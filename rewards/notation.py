"""One canonical spelling for mathematical answers: full-width forms, LaTeX variants, spacing.

Only spelling changes here, never a value. Not done with Unicode's NFKC on purpose: it turns `3²` into `32`
and `3½` into `31/2`.
"""

from __future__ import annotations

import re

_SUPERSCRIPTS = {sign: "^{" + digit + "}" for sign, digit in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True)}
_VULGAR = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5),
    "⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8),
}  # fmt: skip
_SYMBOLS = {
    "　": " ", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "、": ",", "。": ".", "「": "", "」": "", "《": "",
    "》": "", "【": "[", "】": "]", "〔": "(", "〕": ")", "“": '"', "”": '"', "‘": "'", "’": "'", "−": "-",
    "–": "-", "—": "-",
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/", "√": r"\sqrt ", "π": r"\pi ",
    "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "±": r"\pm ", "°": "^{\\circ}", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "θ": r"\theta ", "α": r"\alpha ",
    "β": r"\beta ", "→": r"\to ", "≈": r"\approx ", "￥": "¥",
}  # fmt: skip
_INVISIBLE = dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f", "")
_TABLE = str.maketrans(
    {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    | _SUPERSCRIPTS
    | {sign: f"\\frac{{{top}}}{{{bottom}}}" for sign, (top, bottom) in _VULGAR.items()}
    | _SYMBOLS
    | _INVISIBLE
)

FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\ufffd\ud800-\udfff]")
"""Control characters, overrides of the writing direction and halves of characters: no honest answer holds one."""

_COMMANDS = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|mathstrut)(?![a-zA-Z])\.?")
_SPACES = re.compile(r"(?<!\\)\\[;: >]|\\q?quad(?![a-zA-Z])|~|(?<!\\)\\(?=\s)")
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|math(?:rm|bf|it|sf|tt)|mbox|hbox|operatorname\*?)\s*\{([^{}]*)\}"
)
_SHORT = (
    (r"\dfrac", r"\frac"), (r"\tfrac", r"\frac"), (r"\cfrac", r"\frac"), (r"\leqslant", r"\le "),
    (r"\geqslant", r"\ge "),
    (r"\leq", r"\le "), (r"\geq", r"\ge "), (r"\neq", r"\ne "), (r"\degrees", r"^{\circ}"), (r"\degree", r"^{\circ}"),
    (r"\varnothing", r"\emptyset"), (r"\lbrace", r"\{"), (r"\rbrace", r"\}"), (r"\lvert", "|"), (r"\rvert", "|"),
    (r"\vert", "|"), (r"\{,\}", ","), ("{,}", ","), (r"\$", ""), ("$", ""), (r"\%", "%"), (r"\#", "#"), (r"\_", "_"),
    (r"^{\prime}", "'"), (r"^\prime", "'"),
    (r"\(", ""), (r"\)", ""), (r"\lparen", "("), (r"\rparen", ")"), (r"\rightarrow", r"\to "),
)  # fmt: skip
_THOUSANDS = re.compile(r"(?<=\d),?\\[,!](?=\d{3}(?!\d))")
_THIN = re.compile(r"(?<!\\)\\[,!]")
_FRACTION = (
    (re.compile(r"\\frac\s*(\d)\s*([\da-zA-Z])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac(?:\s+([a-zA-Z])|\s*(\\[a-zA-Z]+))\s*([\da-zA-Z])"), r"\\frac{\1\2}{\3}"),
    (re.compile(r"\\frac\s*(\d)\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"(\\frac\s*\{[^{}]*\})\s*(\d)"), r"\1{\2}"),
)
_SQRT = re.compile(r"\\sqrt\s*(\d|[a-zA-Z])")
_BRACED = re.compile(r"([_^])\s*\{\s*([^{}\\\s])\s*\}")
_CIRCLE = re.compile(r"\s*\^\s*\{?\s*\\circ\s*\}?")
_INNER_SPACE = re.compile(r"\s+")
_LOOSE_SPACE = re.compile(r"(?<![\w%]) | (?![\w\\])|(?<=\D) (?=\\frac)")
_MATH_FENCE = re.compile(r"(?<!\\)\\[\[\]()]")


def canonical(text: str) -> str:
    """`text` in canonical spelling, on one line. Linear time; two texts with one spelling mean the same."""
    text = text.translate(_TABLE)
    if "\\" in text or "$" in text or "{" in text:
        text = _latex(text)
    text = _INNER_SPACE.sub(" ", text).strip()
    if " " in text:
        text = _LOOSE_SPACE.sub("", text)
    return _bare(text)


def _latex(text: str) -> str:
    text = text.replace("\\\\", "\\\\ ")
    for old, new in _SHORT:
        if old in text:
            text = text.replace(old, new)
    text = _THOUSANDS.sub("", text)
    text = _THIN.sub(" ", text.replace("\\!", ""))
    if "\\" in text:
        text = _MATH_FENCE.sub("", text) if len(text) > 2 else text
        text = _COMMANDS.sub("", text)
        text = _SPACES.sub(" ", text)
        text = _TEXT.sub(r" \1 ", text)
        if "frac" in text:
            for pattern, new in _FRACTION:
                text = pattern.sub(new, text)
        text = _SQRT.sub(r"\\sqrt{\1}", text)
        text = _CIRCLE.sub("°", text)
    return _BRACED.sub(r"\1\2", text)


def _bare(text: str) -> str:
    """Without closing punctuation, quotation marks and braces around everything."""
    while text:
        before = text
        text = text.strip(' "`').rstrip(".,;:")
        if text[:1] == text[-1:] == "'":  # a single one is a prime, or feet
            text = text[1:-1]
        if text.startswith("**") and text.endswith("**"):
            text = text[2:-2]
        if text.startswith("{") and text.endswith("}") and _encloses(text):
            text = text[1:-1]
        if text == before:
            break
    return text


def _encloses(text: str) -> bool:
    """Whether the first bracket of `text` is closed by its last character."""
    depth = 0
    for index, char in enumerate(text):
        if char in "({[":
            depth += 1
        elif char in ")}]":
            depth -= 1
            if depth == 0:
                return index == len(text) - 1
    return False


encloses = _encloses


def nesting(text: str) -> int:
    """The deepest level of brackets; stops counting at 1000."""
    depth = deepest = 0
    for char in text:
        if char in "({[":
            depth += 1
            deepest = max(deepest, depth)
        elif char in ")}]":
            depth -= 1
    return min(deepest, 1000)


def split_top(text: str, separator: str) -> list[str]:
    """Parts of `text` at separators outside all brackets."""
    if separator not in text:
        return [text]
    parts, depth, start = [], 0, 0
    for index, char in enumerate(text):
        if char in "({[":
            depth += 1
        elif char in ")}]":
            depth -= 1
        elif char == separator and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    parts.append(text[start:])
    return parts
