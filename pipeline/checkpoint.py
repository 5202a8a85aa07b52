"""`r1 chat` and `r1 evaluate`: try a single checkpoint outside a run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data.artifact import ROWS_NAME, Artifact, Contract, Kind
from data.contract import model_contract
from data.records import read_rows, write_rows
from data.template import CONVENTIONS
from pipeline.messages import checked_seed, explain, nearest
from pipeline.store import Record
from pipeline.whole_weights import check_weights
from pipeline.worker import perform
from stages.stage import Context, Metric, Outcome, Stage

SCORERS = ("preference_model", "safety_model")
"""Stages whose checkpoints write no text."""


def open_checkpoint(path: Path) -> tuple[Artifact, str, str]:
    """A checkpoint with the convention and the prefill that it was trained under, as far as its record says.

    Raises ValueError where there is none.
    """
    if (path / "artifacts").is_dir():
        raise ValueError(f"{path} is a run directory: give one of the checkpoints in {path / 'artifacts'}")
    if not (path / "config.json").is_file():
        raise ValueError(f"{path} is not a checkpoint: it has no config.json")
    check_weights(path)
    record = Record.read(path)
    if record and (stage := str(record.recipe.get("stage"))) in SCORERS:
        raise ValueError(f"{path} is a {stage.replace('_', ' ')}: it scores text and writes none")
    contract = model_contract(path, record.contract.convention if record else None)
    artifact = Artifact(kind=Kind.MODEL, path=path, fingerprint="0" * 12, name=path.name, contract=contract)
    prefill = str(record.recipe.get("prefill", "")) if record else ""
    return artifact, contract.convention or "think_answer", prefill


def replies(
    path: Path, lines: Iterable[str], system: str | None, sampling: Mapping[str, Any], prefill: str | None
) -> Iterator[str]:
    """The checkpoint's answer to each line of a conversation, with what its chat template opens in front.

    An empty line starts a new conversation. Raises ValueError for settings that cannot be.
    """
    from stages.rollout.engine import Sampling, open_engine

    _, _, trained = open_checkpoint(path)
    opening = trained if prefill is None else prefill
    start = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    wanted = Sampling(**sampling)
    with open_engine("transformers", path, prefill=opening) as engine:
        for line in lines:
            if not line.strip():
                messages = list(start)
                continue
            messages.append({"role": "user", "content": line.strip()})
            completion = engine.generate([messages], wanted)[0][0]
            messages.append({"role": "assistant", "content": opening + completion.text})
            yield opening + completion.text


def evaluate(
    stage: Stage,
    path: Path,
    data: Path,
    *,
    source: str,
    out: Path | None,
    settings: Mapping[str, Any],
    seed: int,
    convention: str | None,
    sandbox: str,
) -> Outcome:
    """Measure a checkpoint on a file as the evaluation steps of a run do; `out` receives the scored rows.

    Raises ValueError for a wrong setting, a missing file or a malformed row.
    """
    from data import sources
    from data.schemas import SOURCES

    checked_seed(seed, "--seed")
    artifact, trained, prefill = open_checkpoint(path)
    name = convention or trained
    if name not in CONVENTIONS:
        raise ValueError(f"unknown convention {name!r}{nearest(name, CONVENTIONS)}")
    try:
        config = stage.config.model_validate(dict(settings))
    except ValidationError as error:
        raise ValueError(explain(error, stage.config, "r1 evaluate")) from None
    if source in SOURCES and SOURCES[source].raw:
        raise ValueError(f"--source {source}: raw text asks nothing that could be measured")
    loaded = sources.load({"source": source, "path": str(data.resolve())}, Path.cwd(), seed, name)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        rows, scored, work = (Path(folder) / part for part in ("rows", "scored", "work"))
        for directory in (rows, scored, work):
            directory.mkdir()
        write_rows(rows / ROWS_NAME, loaded.rows)
        if any(row.get("tests") for row in read_rows(rows / ROWS_NAME)):
            from rewards.sandbox import require

            require(sandbox)
        dataset = Artifact(
            kind=Kind.DATASET, path=rows, fingerprint="1" * 12, name=data.name, contract=Contract(convention=name)
        )
        context = Context(seed=seed, convention=name, work=work, prefill=prefill, sandbox=sandbox)
        return perform(stage, config, {"init": [artifact], "data": [dataset]}, out or scored, context)


def metric_lines(metrics: Mapping[str, Metric]) -> list[str]:
    """One aligned line a metric: value, 95 % interval, n."""
    width = max((len(name) for name in metrics), default=0)
    return [f"{name.ljust(width)}  {m.value:.4f}  [{m.low:.4f}, {m.high:.4f}]  n={m.n}" for name, m in metrics.items()]
