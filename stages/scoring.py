"""Score sampled completions with a reward mix, in shards that survive a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from data.artifact import fingerprint
from data.records import Row, user_text
from rewards.reward import Sample, Status, further_columns
from stages.rollout.collect import Drawn
from stages.rollout.shards import finished, resume_shards
from stages.stage import Context

if TYPE_CHECKING:
    from rewards.combine import Mix
    from rewards.scoring import ScoringPool

Spec = Mapping[str, Any]
"""One entry of `rewards:`, see rewards.build."""

VERIFIERS = ("correctness", "program", "accuracy")
"""Rewards that say whether an answer is right."""

SAFETY_MODEL = "safety_model"
"""The reward by which unsafe samples are filtered."""

SHARD = 1024
"""Completions behind one file of scores."""


def sample_of(row: Row, drawn: Drawn, context: Context, *, prefill: str, limit: int) -> Sample:
    """What a reward sees of one completion of a row."""
    return Sample(
        prompt=user_text(row),
        completion=prefill + drawn["text"],
        answer=row.get("answer"),
        tests=row.get("tests"),
        domain=row["domain"],
        language=row["language"],
        convention=context.convention,
        difficulty=row.get("difficulty"),
        truncated=not drawn["finished"],
        tokens=drawn["tokens"],
        limit=limit,
        extra=further_columns(row),
    )


def complete(
    specs: Sequence[Spec], model: str | None, context: Context, stage: str, safety: str | None = None
) -> list[dict[str, Any]]:
    """The specs with what only the run knows: the wired preference model and safety model, and the sandbox.

    Raises ValueError where such a model is needed and none is wired.
    """
    made = [dict(spec) for spec in specs]
    for spec in made:
        match spec.get("name"):
            case ("preference" | "safety_model") as name if "model" not in spec:
                found, wire = (model, "preference") if name == "preference" else (safety, "safety")
                if found is None:
                    raise ValueError(f"{stage}: the reward {name!r} needs a model; wire one with {wire}_from")
                spec["model"] = found
            case "program":
                spec.setdefault("sandbox", context.sandbox)
            case "correctness":
                spec["program"] = {"sandbox": context.sandbox, **spec.get("program", {})}
    return made


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """What every reward said about one completion."""

    total: float | None
    """The weighted sum; None where no reward applied."""
    scores: Mapping[str, float | None]
    status: Mapping[str, str]

    @property
    def correct(self) -> float | None:
        """1 or 0 by whichever verifier the row is for (tests come before the answer); None where none could tell."""
        return next((s for s in map(self.scores.get, VERIFIERS) if s is not None), None)

    @property
    def undecided(self) -> str | None:
        """Why a row that has a verifier got no verdict (an unusable gold, a failing sandbox); None where it did."""
        if self.correct is not None:
            return None
        states = [self.status[name] for name in VERIFIERS if name in self.status]
        return next((state for state in states if state != Status.NOT_APPLICABLE), None)


def safety_doubt(scored: Scored, reward: str) -> str | None:
    """Why the safety model, under the name `reward`, does not let a sample pass; None where it does or was not asked.

    What it could not judge does not pass either.
    """
    match scored.status.get(reward, Status.NOT_APPLICABLE):
        case Status.OK | Status.NOT_APPLICABLE:
            return None
        case Status.WRONG:
            return f"unsafe by {reward}"
        case status:
            return f"no verdict by {reward}: {status}"


def score_samples(specs: Sequence[Spec], samples: Sequence[Sample], context: Context, what: str) -> list[Scored]:
    """Score every sample with the rewards of `specs`, in order. Workers start only if a shard is missing."""
    import rewards
    from rewards.scoring import ScoringPool

    key = fingerprint([list(map(dict, specs)), [json.dumps(asdict(s), sort_keys=True) for s in samples]])
    directory = context.work / f"scores-{key}"
    count = ceil(len(samples) / SHARD)
    done = min(len(samples), sum(finished(directory, shard) for shard in range(count)) * SHARD)
    with ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(total=len(samples), initial=done, desc=f"{context.name}: {what}", unit="completion", smoothing=0.1)
        )
        judges: list[tuple[Mix, ScoringPool]] = []

        def make(shard: int) -> list[Row]:
            if not judges:
                judges.append(
                    (rewards.build(specs), stack.enter_context(ScoringPool(context.placement.reward_workers)))
                )
            mix, pool = judges[0]
            made = mix.score(samples[shard * SHARD :][:SHARD], pool=pool)
            bar.update(len(made))
            return [{"total": b.total, "scores": dict(b.scores), "status": dict(b.statuses)} for b in made]

        return [Scored(**row) for part in resume_shards(directory, count, make) for row in part]
