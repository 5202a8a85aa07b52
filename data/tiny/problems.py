"""What a kind of problem is, and which problems are held out.

A problem is its kind and operands, whatever the language and the words that pose it. A hash of that identity decides
whether it is held out, so the training and the test side are disjoint by construction and without bookkeeping.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from data.tiny.scribe import Scribe, Text

Operands = tuple[Any, ...]

HELD_OUT_SHARE = 0.15


def held_out(identity: str) -> bool:
    """Whether the problem of this identity belongs to the test side."""
    digest = hashlib.sha256(identity.encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def _no_parts(_: Operands) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A family of problems: how to draw, name, pose and solve one."""

    name: str
    domain: str
    level: int
    """Difficulty, 1 (easy) to 5."""
    draw: Callable[[random.Random], Operands]
    identity: Callable[[Operands], str]
    """Equal for two problems that are the same one in other words or another order."""
    pose: Callable[[Operands, random.Random, str], str]
    """`pose(operands, rng, language)` is the question."""
    solve: Callable[[Operands, Scribe], str]
    """Writes the steps and returns the answer: a number, a name, or a function's source."""
    parts: Callable[[Operands], tuple[str, ...]] = field(default=_no_parts)
    """Identities of problems that its solution solves on the way; a training problem has none that is held out."""
    tests: Callable[[Operands, random.Random], dict[str, Any]] | None = None
    """Unit tests, for code."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of the world."""

    kind: Kind
    operands: Operands

    @property
    def identity(self) -> str:
        return self.kind.identity(self.operands)

    @property
    def is_test(self) -> bool:
        """Whether it may be asked in the test split."""
        return held_out(self.identity)

    @property
    def is_training(self) -> bool:
        """Whether it may be trained on: neither it nor anything solved on the way is held out."""
        return not self.is_test and not any(held_out(part) for part in self.kind.parts(self.operands))


def draw(kind: Kind, rng: random.Random, *, test: bool) -> Problem:
    """A random problem of the kind on the wanted side."""
    while True:
        problem = Problem(kind, kind.draw(rng))
        if problem.is_test if test else problem.is_training:
            return problem


def phrase(forms: tuple[Text, ...], rng: random.Random, language: str, **slots: object) -> str:
    """One of the forms at random, in the language, with its slots filled."""
    return rng.choice(forms)[language == "zh"].format(**slots)
