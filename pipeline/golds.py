"""Reference programs are tried before anything trains: a row whose solution fails its tests is an error of the row."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from data.records import Row

CHUNK = 64
"""Rows whose solutions are run side by side."""


def proved(rows: Iterator[Row], sandbox: str, counts: dict[str, int]) -> Iterator[Row]:
    """The rows without those whose column `solution` does not pass `tests`; each of those is named in `counts`.

    Rows without a solution or tests pass unseen. Raises ValueError where a solution is to be run and the sandbox
    cannot be had, and SandboxError where it fails on more than 1 % of a chunk.
    """
    while chunk := list(islice(rows, CHUNK)):
        tried = [row for row in chunk if row.get("tests") is not None and isinstance(row.get("solution"), str)]
        failed = _failing(tried, sandbox) if tried else {}
        for row in chunk:
            if (reason := failed.get(row["id"])) is None:
                yield row
            else:
                counts["used"] -= 1
                counts[f"unusable: {row['id']}: its own solution does not pass its tests ({reason})"] = 1


def _failing(rows: list[Row], sandbox: str) -> dict[str, str]:
    """Id to status of the rows whose solution scores less than 1."""
    from rewards.program import Program, refuse_failing_sandbox
    from rewards.reward import Sample

    samples = [Sample(prompt="", completion=r["solution"], tests=r["tests"], convention="none") for r in rows]
    verdicts = Program(sandbox=sandbox).judge_many(samples, workers=2)
    refuse_failing_sandbox(verdicts)
    return {row["id"]: str(v.status) for row, v in zip(rows, verdicts, strict=True) if v.score != 1.0}
