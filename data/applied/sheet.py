"""What the kinds of the applied world share: families of problems that differ in words and formula alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from data.tiny.problems import Kind, Operands, phrase
from data.tiny.scribe import Scribe, Text

Range = tuple[int, int]
"""Lowest and highest value of an operand."""


def kind(
    name: str,
    domain: str,
    level: int,
    ranges: tuple[Range, ...],
    forms: tuple[Text, ...],
    solve: Callable[[Operands, Scribe], str],
    shape: Callable[..., tuple[int, ...]] = lambda *drawn: drawn,
) -> Kind:
    """A kind whose operands are `shape` of one number out of each range, and fill the slots a, b, c of `forms`."""

    def draw(rng: random.Random) -> Operands:
        return shape(*(rng.randint(low, high) for low, high in ranges))

    def pose(operands: Operands, rng: random.Random, language: str) -> str:
        slots: dict[str, Any] = dict(zip("abc", operands, strict=False))
        return phrase(forms, rng, language, **slots)

    def identity(operands: Operands) -> str:
        return f"{name}:{','.join(map(str, operands))}"

    return Kind(name=name, domain=domain, level=level, draw=draw, identity=identity, pose=pose, solve=solve)


def state(scribe: Scribe, rule: Text, left: str) -> None:
    """The rule that is applied and what is calculated by it."""
    scribe.say(f"{rule[0]}, {left}.", f"{rule[1]}，{left}。")


def then(scribe: Scribe, left: str) -> None:
    """What is calculated next."""
    scribe.say(f"Then {left}.", f"再算{left}。")


def hundredth(scribe: Scribe, amount: int) -> int:
    """One per cent of whole hundreds."""
    scribe.say(f"1% of {amount} is {amount // 100}.", f"{amount}的1%是{amount // 100}。")
    return amount // 100


def tenth(scribe: Scribe, amount: int) -> int:
    """Ten per cent of whole tens."""
    scribe.say(f"10% of {amount} is {amount // 10}.", f"{amount}的10%是{amount // 10}。")
    return amount // 10
