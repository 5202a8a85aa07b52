"""Rows of the embedded task world: seeded, unlimited, the same for the same (split, seed, index).

    from data.tiny.world import rows
    for row in rows("cold_start", 3000, seed=0, convention="think_answer"): ...

The columns are those of data/records.py. Held-out problems are asked in the split `test` only (problems.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from data.records import Row
from data.template import CONVENTIONS, Convention
from data.tiny import logic_puzzles, mathematics, programs, science
from data.tiny.chat import Exchange, draw_chat, draw_unsafe
from data.tiny.problems import Kind, Problem, draw
from data.tiny.scribe import Scribe

KINDS: Mapping[str, tuple[Kind, ...]] = {
    "math": mathematics.KINDS,
    "science": science.KINDS,
    "code": programs.KINDS,
    "logic": logic_puzzles.KINDS,
}
LANGUAGES = ("en", "zh")

_REASONING = {"math": 6, "code": 2, "science": 2, "logic": 1}
_CHAT = {"general": 3, "safety": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """What the rows of one split hold."""

    weights: Mapping[str, int]
    """Domain to its share."""
    completion: bool = True
    pairs: bool = False
    test: bool = False
    """Held-out problems, each at most once."""


SPLITS: Mapping[str, Split] = {
    "cold_start": Split(weights=_REASONING),
    "sft_reasoning": Split(weights={"math": 6, "code": 2, "science": 1}),
    "sft_general": Split(weights={"general": 5, "safety": 2, "math": 1, "science": 1}),
    "rl": Split(weights=_REASONING, completion=False),
    "rl_general": Split(weights=_CHAT, completion=False),
    "preference": Split(weights=_CHAT, completion=False, pairs=True),
    "test": Split(weights={"math": 9, "science": 4, "code": 3, "logic": 2, "general": 2, "safety": 1}, test=True),
}

_MOST_REPEATS = 2000
"""Successive draws that may repeat a test problem before the split counts as used up."""


def rows(split: str, count: int, seed: int = 0, convention: str = "think_answer") -> Iterator[Row]:
    """`count` rows of a split; fewer or more of them are a prefix of the same sequence.

    Raises ValueError for an unknown split or convention, or when `test` has no further problem to ask.
    """
    chosen = SPLITS[_known(split, SPLITS, "split")]
    layout = CONVENTIONS[_known(convention, CONVENTIONS, "convention")]
    return _rows(split, chosen, count, seed, layout)


def _known(name: str, table: Mapping[str, object], what: str) -> str:
    if name not in table:
        near = get_close_matches(name, table, n=1) or [", ".join(table)]
        raise ValueError(f"the tiny world has no {what} {name!r}; the nearest is {near[0]}")
    return name


def _rows(name: str, split: Split, count: int, seed: int, convention: Convention) -> Iterator[Row]:
    asked: set[str] = set()
    made = index = repeats = 0
    while made < count:
        rng = random.Random(f"{seed}/{name}/{index}")
        identity, row = _row(split, rng, convention)
        index += 1
        if split.test and identity in asked:
            repeats += 1
            if repeats > _MOST_REPEATS:
                raise ValueError(f"the split {name!r} of the tiny world has only {made} problems, {count} were wanted")
            continue
        asked.add(identity)
        made, repeats = made + 1, 0
        yield {"id": f"tiny-{name}-{seed}-{index - 1}", **row}


def _row(split: Split, rng: random.Random, convention: Convention) -> tuple[str, Row]:
    """Identity of what is asked, and the row but for its id."""
    domain = rng.choices(tuple(split.weights), tuple(split.weights.values()))[0]
    language = rng.choice(LANGUAGES)
    if domain in KINDS:
        problem = draw_problem(domain, rng, test=split.test)
        return problem.identity, problem_row(problem, rng, language, convention if split.completion else None)
    exchange = (draw_unsafe if domain == "safety" else draw_chat)(rng, test=split.test)
    return exchange.identity, exchange_row(exchange, language, convention if split.completion else None, split.pairs)


def draw_problem(domain: str, rng: random.Random, *, test: bool) -> Problem:
    """A problem of the domain: first a level, then a kind of that level, then its operands."""
    kinds = KINDS[domain]
    level = rng.choice(sorted({kind.level for kind in kinds}))
    return draw(rng.choice([kind for kind in kinds if kind.level == level]), rng, test=test)


def problem_row(problem: Problem, rng: random.Random, language: str, convention: Convention | None) -> Row:
    """Columns of a problem, without id; with its clean solution where a convention is given."""
    kind = problem.kind
    scribe = Scribe(language)
    answer = kind.solve(problem.operands, scribe)
    row: dict[str, Any] = {
        "prompt": [{"role": "user", "content": kind.pose(problem.operands, rng, language)}],
        "domain": kind.domain,
        "language": language,
        "difficulty": kind.level,
        "source": "tiny",
    }
    if kind.tests is None:
        row["answer"] = answer
    else:
        row["tests"] = kind.tests(problem.operands, rng)
    if convention is not None:
        row["completion"] = [{"role": "assistant", "content": convention.render(scribe.text, answer)}]
    return row


def exchange_row(exchange: Exchange, language: str, convention: Convention | None, pairs: bool) -> Row:
    """Columns of a chat request, without id.

    `chosen` and `rejected` are what the reader sees, without reasoning or tags: a preference is about the answer.
    """
    zh = language == "zh"
    row: dict[str, Any] = {
        "prompt": [{"role": "user", "content": exchange.prompt[zh]}],
        "domain": exchange.domain,
        "language": language,
        "difficulty": 1,
        "source": "tiny",
    }
    if convention is not None:
        completion = convention.render(exchange.thought[zh], exchange.good[zh])
        row["completion"] = [{"role": "assistant", "content": completion}]
    if pairs:
        row["chosen"] = [{"role": "assistant", "content": exchange.good[zh]}]
        row["rejected"] = [{"role": "assistant", "content": exchange.poor[zh]}]
    return row
