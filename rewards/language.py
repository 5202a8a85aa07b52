r"""Language consistency: the share of target-language words in the reasoning (DeepSeek-R1, arXiv 2501.12948, 2.3.2).

Words are counted by script, which sees a switch inside a sentence; classifiers of whole sentences do not.
Formulas, code, addresses and tags are removed first, so mathematics is not punished; what `\text{}` says stays.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from rewards.reward import Sample

HAN_PER_WORD = 1.6
"""Han characters that count as one word."""

_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mbox)\s*\{([^{}]*)\}")
_NOT_PROSE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]{0,400}`|\$\$.{0,3000}?\$\$|\$[^$\n]{0,1000}\$|"
    r"\\\[(?:[^\\]|\\[^\[\]])*\\\]|\\\((?:[^\\]|\\[^()])*\\\)"
    r"|\\begin\{(\w{1,20}\*?)\}.{0,2000}?\\end\{\1\}|https?://\S+|</?[^<>\n]{1,24}>"
    r"|\\[A-Za-z]{1,40}(?:\{[^{}]{0,200}\})*|(?<![\w.])[\w.]{1,64}\([^()\n]{0,200}\)|(?<!\w)\w{1,64}_\w{1,64}",
    re.DOTALL,
)
"""No text takes more than linear time: repeats are bounded, or end where the next one begins."""
_WORDS: Mapping[str, re.Pattern[str]] = {
    "latin": re.compile(r"[A-Za-zÀ-ɏ]{2,}(?:['’-][A-Za-zÀ-ɏ]+)*"),
    "han": re.compile(r"[㐀-䶿一-鿿]"),
    "kana": re.compile(r"[぀-ヿ]"),
    "hangul": re.compile(r"[가-힯]+"),
    "cyrillic": re.compile(r"[Ѐ-ӿ]{2,}"),
    "arabic": re.compile(r"[؀-ۿ]{2,}"),
    "greek": re.compile(r"[Ͱ-Ͽ]{2,}"),
    "devanagari": re.compile(r"[ऀ-ॿ]{2,}"),
}
_PER_WORD = {"han": HAN_PER_WORD, "kana": 2.0}
_SCRIPTS: Mapping[str, tuple[str, ...]] = {
    "en": ("latin",), "zh": ("han",), "ja": ("kana", "han"), "ko": ("hangul",), "ru": ("cyrillic",), "ar": ("arabic",),
    "el": ("greek",), "hi": ("devanagari",),
}  # fmt: skip
LANGUAGES = tuple(_SCRIPTS)
"""Targets that script counting can tell apart; two languages of one script look the same to it."""

_FORMULAS = "sin cos tan cot log ln exp lim max min mod gcd lcm det cm mm km kg mg ml pi"
_FORMULA_WORDS = frozenset(_FORMULAS.split())


def prose(text: str) -> str:
    r"""`text` without formulas, code, addresses and tags; what `\text{}` says is kept."""
    spoken = " ".join(_TEXT_COMMAND.findall(text)) if "\\" in text else ""
    return unicodedata.normalize("NFKC", _NOT_PROSE.sub(" ", text) + " " + spoken)


def count_words(text: str, ignore: frozenset[str] = frozenset()) -> dict[str, float]:
    """Words by script of a text that is prose already."""
    counts = {}
    for script, pattern in _WORDS.items():
        found = pattern.findall(text)
        if script == "latin":
            found = [word for word in found if word.lower() not in ignore and word not in _FORMULA_WORDS]
        if found:
            counts[script] = len(found) / _PER_WORD.get(script, 1.0)
    return counts


def detect(text: str) -> str:
    """The language of `text` out of LANGUAGES by the same count; "en" where there are no words."""
    counts = count_words(prose(text))
    if counts.get("kana", 0.0) > 0.1 * counts.get("han", 0.0) and counts.get("kana", 0.0) > counts.get("latin", 0.0):
        return "ja"
    shares = {name: sum(counts.get(script, 0.0) for script in _SCRIPTS[name]) for name in LANGUAGES if name != "ja"}
    return max(shares, key=lambda name: shares[name])


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """Share of target-language words in the reasoning, 0 to 1; formulas and code do not count.

    Fewer than `min_words` words in the target language are no evidence and score 0: a chain of bare formulas is
    not a free win. Without a reasoning block the whole completion is read where the convention has none, and the
    score is 0 where it should have one. None for a target that script counting cannot see.
    """

    min_words: int = 20
    """Words of the target language below which nothing is paid; a small model's short chains want 3 or so."""
    allow: tuple[str, ...] = ("Python", "GPU", "CPU", "API", "JSON", "HTTP", "LaTeX")
    """Technical words that belong to no language."""

    def __call__(self, sample: Sample, /) -> float | None:
        scripts = _SCRIPTS.get(sample.language)
        if scripts is None:
            return None
        text = sample.parsed().reasoning
        if text is None:
            if sample.convention != "none":
                return 0.0
            text = sample.completion
        counts = count_words(prose(text), frozenset(word.lower() for word in self.allow))
        wanted = sum(counts.get(script, 0.0) for script in scripts)
        if wanted < max(self.min_words, 1e-9):
            return 0.0
        return wanted / sum(counts.values())
