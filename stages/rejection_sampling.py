"""Rejection sampling: a checkpoint answers each prompt many times; the verified, readable and best become data.

DeepSeek-R1 (arXiv 2501.12948v2, section 2.3.3) samples from the reasoning checkpoint, keeps right answers only, and
filters mixed languages, long paragraphs and code blocks out of the chains.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pydantic import Field

from data.artifact import ROWS_NAME, Artifact, Contract, Kind
from data.readability import Readability
from data.records import Row, with_unique_ids, without_completion, write_rows
from stages.checkable import checkable
from stages.inputs import path_of, rows_of, wired
from stages.rollout.collect import Drawn, collect, shard_seed, visible_prefill
from stages.rollout.options import SamplingConfig, engine_preflight
from stages.scoring import SAFETY_MODEL, Spec, complete, sample_of, score_samples
from stages.selection import Candidate, Rules, edge_cases, select
from stages.stage import Context, Input, Inputs, Metric, Outcome, Placement, Stage, StageConfig
from stages.statistics import average

REVIEW_NAME = "review.jsonl"
"""Edge cases for a person to look at, beside the rows of the artifact."""


class ReadabilityConfig(StageConfig):
    """What a reader can still follow, see data.readability."""

    least_language_share: float = Field(0.9, ge=0, le=1)
    longest_paragraph: int = Field(2000, ge=1)
    code_blocks: bool = False


class RejectionSamplingConfig(SamplingConfig):
    """`rejection_sampling` in a configuration."""

    samples: int = Field(8, ge=1)
    temperature: float = Field(1.0, ge=0)
    keep_fraction: float = Field(0.2, gt=0, le=1)
    """The most that is kept, as a share of all candidates (prompts x samples, wrong ones included), ranked by the
    rewards over the whole set. Wrong or unreadable candidates are never kept, whatever the share."""
    per_prompt_cap: int | None = Field(4, ge=1)
    """The most that one prompt may give."""
    min_scores: Mapping[str, float] = Field(default_factory=dict)
    """Least score by name of a reward; a reward that does not apply holds nobody back."""
    rewards: tuple[Spec, ...] | None = None
    """The mix that ranks; None takes the default of the rewards, and the preference model where one is wired."""
    preference_weight: float = Field(0.2, ge=0)
    """Weight of the preference model in that default."""
    readability: ReadabilityConfig = ReadabilityConfig()
    near_duplicates: float | None = Field(None, gt=0, le=1)
    """Similarity above which two answers count as the same; None removes exact copies only."""
    rows: int | None = Field(None, ge=1)
    """Sample the first so many prompts; None takes all."""
    review_rows: int = Field(50, ge=0)
    """Edge cases of each kind that are written to review.jsonl."""


def run(config: RejectionSamplingConfig, inputs: Inputs, out: Path, context: Context) -> Outcome:
    """Sample `init` on the prompts of `data` and keep the best.

    Raises ValueError where no prompt can be verified or no candidate is good enough.
    """
    began = time.monotonic()
    counts: dict[str, int] = {}
    models = path_of(inputs, "preference"), path_of(inputs, "safety")
    specs = complete(mix(config, wired(inputs)), models[0], context, "rejection_sampling", models[1])
    rows = checkable(list(rows_of(inputs["data"])), specs, counts, verified=True)[: config.rows]
    if not rows:
        raise ValueError("rejection_sampling: no row of the data has an answer or tests to verify against")
    checkpoint = inputs["init"][0]
    rows = with_unique_ids(rows)
    groups = collect(config, rows, checkpoint.path, context, "sampling")
    sampled = time.monotonic()
    candidates = _candidates(config, specs, rows, groups, checkpoint, context)
    rules = _rules(config, specs)
    selection = select(candidates, rules)
    counts |= {"prompts": len(rows), "candidates": len(candidates), **selection.counts()}
    if not selection.kept:
        reasons = ", ".join(f"{reason} {n}" for reason, n in selection.counts().items())
        raise ValueError(f"rejection_sampling: none of {len(candidates)} candidates can be kept: {reasons}")
    kept = {candidate.id for candidate in selection.kept}
    write_rows(out / REVIEW_NAME, edge_cases(candidates, selection, config.review_rows, rules.safety))
    write_rows(out / ROWS_NAME, (candidate.row for candidate in candidates if candidate.id in kept))
    return Outcome(
        contract=Contract(convention=context.convention),
        metrics=_metrics(candidates, len(kept), config.samples),
        counts=counts,
        timings={"sampling": sampled - began, "scoring": time.monotonic() - sampled},
    )


def _candidates(
    config: RejectionSamplingConfig,
    specs: Sequence[Spec],
    rows: Sequence[Row],
    groups: Sequence[Sequence[Drawn]],
    checkpoint: Artifact,
    context: Context,
) -> list[Candidate]:
    """Every completion, scored, as the row that it may become; in the order of the prompts."""
    prefill = visible_prefill(checkpoint.path, context)
    places = [(i, k) for i, group in enumerate(groups) for k in range(len(group))]
    samples = [sample_of(rows[i], groups[i][k], context, prefill=prefill, limit=config.max_tokens) for i, k in places]
    scored = score_samples(specs, samples, context, "scoring")
    candidates = []
    for (i, k), sample, score in zip(places, samples, scored, strict=True):
        provenance = {
            "checkpoint": checkpoint.fingerprint,
            "step": checkpoint.name,
            "row": rows[i]["id"],
            "sample": k,
            "seed": shard_seed(context.seed, i // config.shard_prompts),
            "tokens": sample.tokens,
            "total": score.total,
            "scores": dict(score.scores),
        }
        row = without_completion(rows[i])
        row["id"] = f"{row['id']}#{k}"
        row["completion"] = [{"role": "assistant", "content": sample.completion}]
        candidates.append(Candidate(row=row | {"provenance": provenance}, sample=sample, scored=score))
    return candidates


def mix(config: RejectionSamplingConfig, wired: Collection[str]) -> Sequence[Spec]:
    """Stage.mix: the default of the rewards, and the preference model where one is wired, unless there is a list. A
    safety model that is wired is asked in any case; it ranks only where the list gives it a weight."""
    import rewards

    preference = [{"name": "preference", "weight": config.preference_weight}] if "preference" in wired else []
    specs: Sequence[Spec] = config.rewards or [*rewards.DEFAULT, *preference]
    if "safety" not in wired or any(spec.get("name") == SAFETY_MODEL for spec in specs):
        return specs
    return [*specs, {"name": SAFETY_MODEL, "weight": 0.0}]


def check(config: RejectionSamplingConfig, wired: Collection[str], placement: Placement) -> None:
    """Stage.check: every least score is that of a reward in the mix."""
    from rewards.table import label_of, nearest

    known = [label_of(spec) for spec in mix(config, wired)]
    for name in config.min_scores:
        if name not in known:
            raise ValueError(f"min_scores: no reward {name!r} in the mix{nearest(name, known)}")


def _rules(config: RejectionSamplingConfig, specs: Sequence[Spec]) -> Rules:
    import rewards
    from rewards.safety_model import SafetyModel

    terms = rewards.build(specs).terms
    return Rules(
        safety={term.name: term.reward.least() for term in terms if isinstance(term.reward, SafetyModel)},
        keep_fraction=config.keep_fraction,
        per_prompt_cap=config.per_prompt_cap,
        min_scores=config.min_scores,
        near_duplicates=config.near_duplicates,
        readability=Readability(**config.readability.model_dump()),
    )


def _metrics(candidates: Sequence[Candidate], kept: int, samples: int) -> dict[str, Metric]:
    right = [candidate.scored.correct for candidate in candidates]
    clusters = [[v for v in right[i : i + samples] if v is not None] for i in range(0, len(right), samples)]
    total = len(candidates)
    metrics = {
        "candidates": Metric(value=total, n=total, low=total, high=total),
        "kept": Metric(value=kept, n=total, low=kept, high=kept),
    }
    if any(clusters):
        metrics["candidate_accuracy"] = average(clusters)
    return metrics


REJECTION_SAMPLING = Stage(
    name="rejection_sampling",
    version=1,
    summary="many answers a prompt from a checkpoint; the verified, readable and best become data",
    config=RejectionSamplingConfig,
    needs={
        "init": Input(kind=Kind.MODEL),
        "data": Input(kind=Kind.DATASET, many=True),
        "preference": Input(kind=Kind.MODEL, optional=True, scorer=True),
        "safety": Input(kind=Kind.MODEL, optional=True, scorer=True, judges="safety"),
    },
    makes=Kind.DATASET,
    run=run,
    check=check,
    mix=mix,
    preflight=engine_preflight,
)
