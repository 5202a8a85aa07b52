"""Other words for the same prompt: synonyms (EDA, Wei and Zou 2019, arXiv 1901.11196, section 2) and framings.

Both leave the answer and the completion as they are, so a word that the completion uses is not replaced. Of EDA's four
operations only synonym replacement is here: insertion, swap and deletion may change what is asked.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.augment_chain import Refused
from data.augment_words import (
    QUESTION_FIRST,
    QUESTIONS,
    REQUESTS,
    SYNONYMS,
    TASK,
    TASK_ZH,
    UNITS,
    UNITS_ZH,
)
from data.language import HAN
from data.records import Row, read_json_lines

Table = Mapping[str, tuple[str, ...]]

_PROTECTED = re.compile(
    r"""
      ```.*?(?:```|\Z) | `[^`\n]*`                 # code
    | \$\$.*?\$\$ | \$[^$\n]*\$ | \\\[.*?\\\] | \\\(.*?\\\) | \\begin\{(\w+\*?)\}.*?\\end\{\1\} | \\[A-Za-z]+  # LaTeX
    | "[^"\n]*" | “[^”\n]*” | ‘[^’\n]*’ | (?<!\w)'[^'\n]*'(?!\w) | 「[^」\n]*」 | 《[^》\n]*》             # quoted
    | https?://\S+ | </?[^<>\s]{1,20}>
    """,
    re.DOTALL | re.VERBOSE,
)
_WORD = re.compile(r"(?<![\w'’\-./@])[A-Za-z]+(?![\w'’\-/@]|\.\w)")
_VOWELS = frozenset("aeiou")
_ASKS = re.compile(
    r"(?:How|What|Which|Who|Whose|When|Where|Why|Is|Are|Do|Does|Did|Can|Could|Will|Would)\b[^.?!]*\?|[^。！？；]*"
    r"(?:多少|几|什么|哪|吗|谁|怎)[^。！？；]*？"
)
_BREAK = re.compile(r"(?<=[.!?])\s+(?=[A-Z])|(?<=[。！？；])\s*(?=\S)")


def read_table(path: Path) -> Table:
    """A table of one's own, lines `{"word": "bought", "synonyms": ["purchased"]}`. Raises ValueError with the line."""
    table: dict[str, tuple[str, ...]] = {}
    for number, value in read_json_lines(path):
        where = f"{path}:{number}"
        word = value.get("word") if isinstance(value, dict) else None
        others = value.get("synonyms") if isinstance(value, dict) else None
        texts = [word, *others] if isinstance(others, list) else []
        if len(texts) < 2 or not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError(f'{where}: expected {{"word": "...", "synonyms": ["...", ...]}}')
        assert isinstance(word, str)
        if (reason := _untouchable(word)) is not None:
            raise ValueError(f"{where}: {word!r} {reason}")
        table[word] = tuple(texts[1:])
    if not table:
        raise ValueError(f"{path}: no synonyms in it")
    return table


def _untouchable(word: str) -> str | None:
    """Why a word may not be replaced, or None."""
    if HAN.fullmatch(word[0]) and all(HAN.fullmatch(sign) for sign in word):
        if len(word) < 2:
            return "is one character, which is a part of other words"
        if any(sign in TASK_ZH for sign in word):
            return "carries the task of a question"
        return "is a unit" if any(unit in word for unit in UNITS_ZH) else None
    if not re.fullmatch(r"[a-z]+", word):
        return "is not one word in small letters or Han characters"
    return "carries the task of a question" if word in TASK else "is a unit" if word in UNITS else None


def synonyms(text: str, said: str, language: str, table: Table, share: float, rng: random.Random) -> str:
    """`text` with other words for a share of its own, one at least; `said` is what must still fit it.

    Raises Refused where no word of it may be replaced.
    """
    spans = [match.span() for match in _PROTECTED.finditer(text)]
    places = _places_zh(text, table) if language == "zh" else _places_en(text, table)
    free: dict[str, list[tuple[int, int]]] = {}
    for word, found in places.items():
        shielded = any(start < end_ and begin_ < end for start, end in found for begin_, end_ in spans)
        if not shielded and not _occurs(word, said):
            free[word] = found
    words = len(HAN.findall(text)) if language == "zh" else len(_WORD.findall(text))
    changes: list[tuple[int, int, str]] = []
    for word in rng.sample(sorted(free), len(free)):
        other = rng.choice(table[word])
        if not _occurs(other, text) and all(_article_fits(text, start, word, other) for start, _ in free[word]):
            changes += [(start, end, other) for start, end in free[word]]
        if changes and len(changes) >= share * words:
            break
    if not changes:
        raise Refused("no word of the prompt may be replaced")
    for start, end, other in sorted(changes, reverse=True):
        text = text[:start] + other + text[end:]
    return text


def _places_en(text: str, table: Table) -> dict[str, list[tuple[int, int]]]:
    """Words of the table with their places; a word that also occurs with a capital may be a name."""
    found: dict[str, list[tuple[int, int]]] = {}
    capitals = {match.group().lower() for match in _WORD.finditer(text) if not match.group().islower()}
    for match in _WORD.finditer(text):
        word = match.group()
        if word in table and word not in capitals and not HAN.match(word):
            found.setdefault(word, []).append(match.span())
    return found


def _places_zh(text: str, table: Table) -> dict[str, list[tuple[int, int]]]:
    words = sorted((word for word in table if HAN.match(word)), key=len, reverse=True)
    found: dict[str, list[tuple[int, int]]] = {}
    if words:
        for match in re.finditer("|".join(map(re.escape, words)), text):
            found.setdefault(match.group(), []).append(match.span())
    return found


def _occurs(word: str, text: str) -> bool:
    if HAN.search(word):
        return word in text
    return re.search(rf"(?<![A-Za-z]){re.escape(word)}(?![A-Za-z])", text, re.IGNORECASE) is not None


def _article_fits(text: str, start: int, word: str, other: str) -> bool:
    """Whether `a` or `an` in front of the word stays right."""
    before = re.search(r"(?<![A-Za-z])an?\s+$", text[:start], re.IGNORECASE)
    return before is None or (word[0] in _VOWELS) == (other[0].lower() in _VOWELS)


def paraphrase(text: str, language: str, rng: random.Random) -> str:
    """`text` with another framing, or with its question in front of what is given. Its own words stay as they are."""
    forms = list((QUESTIONS if text.rstrip()[-1:] in ("?", "？") else REQUESTS)[language])
    question, rest = _parts(text)
    if question and rest:
        forms += QUESTION_FIRST[language]
    return rng.choice(forms).format_map({"text": text, "question": question, "rest": rest})


def _parts(text: str) -> tuple[str, str]:
    """The question that ends a text, and what stands before it; ("", text) where that is not certain."""
    at = list(_BREAK.finditer(text))
    if not at or _PROTECTED.search(text):
        return "", text
    question = text[at[-1].end() :].strip()
    return (question, text[: at[-1].start()].strip()) if _ASKS.fullmatch(question) else ("", text)


def said_of(row: Row) -> str:
    """All that a row says beside its prompt, which another prompt must still fit."""
    messages: list[Any] = [m for name in ("completion", "chosen", "rejected") for m in row.get(name) or []]
    return "\n".join([*(str(m["content"]) for m in messages), str(row.get("answer") or "")])


BUNDLED: Table = SYNONYMS
