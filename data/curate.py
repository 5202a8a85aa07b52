"""Which rows of a larger set are worth keeping: duplicates, the best by score, at most so many per prompt.

Every function takes rows and returns those kept, in their order, with a count for each reason of removal.
Removing what is in a test set is decontaminate.py; what a reader could not follow is readability.py.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from data.language import HAN
from data.records import Row

_WORD = re.compile(rf"{HAN.pattern}|(?:(?!{HAN.pattern})[^\W_])+")
_TOKEN = re.compile(rf"{_WORD.pattern}|\S")

SHINGLE = 5
"""Words or signs in a shingle of the near-duplicate search."""

Text = Callable[[Row], str]
Score = Callable[[Row], float | None]


@dataclass(frozen=True, slots=True)
class Kept:
    """What a filter kept and what it removed, by reason."""

    rows: list[Row]
    counts: dict[str, int] = field(default_factory=dict)


def words(text: str) -> list[str]:
    """Words only, without case, punctuation or full-width forms; each Han character is a word."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def normalised(text: str) -> str:
    """A text without differences of spacing and full-width forms. Case and signs stay: x - 1 is not X + 1."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def whole_text(row: Row) -> str:
    """Prompt and completion of a row as one text."""
    return "\n".join(m["content"] for name in ("prompt", "completion") for m in row.get(name) or [])


def prompt_key(row: Row) -> str:
    """The same for two rows that ask the same: a hash of the prompt's messages."""
    return hashlib.sha256(json.dumps(row["prompt"], sort_keys=True).encode()).hexdigest()


def deduplicate(rows: Iterable[Row], *, near: float | None = None, text: Text = whole_text) -> Kept:
    """The first of each group of rows that say the same.

    Rows are the same when their normalised texts are; with `near`, also when the Jaccard similarity of their sets
    of shingles (5 words or signs in a row) is at least `near`, in (0, 1]. Raises ValueError for another `near`.
    """
    if near is not None and not 0 < near <= 1:
        raise ValueError(f"near must be above 0 and at most 1, got {near}")
    kept = Kept([], {"exact duplicate": 0} | ({} if near is None else {"near duplicate": 0}))
    exact: set[bytes] = set()
    seen = _Shingles()
    for row in rows:
        said = normalised(text(row))
        digest = hashlib.sha256(said.encode()).digest()
        if digest in exact:
            kept.counts["exact duplicate"] += 1
            continue
        exact.add(digest)
        if near is not None and not seen.add(_TOKEN.findall(said), near):
            kept.counts["near duplicate"] += 1
            continue
        kept.rows.append(row)
    return kept


class _Shingles:
    """Texts as sets of shingle hashes, found again by MinHash (Broder, 1997) in bands of four.

    Two texts meet in one of the 32 bands with probability 1 - (1 - similarity ** 4) ** 32: 0.9998 at 0.7, 0.87 at 0.5.
    """

    BANDS, ROWS = 32, 4

    def __init__(self) -> None:
        self.texts: list[frozenset[int]] = []
        self.bands: dict[tuple[int, bytes], list[int]] = {}
        draw = random.Random("minhash")
        self.factors = [draw.getrandbits(64) | 1 for _ in range(self.BANDS * self.ROWS)]

    def add(self, said: list[str], near: float) -> bool:
        """Whether the text is unlike all before it; then it is remembered."""
        shingles = frozenset(map(_hash, ngrams(said, min(SHINGLE, len(said)))))
        if not shingles:
            return True
        keys = self._keys(shingles)
        candidates = {other for key in keys for other in self.bands.get(key, ())}
        if any(_jaccard(shingles, self.texts[other]) >= near for other in candidates):
            return False
        for key in keys:
            self.bands.setdefault(key, []).append(len(self.texts))
        self.texts.append(shingles)
        return True

    def _keys(self, shingles: frozenset[int]) -> list[tuple[int, bytes]]:
        import numpy as np

        hashes = np.fromiter(shingles, dtype=np.uint64, count=len(shingles))
        factors = np.array(self.factors, dtype=np.uint64)
        smallest = (hashes[:, None] * factors).min(axis=0).reshape(self.BANDS, self.ROWS)
        return [(number, band.tobytes()) for number, band in enumerate(smallest)]


def ngrams(said: list[str], n: int) -> list[tuple[str, ...]]:
    """All runs of `n` words in order; none where there are fewer words or `n` is 0."""
    return [tuple(said[i : i + n]) for i in range(len(said) - n + 1)] if n else []


def _hash(shingle: tuple[str, ...]) -> int:
    return int.from_bytes(hashlib.blake2b(" ".join(shingle).encode(), digest_size=8).digest())


def _jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    return len(a & b) / len(a | b)


def top_fraction(rows: Iterable[Row], score: Score, fraction: float, *, per: Literal["all", "prompt"] = "all") -> Kept:
    """The best `fraction` of the rows by score, of all or of each prompt's own; rounded up, ties to the earlier.

    Rows without a score are removed and counted apart. Raises ValueError for a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"the fraction to keep must be above 0 and at most 1, got {fraction}")
    listed = list(rows)
    scores = [score(row) for row in listed]
    groups: dict[str, list[int]] = {}
    for index, value in enumerate(scores):
        if value is not None:
            groups.setdefault(prompt_key(listed[index]) if per == "prompt" else "", []).append(index)
    chosen: set[int] = set()
    for group in groups.values():
        group.sort(key=lambda index: -float(scores[index] or 0.0))
        chosen.update(group[: math.ceil(Fraction(str(fraction)) * len(group))])
    scored = sum(map(len, groups.values()))
    counts = {"below the top fraction": scored - len(chosen), "no score": len(listed) - scored}
    return Kept([row for index, row in enumerate(listed) if index in chosen], counts)


def cap_per_prompt(rows: Iterable[Row], cap: int, *, score: Score | None = None) -> Kept:
    """At most `cap` rows of each prompt: the best by `score`, else the first. Raises ValueError for a cap below 1."""
    if cap < 1:
        raise ValueError(f"the cap per prompt must be at least 1, got {cap}")
    listed = list(rows)
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(listed):
        groups.setdefault(prompt_key(row), []).append(index)
    chosen: set[int] = set()
    for group in groups.values():
        if score is not None:
            ranks = {index: score(listed[index]) for index in group}
            group.sort(key=lambda index: -math.inf if (rank := ranks[index]) is None else rank, reverse=True)
        chosen.update(group[:cap])
    return Kept(
        [row for index, row in enumerate(listed) if index in chosen],
        {"over the cap per prompt": len(listed) - len(chosen)},
    )
