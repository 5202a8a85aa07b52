"""The figures of an evaluation: from scored completions to metrics with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from data.records import Row, without_completion
from rewards.reward import Sample, Status
from stages.scoring import VERIFIERS, Scored
from stages.stage import Metric
from stages.statistics import average, clipped, majority, pass_at

REPORTED = ("format", "language", "safety", "preference", "safety_model")
"""Rewards whose mean is a metric of its own."""


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the held-out set with its completions and what the rewards said."""

    row: Row
    samples: Sequence[Sample]
    scored: Sequence[Scored]

    @property
    def verifiable(self) -> bool:
        """Whether the row came with something to verify against."""
        return any(name in scored.status for scored in self.scored for name in VERIFIERS) and (
            self.row.get("answer") is not None or self.row.get("tests") is not None
        )

    def lines(self) -> Iterator[Row]:
        """One record per completion, for the artifact."""
        kept = without_completion(self.row)
        for number, (sample, scored) in enumerate(zip(self.samples, self.scored, strict=True)):
            yield {
                **kept,
                "id": f"{self.row['id']}#{number}",
                "row": self.row["id"],
                "sample": number,
                "completion": [{"role": "assistant", "content": sample.completion}],
                "tokens": sample.tokens,
                "truncated": sample.truncated,
                "scores": dict(scored.scores),
                "status": dict(scored.status),
            }


def measure(results: Sequence[Result], samples: int) -> dict[str, Metric]:
    """Every figure that the rows allow. Accuracy leaves out what no verifier could decide; `tally` counts those."""
    checked = [result for result in results if result.verifiable and any(s.correct is not None for s in result.scored)]
    metrics: dict[str, Metric] = {}

    def add(name: str, chosen: Sequence[Result], score: Callable[[Sample, Scored], float | None]) -> None:
        values = [[score(*pair) for pair in zip(r.samples, r.scored, strict=True)] for r in chosen]
        clusters = [[v for v in group if v is not None] for group in values]
        if any(clusters):
            share = all(0 <= v <= 1 for group in clusters for v in group)
            metrics[name] = clipped(average(clusters)) if share else average(clusters)

    add("accuracy", checked, _correct)
    for column in ("domain", "language"):
        for value in sorted({result.row[column] for result in checked}):
            add(f"accuracy.{value}", [r for r in checked if r.row[column] == value], _correct)
    for name in REPORTED:
        add(name, results, _score_of(name))
    add("unsafe_share", results, _unsafe)
    add("truncated", results, lambda sample, _: float(sample.truncated))
    add("tokens", results, lambda sample, _: sample.tokens)
    if samples > 1 and checked:
        _add_many(metrics, checked, samples)
    return metrics


def _add_many(metrics: dict[str, Metric], checked: Sequence[Result], samples: int) -> None:
    """pass@k for powers of two, and the majority of the answers."""
    clusters = [[s.correct for s in r.scored if s.correct is not None] for r in checked]
    for k in [2**i for i in range(1, samples.bit_length()) if 2**i <= samples]:
        if any(len(cluster) >= k for cluster in clusters):
            metrics[f"pass@{k}"] = pass_at(clusters, k)
    metrics[f"maj@{samples}"] = majority(
        [
            [
                (sample.parsed().answer, scored.correct or 0.0)
                for sample, scored in zip(r.samples, r.scored, strict=True)
            ]
            for r in checked
        ]
    )


def _correct(_: Sample, scored: Scored) -> float | None:
    return scored.correct


def _unsafe(_: Sample, scored: Scored) -> float | None:
    """1 where the safety model calls it unsafe; None where it was not asked, or could not tell."""
    return {Status.OK: 0.0, Status.WRONG: 1.0}.get(Status(scored.status.get("safety_model", Status.NOT_APPLICABLE)))


def _score_of(name: str) -> Callable[[Sample, Scored], float | None]:
    return lambda _, scored: scored.scores.get(name)


def tally(results: Sequence[Result]) -> dict[str, int]:
    """Rows, completions, and every status of every reward that is neither right nor plainly wrong."""
    counts: Counter[str] = Counter(rows=len(results), completions=sum(len(r.samples) for r in results))
    for result in results:
        for scored in result.scored:
            for name, status in scored.status.items():
                if status not in ("ok", "wrong", "not_applicable"):
                    counts[f"{name}: {status}"] += 1
            if result.verifiable and (reason := scored.undecided):
                counts[f"no verdict: {reason}"] += 1
    return dict(counts)
