"""Review: what people said about rows, applied to them.

A stage of its own rather than a key of the stage that made the rows: another verdict then makes only this step and
those after it again, where rejection sampling would have to sample anew; and chains for the cold start, sampled rows
and every other data set are reviewed in the same way. DeepSeek-R1 (arXiv 2501.12948v2, section 2.3.2) has people
post-process the chains of its cold start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from data.artifact import ROWS_NAME, Artifact, Contract, Kind
from data.records import Row, read_rows, without_completion, write_rows
from data.template import CONVENTIONS, Convention
from data.verdicts import DECISIONS, Choice, Verdict, keyed, read_verdicts
from stages.rejection_sampling import REVIEW_NAME
from stages.stage import Context, Input, Inputs, Outcome, Stage, StageConfig

GONE = "verdicts on rows that are not there"
CHANGED = "verdicts on another text of a row"
SKIPPED = "verdicts: skip"
OPEN = "rows without a verdict"
MEASURED = ("tokens", "total", "scores")
"""In the provenance of a sampled row."""


class ReviewConfig(StageConfig):
    """`review` in a configuration."""

    reviewed: str
    """File of verdicts, relative to the configuration. The step waits while nothing is said there, unless there
    is nothing to look at."""
    unreviewed: Literal["keep", "drop", "stop"] = "keep"
    """What becomes of a row that a person was to look at and did not decide: it stays as it is in `data`, is left
    out, or stops the step."""


def run(config: ReviewConfig, inputs: Inputs, out: Path, context: Context) -> Outcome:
    """Write the rows of `data` as people want them.

    Raises ValueError where nobody has judged yet, a correction does not follow the convention, no verdict is about a
    row of `data`, or no row is left.
    """
    data, file = inputs["data"][0], Path(config.reviewed)
    verdicts = read_verdicts(file)
    rows, shown = list(keyed(read_rows(data.path / ROWS_NAME))), shown_rows(data.path)
    if shown and not verdicts:  # a page that was opened and left leaves an empty file behind
        raise ValueError(f"it waits for verdicts: there is none in {file}; {_how(data, file)}")
    counts: Counter[str] = Counter({"rows read": len(rows)})
    applied = _applicable(verdicts, {key: seen for key, seen, _ in [*rows, *shown]}, counts)
    if (counts[GONE] or counts[CHANGED]) and not applied:
        raise ValueError(f"none of the {len(verdicts)} verdicts in {file} is about a row of {data.name}")
    _check_corrections(file, verdicts, applied, [*rows, *shown], CONVENTIONS[context.convention])
    undecided = {key: None for key, _, _ in shown if key not in applied}
    counts[OPEN] = len(undecided)
    if undecided and config.unreviewed == "stop":
        first = next(iter(undecided))
        raise ValueError(f"{len(undecided)} rows have no verdict yet, {first!r} is the first; {_how(data, file)}")
    left_out = set(undecided) if config.unreviewed == "drop" else set()
    made = list(_reviewed(rows, shown, applied, left_out, counts))
    if not made:
        raise ValueError(f"no row of {data.name} is left after the verdicts of {file}")
    write_rows(out / ROWS_NAME, made)
    counts["rows written"] = len(made)
    return Outcome(contract=Contract(convention=context.convention), counts=dict(counts))


def _how(data: Artifact, file: Path) -> str:
    return f"make it with: r1 review {data.path} --out {file}, then run again"


def shown_rows(directory: Path) -> list[tuple[str, str, Row]]:
    """Key, digest and row of what a person is to look at in a data set: its edge cases, or else all of it."""
    queue = directory / REVIEW_NAME
    return list(keyed(read_rows(queue if queue.is_file() else directory / ROWS_NAME)))


def _applicable(
    verdicts: Mapping[str, tuple[int, Verdict]], known: Mapping[str, str], counts: Counter[str]
) -> dict[str, Verdict]:
    """The verdicts that decide about a row that is there; the others are counted."""
    applied = {}
    for key, (_, said) in verdicts.items():
        if key not in known:
            counts[GONE] += 1
        elif said.seen is not None and said.seen != known[key]:
            counts[CHANGED] += 1
        elif said.verdict in DECISIONS:
            applied[key] = said
        else:
            counts[SKIPPED] += 1
    return applied


def _check_corrections(
    file: Path,
    verdicts: Mapping[str, tuple[int, Verdict]],
    applied: Mapping[str, Verdict],
    rows: Sequence[tuple[str, str, Row]],
    convention: Convention,
) -> None:
    by_key = {key: row for key, _, row in rows}
    for key, said in applied.items():
        if fault := correction_fault(by_key[key], said.completion, convention):
            raise ValueError(f"{file}:{verdicts[key][0]}: the correction of {key!r} cannot be used: {fault}")


def correction_fault(row: Row, text: str | None, convention: Convention) -> str | None:
    """Why `text` cannot stand in for the completion of `row`; None where it can, or where there is none."""
    if text is None:
        return None
    if row.get("chosen") or row.get("rejected"):
        return "a pair of answers has no single text; keep or drop it"
    return convention.fault(text)


def _reviewed(
    rows: Sequence[tuple[str, str, Row]],
    shown: Sequence[tuple[str, str, Row]],
    applied: Mapping[str, Verdict],
    left_out: set[str],
    counts: Counter[str],
) -> Iterator[Row]:
    """Rows of `data` in their order, then those that the selection had left out and a person took in."""
    doubts = {key: row for key, _, row in shown}
    present = {key for key, _, _ in rows}
    for key, _, row in rows:
        said = applied.get(key)
        if said is None and key in left_out:
            counts["dropped: without a verdict"] += 1
        elif said is None:
            yield row
        elif said.verdict is Choice.DROP:
            counts["dropped"] += 1
        else:
            counts["kept" if said.verdict is Choice.KEEP else "corrected"] += 1
            yield _judged(row, said, doubts.get(key, row))
    for key, row in doubts.items():
        said = applied.get(key)
        if key in present or said is None:
            continue
        if said.verdict is Choice.DROP:
            counts["left out as before"] += 1
        else:
            counts["taken in" if said.verdict is Choice.KEEP else "taken in, corrected"] += 1
            yield _judged(row, said, row)


def _judged(row: Row, said: Verdict, doubted: Row) -> Row:
    """The row with what was said about it in the column `review`, and the corrected text where there is one."""
    why: dict[str, Any] = {name: doubted[name] for name in ("reason", "doubt") if name in doubted}
    word = {key: value for key, value in said.to_json().items() if key not in ("id", "completion")}
    made = {name: value for name, value in row.items() if name not in ("reason", "doubt")}
    if said.completion is not None:
        before = (row.get("completion") or [])[:-1]
        made = without_completion(made)
        if isinstance(origin := made.get("provenance"), dict):  # what was measured, was of the old text
            made["provenance"] = {name: value for name, value in origin.items() if name not in MEASURED}
        made["completion"] = [*before, {"role": "assistant", "content": said.completion}]
    return made | {"review": word | why}


REVIEW = Stage(
    name="review",
    version=1,
    summary="what people said about rows, applied to them",
    config=ReviewConfig,
    needs={"data": Input(kind=Kind.DATASET)},
    makes=Kind.DATASET,
    run=run,
    torch=False,
)
