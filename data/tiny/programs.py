"""Problems in programming: write a small Python function; unit tests decide.

The answer is the function's source, and its tests come from calling that source's meaning, written here once more as
an expression of Python (`meaning`), so that a wrong template would show.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from data.tiny.mathematics import difference_identity, product_identity
from data.tiny.problems import Kind, Operands
from data.tiny.scribe import Scribe, Text, multiply, subtract

NAMES = tuple(f"f{digit}" for digit in range(1, 10))
"""Names that the wanted function may have; the last operand of every problem is an index into it."""

NUMBERS: tuple[int, ...] = (0, 1, 2, 3, 5, 8, 10, 13, 21, 34, 60)
LISTS: tuple[list[int], ...] = (
    [],
    [1],
    [3, 4],
    [7, 2, 9],
    [5, 12, 6, 1],
    [20, 3, 15, 8],
    [10, 10, 4],
    [2, 30, 45, 9, 6],
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One program with holes `{a}`, `{b}`, ... for its constants."""

    name: str
    level: int
    ranges: tuple[tuple[int, int], ...]
    """Smallest and largest value of each constant."""
    task: Text
    plan: Text
    body: str
    """What the function returns; its parameter is x, or xs where it takes a list."""
    meaning: Callable[..., Any]
    """`meaning(x, a, b, ...)` is the right result."""

    work: Callable[[Scribe, int, int], int] | None = None
    """Arithmetic with a and b whose result is the constant `{k}` of the body."""
    parts: Callable[[int, int], str] | None = None
    """Identity of the problem that `work` solves."""

    @property
    def parameter(self) -> str:
        """Name of the function's parameter."""
        return "xs" if "xs" in self.body else "x"


RECIPES: tuple[Recipe, ...] = (
    Recipe(
        name="linear",
        level=1,
        ranges=((2, 9), (1, 20)),
        task=("returns {a} times x plus {b}", "返回x的{a}倍加{b}"),
        plan=("Take {a} times x, then add {b}.", "先取x的{a}倍，再加{b}。"),
        body="{a}*x+{b}",
        meaning=lambda x, a, b: a * x + b,
    ),
    Recipe(
        name="shift",
        level=1,
        ranges=((1, 99),),
        task=("returns x plus {a}", "返回x加{a}"),
        plan=("Add {a} to x.", "把x加{a}。"),
        body="x+{a}",
        meaning=lambda x, a: x + a,
    ),
    Recipe(
        name="larger",
        level=2,
        ranges=((1, 30),),
        task=("returns the elements of the list xs above {a}", "返回列表xs中大于{a}的元素"),
        plan=("Keep each x above {a}.", "留下大于{a}的x。"),
        body="[x for x in xs if x > {a}]",
        meaning=lambda xs, a: [x for x in xs if x > a],
    ),
    Recipe(
        name="multiples",
        level=2,
        ranges=((2, 40),),
        task=("counts the multiples of {a} in the list xs", "数出列表xs中{a}的倍数"),
        plan=("Count each x with rest 0 by {a}.", "数出除以{a}余0的x。"),
        body="sum(x % {a} == 0 for x in xs)",
        meaning=lambda xs, a: len([x for x in xs if x % a == 0]),
    ),
    Recipe(
        name="limit",
        level=3,
        ranges=((1, 9), (10, 40)),
        task=("returns x but at least {a} and at most {b}", "返回x，但不小于{a}，不大于{b}"),
        plan=("Not above {b}. Not below {a}.", "不大于{b}。不小于{a}。"),
        body="max({a}, min({b}, x))",
        meaning=lambda x, a, b: a if x < a else b if x > b else x,
    ),
    Recipe(
        name="parity",
        level=3,
        ranges=((2, 9), (1, 30)),
        task=("returns {a} times x if x is even, else x plus {b}", "x是偶数时返回x的{a}倍，否则返回x加{b}"),
        plan=("Even gives {a} times x, odd adds {b}.", "偶数取{a}倍，奇数加{b}。"),
        body="{a}*x if x % 2 == 0 else x+{b}",
        meaning=lambda x, a, b: x + b if x % 2 else a * x,
    ),
    Recipe(
        name="chain",
        level=4,
        ranges=((1, 20), (2, 9), (1, 20)),
        task=("adds {a} to x, then takes {b} times that, then takes away {c}", "把x加{a}，再乘{b}，再减{c}"),
        plan=("First x+{a}. Then times {b}. Then minus {c}.", "先x+{a}。再乘{b}。再减{c}。"),
        body="(x+{a})*{b}-{c}",
        meaning=lambda x, a, b, c: b * x + a * b - c,
    ),
    Recipe(
        name="scaled_sum",
        level=4,
        ranges=((2, 9), (1, 30)),
        task=("returns {a} times the sum of the elements of xs above {b}", "返回列表xs中大于{b}的元素之和的{a}倍"),
        plan=("Sum each x above {b}. Then times {a}.", "求大于{b}的x之和。再乘{a}。"),
        body="{a}*sum(x for x in xs if x > {b})",
        meaning=lambda xs, a, b: sum(a * x for x in xs if x > b),
    ),
    Recipe(
        name="rounds",
        level=4,
        ranges=((11, 99), (2, 9)),
        task=("adds {a} to x, {b} times over", "把x加{a}，共加{b}次"),
        plan=("In all {a}*{b}.", "一共{a}*{b}。"),
        body="x+{k}",
        meaning=lambda x, a, b: x + a * b,
        work=multiply,
        parts=product_identity,
    ),
    Recipe(
        name="line",
        level=5,
        ranges=((50, 99), (10, 49)),
        task=(
            "returns the height at x of the line that is {b} at 0 and {a} at 1",
            "返回直线在x处的高度，它在0处为{b}，在1处为{a}",
        ),
        plan=("The slope is {a}-{b}.", "斜率{a}-{b}。"),
        body="{k}*x+{b}",
        meaning=lambda x, a, b: a * x + b * (1 - x),
        work=lambda scribe, a, b: subtract(scribe, max(a, b), b),
        parts=difference_identity,
    ),
    Recipe(
        name="steps",
        level=5,
        ranges=((2, 10), (11, 40), (1, 30), (2, 9), (1, 30)),
        task=(
            "returns x plus {c} if x is below {a}, else {d} times x if x is below {b}, else x minus {e}",
            "x小于{a}时返回x加{c}，否则x小于{b}时返回x的{d}倍，否则返回x减{e}",
        ),
        plan=(
            "Below {a} add {c}. Below {b} take {d} times. Else minus {e}.",
            "小于{a}加{c}。小于{b}取{d}倍。否则减{e}。",
        ),
        body="x+{c} if x < {a} else {d}*x if x < {b} else x-{e}",
        meaning=lambda x, a, b, c, d, e: (x + c) if x < a else (d * x if x < b else x - e),
    ),
)


