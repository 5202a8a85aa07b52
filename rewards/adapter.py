"""Our rewards as TRL reward functions. The other direction, users' functions as ours: rewards/user_function.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rewards.combine import Breakdown, Mix, Term
from rewards.reward import MESSAGES, Sample, Status, Verdict, further_columns
from rewards.scoring import ScoringPool

PROGRAMS = ("program", "correctness")
RECORD = "_record"
"""Column with all that a reward may see of a row, as JSON text: rows may differ in shape, columns may not."""


def samples_from_trl(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]] | None,
    columns: Mapping[str, Sequence[Any]],
    convention: str,
    prefill: str = "",
    limit: int | None = None,
) -> list[Sample]:
    """Samples from the arguments that TRL gives a reward function.

    `prefill` is what the chat template put in front of every completion; it goes back in front, unless the
    completion repeats it. `limit` is the most tokens sampled: a completion of that length counts as truncated.
    """
    samples = []
    rows = _rows(columns, len(prompts))
    for index, (prompt, completion, row) in enumerate(zip(prompts, completions, rows, strict=True)):
        tokens = len(completion_ids[index]) if completion_ids is not None else None
        text = text_of(completion, "assistant")
        samples.append(
            Sample(
                prompt=text_of(prompt, "user"),
                completion=text if not prefill or text.startswith(prefill.strip()) else prefill + text,
                answer=row.get("answer"),
                tests=row.get("tests"),
                domain=row.get("domain") or "general",
                language=row.get("language") or "en",
                convention=convention,
                difficulty=row.get("difficulty"),
                truncated=limit is not None and tokens is not None and tokens >= limit,
                tokens=tokens,
                limit=limit,
                extra=further_columns(row),
            )
        )
    return samples


def record_of(row: Mapping[str, Any]) -> str:
    """A row as its entry in the column RECORD. Raises TypeError for a value without a JSON form."""
    return json.dumps({name: value for name, value in row.items() if name not in MESSAGES}, ensure_ascii=False)


def _rows(columns: Mapping[str, Sequence[Any]], count: int) -> list[dict[str, Any]]:
    if RECORD in columns:
        return [json.loads(text) for text in columns[RECORD]]
    whole = {name: v for name, v in columns.items() if isinstance(v, list | tuple) and len(v) == count}
    return [{name: values[index] for name, values in whole.items()} for index in range(count)]


def text_of(messages: Any, role: str) -> str:
    """Text as it is, or the content of the last message of `role` (of any role, where there is none)."""
    if isinstance(messages, str):
        return messages
    matching = [message for message in messages if message.get("role") == role] or list(messages)
    content = matching[-1].get("content") if matching else ""
    if isinstance(content, list):  # parts, as in {"type": "text", "text": "..."}
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else "" if content is None else str(content)


@dataclass(kw_only=True)
class TRLReward:
    """A mix with TRL's batch signature; picklable. Logs every reward through TRL's `log_metric` and `log_extra`."""

    mix: Mix
    convention: str
    prefill: str = ""
    limit: int | None = None
    pool: ScoringPool | None = None
    name: str = "mix"
    breakdowns: list[Breakdown] = field(default_factory=list, repr=False)
    """Of the last call."""

    def __post_init__(self) -> None:
        self.__name__ = self.name

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        trainer_state: Any = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        samples = samples_from_trl(
            prompts, completions, completion_ids, columns, self.convention, self.prefill, self.limit
        )
        step = getattr(trainer_state, "global_step", None)
        self.breakdowns = self.mix.score(samples, step, self.pool)
        self._log(log_extra, log_metric)
        _stop_on_failing_sandbox(self.breakdowns)
        return [breakdown.total for breakdown in self.breakdowns]

    def _log(
        self, log_extra: Callable[[str, list[Any]], None] | None, log_metric: Callable[[str, float], None] | None
    ) -> None:
        for name in self.mix.names:
            scores = [breakdown.scores[name] for breakdown in self.breakdowns]
            known = [score for score in scores if score is not None]
            if log_extra is not None:
                log_extra(f"score/{name}", scores)
            if log_metric is not None:
                for score in known:  # one by one: processes, whose shares differ, then have one mean over all
                    log_metric(f"score/{name}", score)
                # Also where it is 0: TRL averages over the processes that log a figure.
                log_metric(f"unjudged/{name}", unjudged_share(self.breakdowns, name))
                for status, share in status_shares(self.breakdowns, name).items():
                    log_metric(f"status/{name}/{status}", share)


def _stop_on_failing_sandbox(breakdowns: Sequence[Breakdown]) -> None:
    """Raise SandboxError where the sandbox failed for more than 1 % of the programs of a step."""
    verdicts = [
        Verdict(score=breakdown.scores[name], status=status, detail=breakdown.details.get(name, ""))
        for breakdown in breakdowns
        for name, status in breakdown.statuses.items()
        if status is not Status.NOT_APPLICABLE and (breakdown.scores[name] is None or name in PROGRAMS)
    ]
    if any(verdict.status is Status.SANDBOX_ERROR for verdict in verdicts):
        from rewards.program import refuse_failing_sandbox

        refuse_failing_sandbox(verdicts)


def unjudged_share(breakdowns: Sequence[Breakdown], name: str) -> float:
    """Share of completions that a reward is for and gave no score: an unreadable gold, a broken sandbox or function.

    A candidate's own exception or timeout is a score of 0, and not among them.
    """
    lost = [b.scores[name] is None and b.statuses[name] is not Status.NOT_APPLICABLE for b in breakdowns]
    return sum(lost) / len(lost)


def status_shares(breakdowns: Sequence[Breakdown], name: str) -> dict[str, float]:
    """Share of each status of one reward, the ordinary two left out."""
    counts: dict[str, int] = {}
    for breakdown in breakdowns:
        status = str(breakdown.statuses[name])
        if status not in ("ok", "wrong", "not_applicable"):
            counts[status] = counts.get(status, 0) + 1
    return {status: count / len(breakdowns) for status, count in counts.items()}


def as_trl(
    reward: Any,
    convention: str,
    prefill: str = "",
    *,
    limit: int | None = None,
    pool: ScoringPool | None = None,
    name: str | None = None,
) -> TRLReward:
    """A mix, or one reward, as a function for TRL's GRPOTrainer.

    Every column of the dataset but lists of messages reaches the reward; None in the result makes
    TRL leave that completion out.
    """
    if isinstance(reward, Mix):
        return TRLReward(mix=reward, convention=convention, prefill=prefill, limit=limit, pool=pool, name=name or "mix")
    label = name or type(reward).__name__.lower()
    mix = Mix(terms=(Term(name=label, reward=reward),))
    return TRLReward(mix=mix, convention=convention, prefill=prefill, limit=limit, pool=pool, name=label)
