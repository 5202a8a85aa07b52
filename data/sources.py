"""A dataset entry of a configuration becomes records: where rows come from, which are taken, what was refused.

One entry is a mapping (`spec`) with the keys that schemas.py lists; reading files is in files.py.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data import augment, files
from data.adapters import At, Unusable, nearest
from data.artifact import fingerprint, hash_path
from data.language import detect_language
from data.records import Row, user_text, validate
from data.schemas import FILTERS, SOURCES, UNPINNED, check, world
from data.template import CONVENTIONS

VERSION = 1
"""Raised by hand when the same entry and the same files give other rows than before."""

_MOST_GENERATED = 64
"""Generated rows for each one that a filter lets through, at most."""

__all__ = ["SOURCES", "UNPINNED", "Loaded", "check", "identity", "load", "read_hub"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """Rows to be consumed once, and tallies that are whole when they have been."""

    rows: Iterator[Row]
    counts: dict[str, int] = field(default_factory=dict)
    """`used`, and `unusable: REASON` and `left out: FILTER` where there were such rows."""


def identity(spec: Mapping[str, Any], base_dir: Path) -> dict[str, Any]:
    """What decides the rows beside seed and convention: parameters and content, never a path.

    Files count by SHA-256 in their order, hub datasets by id and revision. Raises ValueError for a missing
    file or a revision that is not pinned.
    """
    check(spec)
    known = {key: value for key, value in spec.items() if key not in ("path", "decontaminate")}
    if "augment" in spec:
        known["augment"] = augment.identity(spec["augment"], base_dir)
    known["version"] = VERSION
    if "path" in spec:
        known["content"] = [hash_path(path) for path in files.resolve(spec["path"], base_dir)]
    elif "hub" in spec:
        _pinned(spec)
    else:
        known["content"] = [hash_path(path) for path in sorted(_world_of(spec).glob("*.py"))]
    fingerprint(known)
    return known


def _world_of(spec: Mapping[str, Any]) -> Path:
    return Path(__file__).parent / str(SOURCES[spec["source"]].world)


def _pinned(spec: Mapping[str, Any]) -> None:
    if spec["revision"] == UNPINNED:
        raise ValueError(
            f"hub dataset {spec['hub']} is not pinned: set its revision to the commit that you trust (40 hex digits)"
        )


def load(spec: Mapping[str, Any], base_dir: Path, seed: int, convention: str, *, stream: bool = False) -> Loaded:
    """Open a dataset entry. Rows are validated records, in order or shuffled by `seed`.

    `convention` names the layout of completions (data/template.py). `stream` fetches no more of a hub dataset than
    is consumed. Raises ValueError at once for a wrong entry
    or a missing file, and while rows are consumed for a malformed line (unless `on_error: count`).
    """
    check(spec)
    if convention not in CONVENTIONS:
        raise ValueError(f"unknown output convention {convention!r}{nearest(convention, CONVENTIONS)}")
    counts: dict[str, int] = {"used": 0}
    if SOURCES[spec["source"]].adapt is None:
        rows = _augmented(_generated(spec, seed, convention), spec, base_dir, seed, convention, counts)
        return Loaded(_counted(rows, counts), counts)
    values = _values(spec, base_dir, stream)
    rows = _filtered(_adapted(values, spec, seed, convention, counts), spec, counts)
    if spec.get("shuffle"):
        rows = _shuffled(rows, seed)
    skip = spec.get("skip", 0)
    stop = skip + spec["rows"] if "rows" in spec else None
    rows = _augmented(itertools.islice(rows, skip, stop), spec, base_dir, seed, convention, counts)
    return Loaded(_counted(rows, counts), counts)


def _augmented(
    rows: Iterator[Row], spec: Mapping[str, Any], base_dir: Path, seed: int, convention: str, counts: dict[str, int]
) -> Iterator[Row]:
    """The rows that were taken, and their copies behind them."""
    if "augment" not in spec:
        return rows
    adapt = SOURCES[spec["source"]].adapt
    return augment.augmented(rows, augment.setting(spec["augment"], base_dir, adapt, convention, seed), counts)


def _values(spec: Mapping[str, Any], base_dir: Path, stream: bool) -> Iterator[tuple[str, str, Any]]:
    """Place, name ("train-17") and raw value of each row."""
    if "hub" in spec:
        _pinned(spec)
        split = spec.get("split", "train")
        stem, found = split, read_hub(spec["hub"], spec["revision"], split, spec.get("subset"), stream)
        return ((where, f"{stem}-{n}", value) for n, (where, value) in enumerate(found))
    paths = files.resolve(spec["path"], base_dir)
    return (
        (where, f"{path.name.split('.')[0]}-{n}", value)
        for path in paths
        for n, (where, value) in enumerate(files.read(path))
    )


def read_hub(
    name: str, revision: str | None, split: str, subset: str | None = None, stream: bool = False
) -> Iterator[tuple[str, Any]]:
    """Place and value of each row of a hub dataset (or of a local directory that `datasets` can load)."""
    import datasets

    try:
        table = datasets.load_dataset(name, subset, split=split, revision=revision, streaming=stream)
    except (OSError, ValueError) as error:
        raise ValueError(f"hub dataset {name}: cannot be loaded ({' '.join(str(error).split())[:200]})") from None
    for number, value in enumerate(table, start=1):
        yield f"{name}[{split}]: row {number}", value


def _adapted(
    values: Iterator[tuple[str, str, Any]], spec: Mapping[str, Any], seed: int, convention: str, counts: dict[str, int]
) -> Iterator[Row]:
    """Records out of raw values; what cannot be used is counted by reason."""
    own_split = SOURCES[spec["source"]].splits and "path" in spec
    for where, name, value in values:
        at = At(
            where=where,
            name=f"{spec['source']}/{name}",
            seed=seed,
            convention=convention,
            solutions=spec.get("solutions", False),
            calculations="numbers" in spec.get("augment", {}).get("methods", ()),
            split=spec.get("split") if own_split else None,
        )
        try:
            yield _record(value, spec, at)
        except Unusable as reason:
            _count(counts, f"unusable: {reason}")
        except ValueError:
            if spec.get("on_error") != "count":
                raise
            _count(counts, "unusable: malformed")


def _record(value: Any, spec: Mapping[str, Any], at: At) -> Row:
    if isinstance(value, ValueError):
        raise value
    if not isinstance(value, dict):
        raise ValueError(f"{at.where}: expected an object, got {type(value).__name__}")
    for ours, theirs in spec.get("columns", {}).items():
        if theirs not in value:
            raise ValueError(f"{at.where}: the column {theirs!r} (columns: {ours}) is missing{nearest(theirs, value)}")
        value = {**value, ours: value[theirs]}
    adapt = SOURCES[spec["source"]].adapt
    assert adapt is not None
    try:
        row = adapt(value, at)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        shape = f"{type(error).__name__}: {error}"
        raise ValueError(f"{at.where}: not a row of source {spec['source']!r} ({shape})") from None
    row = {"id": at.name, "domain": "general", "source": spec["source"], **row}
    row |= {key: spec[key] for key in ("domain", "language") if key in spec}
    if row.get("difficulty") is None and "difficulty" in spec:
        row["difficulty"] = spec["difficulty"]
    if row.get("language") is None and isinstance(row.get("prompt"), list):
        validate({**row, "language": "en"}, at.where)
        row["language"] = detect_language(user_text(row))
    return validate(row, at.where, raw=SOURCES[spec["source"]].raw)


def _filtered(rows: Iterator[Row], spec: Mapping[str, Any], counts: dict[str, int]) -> Iterator[Row]:
    for row in rows:
        reason = _mismatch(row, spec)
        if reason is None:
            yield row
        else:
            _count(counts, f"left out: {reason}")


def _mismatch(row: Row, spec: Mapping[str, Any]) -> str | None:
    """Name of the first filter of the entry that the row does not pass."""
    for key, column in (("domains", "domain"), ("languages", "language")):
        if key in spec and row[column] not in spec[key]:
            return key
    if "difficulties" in spec:
        low, high = spec["difficulties"]
        if not low <= row.get("difficulty", float("nan")) <= high:
            return "difficulties"
    return None


def _shuffled(rows: Iterator[Row], seed: int) -> Iterator[Row]:
    """All rows in an order drawn from the seed; nothing is read before the first one is asked for."""
    everything = list(rows)
    random.Random(f"{seed}/shuffle").shuffle(everything)
    yield from everything


def _generated(spec: Mapping[str, Any], seed: int, convention: str) -> Iterator[Row]:
    """Rows of a generated world; with filters, as many are generated as it takes to find `rows` that match."""
    name, skip = f"{spec['source']}/{spec['split']}", spec.get("skip", 0)
    wanted = spec["rows"] + skip
    most = wanted * (_MOST_GENERATED if any(key in spec for key in FILTERS) else 1)
    made = (validate(row, name) for row in world(spec["source"]).rows(spec["split"], most, seed, convention))
    rows = list(itertools.islice((row for row in made if _mismatch(row, spec) is None), wanted))
    if len(rows) < wanted:
        raise ValueError(f"{name}: only {len(rows)} of {most} generated rows match the filters, {wanted} are needed")
    yield from _shuffled(iter(rows[skip:]), seed) if spec.get("shuffle") else rows[skip:]


def _counted(rows: Iterator[Row], counts: dict[str, int]) -> Iterator[Row]:
    for row in rows:
        counts["used"] += 1
        yield row


def _count(counts: dict[str, int], reason: str) -> None:
    counts[reason] = counts.get(reason, 0) + 1