def _kind(recipe: Recipe) -> Kind:
    letters = "abcde"[: len(recipe.ranges)]

    def draw(rng: random.Random) -> Operands:
        return *(rng.randint(low, high) for low, high in recipe.ranges), rng.randrange(len(NAMES))

    def slots(operands: Operands) -> dict[str, int]:
        return dict(zip(letters, operands, strict=False))

    def pose(operands: Operands, rng: random.Random, language: str) -> str:
        call = f"{NAMES[operands[-1]]}({recipe.parameter})"
        task = recipe.task[language == "zh"].format(**slots(operands))
        if language == "zh":
            return f"写一个Python函数{call}，{task}。"
        return f"Write a Python function {call} that {task}."

    def solve(operands: Operands, scribe: Scribe) -> str:
        written = {letter: scribe.figure(value) for letter, value in slots(operands).items()}
        en, zh = (plan.format(**written) for plan in recipe.plan)
        scribe.say(en, zh)
        if recipe.work is not None:
            written["k"] = recipe.work(scribe, written["a"], written["b"])
        return f"def {NAMES[operands[-1]]}({recipe.parameter}):\n    return {recipe.body.format(**written)}"

    def tests(operands: Operands, rng: random.Random) -> dict[str, Any]:
        name = NAMES[operands[-1]]
        inputs = rng.sample(LISTS if recipe.parameter == "xs" else NUMBERS, 5)
        expected = [(value, recipe.meaning(value, *operands[:-1])) for value in inputs]
        return {
            "kind": "function",
            "entry_point": name,
            "asserts": [f"assert {name}({value!r}) == {result!r}" for value, result in expected],
        }

    def parts(operands: Operands) -> tuple[str, ...]:
        return () if recipe.parts is None else (recipe.parts(operands[0], operands[1]),)

    return Kind(
        name=recipe.name,
        domain="code",
        level=recipe.level,
        draw=draw,
        identity=lambda o: f"{recipe.name}:{','.join(map(str, o[:-1]))}",
        pose=pose,
        solve=solve,
        parts=parts,
        tests=tests,
    )


KINDS: tuple[Kind, ...] = tuple(_kind(recipe) for recipe in RECIPES)
