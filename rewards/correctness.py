"""Correctness: whichever verifier the row asks for, so that one gate serves every domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rewards.accuracy import Accuracy
from rewards.reward import JudgingReward, Sample, Status, Verdict

if TYPE_CHECKING:
    from rewards.scoring import ScoringPool


@dataclass(frozen=True, kw_only=True)
class Correctness:
    """`program` for rows with tests, `accuracy` for rows with an answer, None for the rest."""

    accuracy: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of the accuracy reward."""
    program: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of the program reward."""

    def __post_init__(self) -> None:
        self._accuracy()
        if self.program:
            self._program()

    def _accuracy(self) -> Accuracy:
        from rewards.table import construct

        made = construct("accuracy", Accuracy, self.accuracy, "correctness: accuracy")
        assert isinstance(made, Accuracy)
        return made

    def _program(self) -> JudgingReward:
        from rewards.program import Program
        from rewards.table import construct

        made = construct("program", Program, self.program, "correctness: program")
        assert isinstance(made, JudgingReward)
        return made

    def __call__(self, sample: Sample, /) -> float | None:
        return self.judge(sample).score

    def judge(self, sample: Sample, /) -> Verdict:
        """One sample, with the reason."""
        return self.judge_batch([sample])[0]

    def judge_batch(self, samples: Sequence[Sample], pool: ScoringPool | None = None) -> list[Verdict]:
        """Many samples, in order."""
        from rewards.combine import judge_each

        verdicts = [Verdict(score=None, status=Status.NOT_APPLICABLE, detail="no answer and no tests")] * len(samples)
        code = [i for i, sample in enumerate(samples) if sample.tests is not None]
        exact = [i for i, sample in enumerate(samples) if sample.tests is None and sample.answer is not None]
        for chosen, judged in (
            (exact, self._accuracy().judge_batch([samples[i] for i in exact], pool) if exact else []),
            (code, judge_each(self._program(), [samples[i] for i in code], pool) if code else []),
        ):
            for index, verdict in zip(chosen, judged, strict=True):
                verdicts[index] = verdict
        return verdicts
