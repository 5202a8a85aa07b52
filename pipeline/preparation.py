"""The implicit step of every entry under `data:`: rows in, one validated and counted dataset artifact out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data import sources
from data.artifact import ROWS_NAME, Contract, Kind
from data.decontaminate import apart
from data.records import Row, write_rows
from data.schemas import KEYS
from pipeline.config import RunConfig
from pipeline.golds import proved
from pipeline.messages import checked_seed, nearest
from stages.inputs import rows_of
from stages.stage import Context, Input, Inputs, Outcome, Stage, StageConfig


class PreparationConfig(StageConfig):
    """What data/sources.py is told."""

    spec: dict[str, Any]
    base_dir: str
    """Where relative paths in `spec` start; where, not what, so no part of an identity."""


def identity(config: PreparationConfig) -> dict[str, Any]:
    """What of the entry counts: its parameters and the content behind them. Raises ValueError with one line."""
    return {"source": sources.identity(config.spec, Path(config.base_dir))}


def prepare(config: PreparationConfig, inputs: Inputs, out: Path, context: Context) -> Outcome:
    """Write the rows of one source. Raises ValueError naming file and line of a malformed row."""
    from tqdm import tqdm

    started = time.monotonic()
    loaded = sources.load(config.spec, Path(config.base_dir), context.seed, context.convention)
    golden = proved(loaded.rows, context.sandbox, loaded.counts)
    if inputs.get("held_out"):
        golden = _apart(golden, rows_of(inputs["held_out"]), loaded.counts)
    rows = tqdm(golden, desc="rows", unit="row", total=config.spec.get("rows"), leave=False, mininterval=0.5)
    count = write_rows(out / ROWS_NAME, rows)
    if not count:
        reasons = ", ".join(f"{reason}: {number}" for reason, number in loaded.counts.items() if number)
        place = config.spec.get("path") or config.spec.get("hub") or config.spec["source"]
        raise ValueError(f"{place} has no usable row ({reasons or 'it is empty'})")
    return Outcome(
        contract=Contract(convention=context.convention),
        counts=dict(loaded.counts),
        timings={"preparing": time.monotonic() - started},
    )


def _apart(rows: Iterator[Row], tests: Iterator[Row], counts: dict[str, int]) -> Iterator[Row]:
    """The rows that share nothing with a test question, copies included; the others are not `used`."""
    removed: dict[str, int] = {}
    yield from apart(rows, tests, removed)
    counts["used"] -= sum(removed.values())
    counts.update({f"left out: {reason}": number for reason, number in removed.items()})


PREPARATION = Stage(
    name="preparation",
    version=2,
    summary="Reads, validates and counts the rows of one entry under `data:`.",
    config=PreparationConfig,
    needs={"held_out": Input(kind=Kind.DATASET, many=True, optional=True, texts="also")},
    makes=Kind.DATASET,
    run=prepare,
    torch=False,
)


def preparation_config(config: RunConfig, name: str) -> tuple[PreparationConfig, int]:
    """Config and seed of the entry `name`; an entry may fix a seed of its own. Raises ValueError."""
    spec = dict(config.data[name])
    seed = checked_seed(spec.pop("seed", config.seed), f"data.{name}.seed")
    for key in spec:
        if key not in KEYS:
            raise ValueError(f"data.{name}: unknown key {key!r}{nearest(str(key), [*KEYS, 'seed'])}")
    try:
        sources.check(spec)
    except ValueError as error:
        raise ValueError(f"data.{name}: {error}") from None
    return PreparationConfig(spec=spec, base_dir=config.base_dir), seed


def held_out(config: RunConfig, name: str) -> tuple[str, ...]:
    """The entries that `decontaminate` of the entry `name` keeps it apart from. Raises ValueError."""
    value = config.data[name].get("decontaminate", [])
    names = (value,) if isinstance(value, str) else tuple(value)
    for other in names:
        if other not in config.data:
            raise ValueError(f"data.{name}.decontaminate: unknown name {other!r}{nearest(other, config.data)}")
        if other == name:
            raise ValueError(f"data.{name}.decontaminate: an entry cannot be kept apart from itself")
        if "augment" in config.data[other]:
            raise ValueError(f"data.{name}.decontaminate: {other!r} is augmented, and held-out rows have no copies")
    return names
