"""Copies of rows for small data sets: `augment` of an entry under `data:`.

    chains: {source: gsm8k, path: few.jsonl, solutions: true, augment: {methods: [numbers, paraphrase], copies: 2}}

Every original comes first, unchanged, then the copies, each of which names its origin. A copy asks something that no
original and no other copy asks. Rows of which a method makes no certain copy are counted with the reason.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import augment_text, augment_words
from data.adapters import Adapter, At, nearest
from data.artifact import hash_file
from data.augment_chain import Refused
from data.augment_numbers import perturbed, understand
from data.curate import normalised
from data.records import Row, user_text

VERSION = 1
"""Raised by hand when the same rows and seed give other copies than before."""

METHODS = ("synonyms", "paraphrase", "numbers")
KEYS: Mapping[str, tuple[type, ...]] = {"methods": (list,), "copies": (int,), "share": (int, float), "table": (str,)}
"""`methods`: what makes copies. `copies`: of a row, by each method, at most. `share`: of a prompt's words that get a
synonym (EDA's alpha). `table`: synonyms of one's own instead of the bundled ones."""

COPIES, SHARE = 1, 0.1
CALCULATIONS = "calculations"
"""Column that holds a solution with its notes until the copies are made."""
_ANSWERING = ("answer", "completion")
_TRIES = 12
"""Draws for one copy that differs from all before it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What the copies of one entry are made with."""

    methods: tuple[str, ...]
    copies: int
    share: float
    table: augment_text.Table
    adapt: Adapter | None
    """Of the source; lays out a recalculated solution."""
    convention: str
    seed: int


def check(value: Mapping[str, Any], *, calculations: bool, source: str) -> None:
    """Raise ValueError, one line, for what cannot be right. `calculations` says whether the rows note theirs."""
    for key, found in value.items():
        if key not in KEYS:
            raise ValueError(f"augment: unknown key {key!r}{nearest(str(key), KEYS)}")
        if not isinstance(found, KEYS[key]) or isinstance(found, bool):
            wanted = " or ".join(t.__name__ for t in KEYS[key])
            raise ValueError(f"augment.{key} must be {wanted}, got {found!r}")
    methods = value.get("methods", [])
    if not methods:
        raise ValueError(f"augment.methods is missing; known: {', '.join(METHODS)}")
    for method in methods:
        if method not in METHODS:
            raise ValueError(f"augment.methods: unknown method {method!r}{nearest(str(method), METHODS)}")
    if len(set(methods)) < len(methods):
        raise ValueError(f"augment.methods: a method occurs twice in {', '.join(methods)}")
    if "numbers" in methods and not calculations:
        raise ValueError(
            f"augment.methods: numbers needs rows that note their calculations (source gsm8k), not those of {source!r}"
        )
    if value.get("copies", COPIES) < 1:
        raise ValueError(f"augment.copies must be at least 1, got {value['copies']}")
    if not 0 < value.get("share", SHARE) <= 1:
        raise ValueError(f"augment.share must be above 0 and at most 1, got {value['share']}")
    for key in ("share", "table"):
        if key in value and "synonyms" not in methods:
            raise ValueError(f"augment.{key} belongs to the method synonyms, which is not asked for")


def identity(value: Mapping[str, Any], base_dir: Path) -> dict[str, Any]:
    """What decides the copies: the keys, the words, the version of this code. Raises ValueError."""
    known = {key: found for key, found in value.items() if key != "table"}
    if "table" in value:
        known["content"] = hash_file(_table_path(value, base_dir))
    return {**known, "words": hash_file(Path(augment_words.__file__)), "version": VERSION}


def _table_path(value: Mapping[str, Any], base_dir: Path) -> Path:
    path = base_dir / value["table"]
    if not path.is_file():
        raise ValueError(f"augment.table: no file {value['table']!r} (looked for {path})")
    return path


def setting(value: Mapping[str, Any], base_dir: Path, adapt: Adapter | None, convention: str, seed: int) -> Setting:
    """`augment` of an entry with its defaults and its table. Raises ValueError for a table that cannot be used."""
    return Setting(
        methods=tuple(value["methods"]),
        copies=value.get("copies", COPIES),
        share=value.get("share", SHARE),
        table=augment_text.read_table(_table_path(value, base_dir)) if "table" in value else augment_text.BUNDLED,
        adapt=adapt,
        convention=convention,
        seed=seed,
    )


def augmented(rows: Iterable[Row], setting: Setting, counts: dict[str, int]) -> Iterator[Row]:
    """The rows, then their copies, method after method; tallies of both go into `counts`.

    All rows are held in memory. The same rows and seed give the same copies, whatever stands around a row.
    """
    originals = []
    asked = set()
    for row in rows:
        originals.append(row)
        asked.add(_asked(row))
        yield {key: value for key, value in row.items() if key != CALCULATIONS}
    for method in setting.methods:
        for row in originals:
            for copy in _copies(row, method, setting, asked, counts):
                counts[f"augmented by {method}"] = counts.get(f"augmented by {method}", 0) + 1
                yield copy


def _copies(row: Row, method: str, setting: Setting, asked: set[str], counts: dict[str, int]) -> Iterator[Row]:
    try:
        make = _maker(row, method, setting)
    except Refused as reason:
        _count(counts, method, str(reason))
        return
    plain = {key: value for key, value in row.items() if key != CALCULATIONS}
    for number in range(1, setting.copies + 1):
        rng = random.Random(f"{setting.seed}/augment/{method}/{row['id']}/{number}")
        try:
            copy = _unheard(plain, make, rng, asked)
        except Refused as reason:
            _count(counts, method, str(reason))
            return
        origin = {"origin": row["id"], "origin_prompt": row["prompt"], "augmentation": method}
        yield {**copy, "id": f"{row['id']}+{method}{number}", **origin}


def _unheard(row: Row, make: Callable[[random.Random], Row], rng: random.Random, asked: set[str]) -> Row:
    for _ in range(_TRIES):
        copy = {**row, **make(rng)}
        if (key := _asked(copy)) not in asked:
            asked.add(key)
            return copy
    raise Refused("every further copy would be a duplicate")


def _maker(row: Row, method: str, setting: Setting) -> Callable[[random.Random], Row]:
    """A function that draws the columns of a copy. Raises Refused for a row that the method does not apply to."""
    if [m["role"] for m in row["prompt"] if m["role"] != "system"] != ["user"]:
        raise Refused("the prompt has several turns")
    text, language = user_text(row), row["language"]
    if not text.strip():
        raise Refused("the prompt is empty")
    if method == "numbers":
        assert setting.adapt is not None
        problem = understand(text, row[CALCULATIONS])
        return lambda rng: _recalculated(row, *perturbed(problem, rng), setting)
    if language not in ("en", "zh"):
        raise Refused(f"no words for language {language}")
    if method == "paraphrase":
        return lambda rng: _reworded(row, augment_text.paraphrase(text, language, rng))
    if row.get("tests") is not None or row["domain"] == "code":
        raise Refused("a program is asked for, whose words may be names")
    said = augment_text.said_of(row)
    return lambda rng: _reworded(row, augment_text.synonyms(text, said, language, setting.table, setting.share, rng))


def _reworded(row: Row, text: str) -> Row:
    prompt = [{**message, "content": text} if message["role"] == "user" else message for message in row["prompt"]]
    return {"prompt": prompt}


def _recalculated(row: Row, question: str, answer: str, setting: Setting) -> Row:
    assert setting.adapt is not None
    at = At(where=row["id"], name=row["id"], convention=setting.convention, solutions="completion" in row)
    made = setting.adapt({"question": question, "answer": answer}, at)
    return {**_reworded(row, question), **{key: value for key, value in made.items() if key in _ANSWERING}}


def _asked(row: Row) -> str:
    return normalised("\n".join(f"{m['role']}: {m['content']}" for m in row["prompt"]))


def _count(counts: dict[str, int], method: str, reason: str) -> None:
    key = f"not augmented by {method}: {reason}"
    counts[key] = counts.get(key, 0) + 1
