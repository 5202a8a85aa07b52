"""Which language a text is written in, Chinese or English, by counting its script.

Classifiers trained on sentences do not see code-switching and fall for formulas; counting does neither.
"""

from __future__ import annotations

import re

HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
LATIN_WORD = re.compile(r"[A-Za-z]{2,}")
HAN_PER_WORD = 1.6
"""Han characters that say as much as one English word."""

_NOT_PROSE = re.compile(
    r"""
      ```.*?(?:```|\Z)          # fenced code
    | `[^`\n]*`                 # inline code
    | \$\$.*?\$\$ | \$[^$\n]*\$ # TeX between dollars
    | \\\[.*?\\\] | \\\(.*?\\\) # TeX between brackets
    | \\begin\{(\w+\*?)\}.*?\\end\{\1\}
    | \\[A-Za-z]+               # a stray TeX command
    | https?://\S+
    | </?[^<>\s]{1,20}>         # a tag of an output convention
    """,
    re.DOTALL | re.VERBOSE,
)


def prose(text: str) -> str:
    """`text` without formulas, code, addresses and tags."""
    return _NOT_PROSE.sub(" ", text)


def amounts(text: str) -> tuple[float, int]:
    """How much Chinese and how much English prose `text` holds, both in English words."""
    plain = prose(text)
    return len(HAN.findall(plain)) / HAN_PER_WORD, len(LATIN_WORD.findall(plain))


def detect_language(text: str) -> str:
    """`zh` if there is more Chinese than English prose, else `en` (so also for a text without any prose)."""
    chinese, english = amounts(text)
    return "zh" if chinese > english else "en"
