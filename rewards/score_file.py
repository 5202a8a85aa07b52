"""Scoring a file of completions, row by row, in bounded memory."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from rewards.adapter import text_of
from rewards.combine import Breakdown, Mix
from rewards.language import detect
from rewards.reward import BatchReward, Sample, further_columns
from rewards.scoring import ScoringPool

_BLOCK = 512
"""Rows that are held in memory at once."""
_BATCH = 32
"""Rows that a reward over batches sees at once."""
_TYPES = {"answer": str, "domain": str, "language": str, "tests": dict}


@dataclass(kw_only=True, slots=True)
class Summary:
    """What a scored file amounts to."""

    names: tuple[str, ...]
    rows: int = 0
    malformed: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    scored: Counter[str] = field(default_factory=Counter)
    statuses: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, breakdown: Breakdown) -> None:
        """Count one row."""
        self.rows += 1
        for name in self.names:
            score = breakdown.scores[name]
            if score is not None:
                self.sums[name] = self.sums.get(name, 0.0) + score
                self.scored[name] += 1
            self.statuses.setdefault(name, Counter())[str(breakdown.statuses[name])] += 1

    def table(self) -> str:
        """One line a reward: mean over the rows it applies to, share of null, share of each status."""
        lines = [f"{'reward':<14} {'mean':>8} {'n':>8} {'null':>7}  status"]
        for name in self.names:
            count = self.scored[name]
            mean = f"{self.sums[name] / count:.4f}" if count else "-"
            null = 1 - count / self.rows if self.rows else 0.0
            shares = ", ".join(f"{s} {n / self.rows:.1%}" for s, n in self.statuses.get(name, Counter()).most_common())
            lines.append(f"{name:<14} {mean:>8} {count:>8} {null:>7.1%}  {shares}")
        rate = self.rows / self.seconds if self.seconds else 0.0
        lines.append(f"{self.rows} rows in {self.seconds:.1f} s ({rate:.0f} rows/s), {self.malformed} malformed lines")
        return "\n".join(lines)


def score_file(
    source: Path, output: Path | None, mix: Mix, pool: ScoringPool, *, convention: str, prefill: str = ""
) -> Summary:
    """Score every row of `source`; a malformed line is named on stderr and counted. The output appears whole."""
    from tqdm import tqdm

    summary = Summary(names=mix.names)
    start = time.perf_counter()
    partial = output.with_name(output.name + ".partial") if output is not None else None
    batch = _BATCH if any(isinstance(term.reward, BatchReward) for term in mix.terms) else 1
    with ExitStack() as stack:
        if partial is not None:
            stack.callback(partial.unlink, missing_ok=True)  # gone after the rename; left by nothing else
        sink: TextIO = stack.enter_context(partial.open("w", encoding="utf-8")) if partial is not None else sys.stdout
        threads = stack.enter_context(ThreadPoolExecutor(pool.workers))
        bar = stack.enter_context(tqdm(unit="row", disable=not sys.stderr.isatty()))
        rows = _rows(source, convention, prefill, summary)

        def work(chunk: list[tuple[Any, Sample]]) -> tuple[list[Breakdown], float]:
            began = time.perf_counter()
            made = mix.score([sample for _, sample in chunk], pool=pool)
            return made, (time.perf_counter() - began) / len(chunk)

        while block := list(islice(rows, _BLOCK)):
            chunks = [block[i : i + batch] for i in range(0, len(block), batch)]
            for chunk, (breakdowns, seconds) in zip(chunks, threads.map(work, chunks), strict=True):
                for (key, _), breakdown in zip(chunk, breakdowns, strict=True):
                    summary.add(breakdown)
                    print(_line(_record(key, breakdown, seconds)), file=sink)
            bar.update(len(block))
        if partial is not None and output is not None:
            sink.flush()
            partial.replace(output)
    summary.seconds = time.perf_counter() - start
    return summary


def _line(record: dict[str, Any]) -> str:
    """One line of JSON, readable as it stands; halves of characters, which UTF-8 cannot hold, are escaped."""
    text = json.dumps(record, ensure_ascii=False)
    return text if text.isascii() or text.isprintable() else json.dumps(record)


def _record(key: Any, breakdown: Breakdown, seconds: float) -> dict[str, Any]:
    return {
        "id": key,
        "scores": dict(breakdown.scores),
        "status": {name: str(status) for name, status in breakdown.statuses.items()},
        "detail": dict(breakdown.details),
        "total": breakdown.total,
        "seconds": round(seconds, 6),
    }


def _rows(source: Path, convention: str, prefill: str, summary: Summary) -> Iterator[tuple[Any, Sample]]:
    """The row's id (or its line number) and sample for each line that can be read."""
    with source.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                sample = _sample(row, convention, prefill)
                yield number if row.get("id") is None else row["id"], sample
            except (ValueError, RecursionError) as error:
                summary.malformed += 1
                print(f"{source}:{number}: {' '.join(str(error).split())[:200]}", file=sys.stderr)


def _sample(row: Any, convention: str, prefill: str) -> Sample:
    """Raises ValueError naming the column that is missing or mistyped."""
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, got {type(row).__name__}")
    if row.get("completion") is None:
        raise ValueError("the column 'completion' is missing")
    texts = {}
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        value = row.get(name)
        value = "" if value is None else value
        messages = isinstance(value, list) and all(isinstance(message, dict) for message in value)
        if not isinstance(value, str) and not messages:
            raise ValueError(f"column {name!r} must be text or a list of messages, got {type(value).__name__}")
        texts[name] = text_of(value, role)
    if not isinstance(row.get("id"), str | int | float | None):
        raise ValueError(f"column 'id' must be text or a number, got {type(row['id']).__name__}")
    if isinstance(row.get("id"), float) and not math.isfinite(row["id"]):
        raise ValueError(f"column 'id' must be a finite number, got {row['id']}")
    for name, kind in _TYPES.items():
        if row.get(name) is not None and not isinstance(row[name], kind):
            raise ValueError(f"column {name!r} must be {kind.__name__}, got {type(row[name]).__name__}")
    completion = texts["completion"]
    return Sample(
        prompt=texts["prompt"],
        completion=completion if not prefill or completion.startswith(prefill.strip()) else prefill + completion,
        answer=row.get("answer"),
        tests=row.get("tests"),
        domain=row.get("domain") or ("code" if row.get("tests") else "math" if row.get("answer") else "general"),
        language=row.get("language") or detect(texts["prompt"]),
        convention=convention,
        extra=further_columns(row),
    )
