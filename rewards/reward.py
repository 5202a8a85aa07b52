"""What a reward is: one sample in, a number or None out; None means "does not apply", which is not 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from data.template import CONVENTIONS, Parsed


class Status(StrEnum):
    """Why a sample got its score. Everything but OK and WRONG is counted apart from wrong answers."""

    OK = "ok"
    WRONG = "wrong"
    NOT_APPLICABLE = "not_applicable"
    UNPARSED_GOLD = "unparsed_gold"
    EXCEPTION = "exception"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    KILLED = "killed"
    SANDBOX_ERROR = "sandbox_error"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One completion to be scored, with what its dataset row says about it."""

    prompt: str
    """Text of the last user message."""
    completion: str
    """What the model wrote, with whatever the chat template prefilled put back in front."""
    answer: str | None = None
    tests: Mapping[str, object] | None = None
    domain: str = "general"
    language: str = "en"
    """Target language of the reasoning, fixed when the row was prepared."""
    convention: str = "think_answer"
    difficulty: float | None = None
    truncated: bool = False
    tokens: int | None = None
    """Length of the completion in tokens; None where nobody counted."""
    limit: int | None = None
    """The most tokens that the sampler allowed."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """Further columns of the row, for user functions."""

    def parsed(self) -> Parsed:
        """The completion taken apart by its convention."""
        return CONVENTIONS[self.convention].parse(self.completion)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A score with its reason."""

    score: float | None
    status: Status = Status.OK
    detail: str = ""
    """One short line for a person; per-test outcomes of a program, say."""


NAMED = ("answer", "tests", "domain", "language", "difficulty")
"""Columns of a row that `Sample` has a field for."""
MESSAGES = ("prompt", "completion", "chosen", "rejected")


def further_columns(row: Mapping[str, object]) -> dict[str, object]:
    """`Sample.extra` of a dataset's row: `id`, `source` and what else the user put there, lists of messages apart."""
    return {name: value for name, value in row.items() if name not in NAMED and name not in MESSAGES}


@runtime_checkable
class Reward(Protocol):
    """Pure and picklable; a reward with parameters is a frozen dataclass, never a closure."""

    def __call__(self, sample: Sample, /) -> float | None: ...


@runtime_checkable
class JudgingReward(Protocol):
    """A reward that also says why (accuracy, program)."""

    def __call__(self, sample: Sample, /) -> float | None: ...
    def judge(self, sample: Sample, /) -> Verdict: ...


@runtime_checkable
class BatchReward(Protocol):
    """A reward that must see many samples at once (a preference model, a remote judge, a user's TRL function)."""

    def score_batch(self, samples: Sequence[Sample], /) -> list[Verdict]: ...
