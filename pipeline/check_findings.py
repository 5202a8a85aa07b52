"""What a check says: ok, a warning, or a failure, each in one line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"
    """The run would end with an error, or train the wrong thing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line about one thing."""

    level: Level
    text: str


def fail(text: str) -> Finding:
    """A finding that `r1 run` would end with."""
    return Finding(Level.FAIL, " ".join(text.split()))


def warn(text: str) -> Finding:
    """A finding that a run survives."""
    return Finding(Level.WARN, " ".join(text.split()))


def fine(text: str) -> Finding:
    """What was seen where nothing is wrong."""
    return Finding(Level.OK, " ".join(text.split()))
