"""The implicit step of every entry under `data:`: rows in, one validated and counted dataset artifact out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from data import sources
from data.artifact import ROWS_NAME, Contract, Kind
from data.records import write_rows
from data.schemas import KEYS
from pipeline.config import RunConfig
from pipeline.golds import proved
from pipeline.messages import checked_seed, nearest
from stages.stage import Context, Inputs, Outcome, Stage, StageConfig


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


PREPARATION = Stage(
    name="preparation",
    version=2,
    summary="Reads, validates and counts the rows of one entry under `data:`.",
    config=PreparationConfig,
    needs={},
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
