"""Removing rows that share a run of words with a test set.

What counts as a word decides the result: against MATH-500, 13-grams over words remove 2 % of MATH train, 13-grams over
words and punctuation 16 %, because of LaTeX boilerplate. Words only is what this module does, and says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from data.curate import Kept, Text, ngrams, normalised, words
from data.records import Row, is_text

TOKENISATION = "words only (curate.words): no case, no punctuation, each Han character one word"


def asked(row: Row) -> str:
    """What a row asks: all its user messages. Raw text asks nothing, and is what it is."""
    if is_text(row):
        return str(row["text"])
    return "\n".join(m["content"] for m in row["prompt"] if m["role"] == "user")


def decontaminate(rows: Iterable[Row], tests: Iterable[Row], *, n: int = 13, text: Text = asked) -> Kept:
    """Rows that share no run of `n` words with the question of any test row (13 as GPT-3, appendix C).

    A question shorter than `n` words is compared whole, signs and all. Raises ValueError for `n` below 1.
    """
    counts: dict[str, int] = {}
    return Kept(list(apart(rows, tests, counts, n=n, text=text)), counts)


def apart(
    rows: Iterable[Row], tests: Iterable[Row], counts: dict[str, int], *, n: int = 13, text: Text = asked
) -> Iterator[Row]:
    """`decontaminate` row by row; tallies go into `counts`.

    A copy (column `origin`, data/augment.py) goes with the row that it was made of, which comes before it: a synonym
    in every dozen words would hide a test question from a search for 13.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    forbidden: set[tuple[str, ...]] = set()
    for test in tests:
        forbidden.update(_marks(text(test), n))
    reason, copied = f"shares {n} words with a test question", "copy of a row that does"
    counts[reason] = 0
    return _apart(rows, forbidden, counts, n, text, (reason, copied))


def _apart(
    rows: Iterable[Row],
    forbidden: set[tuple[str, ...]],
    counts: dict[str, int],
    n: int,
    text: Text,
    reasons: tuple[str, str],
) -> Iterator[Row]:
    removed: set[str] = set()
    for row in rows:
        if not forbidden.isdisjoint(_marks(text(row), n)):
            if "id" in row:
                removed.add(row["id"])
            counts[reasons[0]] += 1
        elif "augmentation" in row and row.get("origin") in removed:
            counts[reasons[1]] = counts.get(reasons[1], 0) + 1
        else:
            yield row


def _marks(text: str, n: int) -> list[tuple[str, ...]]:
    return ngrams(words(text), n) or [(normalised(text),)]
