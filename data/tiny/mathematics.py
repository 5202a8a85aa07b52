"""Problems in mathematics, level 1 (two-digit sums) to 5 (several steps)."""

from __future__ import annotations

import random
from collections.abc import Callable

from data.tiny.problems import Kind, Operands, phrase
from data.tiny.scribe import Scribe, Text, add, divide, multiply, subtract


def sum_identity(a: int, b: int) -> str:
    """Identity of a sum."""
    return f"sum:{min(a, b)},{max(a, b)}"


def product_identity(a: int, b: int) -> str:
    """Identity of a product."""
    return f"product:{min(a, b)},{max(a, b)}"


def difference_identity(a: int, b: int) -> str:
    """Identity of a difference."""
    return f"difference:{a},{b}"


def quotient_identity(a: int, b: int) -> str:
    """Identity of a quotient."""
    return f"quotient:{a},{b}"


def _posed(forms: tuple[Text, ...]) -> Callable[[Operands, random.Random, str], str]:
    def pose(operands: Operands, rng: random.Random, language: str) -> str:
        return phrase(forms, rng, language, **dict(zip("abcd", operands, strict=False)))

    return pose


SUM: tuple[Text, ...] = (
    ("What is {a} + {b}?", "{a} + {b} 等于多少？"),
    ("Compute {a} + {b}.", "计算 {a} + {b}。"),
    (
        "Tom has {a} coins and finds {b} more. How many coins has he now?",
        "小明有{a}枚硬币，又捡到{b}枚。现在有多少枚？",
    ),
    ("A shop sold {a} pens and {b} books. How many items in all?", "商店卖了{a}支笔和{b}本书。一共多少件？"),
)
DIFFERENCE: tuple[Text, ...] = (
    ("What is {a} - {b}?", "{a} - {b} 等于多少？"),
    ("Compute {a} - {b}.", "计算 {a} - {b}。"),
    ("Tom had {a} coins and spent {b}. How many coins are left?", "小明有{a}枚硬币，花了{b}枚。还剩多少枚？"),
)
PRODUCT: tuple[Text, ...] = (
    ("What is {a} * {b}?", "{a} * {b} 等于多少？"),
    ("Compute {a} * {b}.", "计算 {a} * {b}。"),
    ("A box holds {a} pens. How many pens are in {b} boxes?", "一盒有{a}支笔。{b}盒有多少支笔？"),
)
QUOTIENT: tuple[Text, ...] = (
    ("What is {a} / {b}?", "{a} / {b} 等于多少？"),
    ("Compute {a} / {b}.", "计算 {a} / {b}。"),
    ("{b} children share {a} coins. How many does each get?", "{b}个孩子平分{a}枚硬币。每人多少枚？"),
)
PRODUCT_SUM: tuple[Text, ...] = (
    ("What is {a} * {b} + {c}?", "{a} * {b} + {c} 等于多少？"),
    (
        "Tom buys {b} boxes of {a} pens and has {c} more. How many pens in all?",
        "小明买了{b}盒笔，每盒{a}支，另有{c}支。一共多少支？",
    ),
)
SUM_PRODUCT: tuple[Text, ...] = (
    ("What is ({a} + {b}) * {c}?", "({a} + {b}) * {c} 等于多少？"),
    (
        "A class has {a} boys and {b} girls. Each gets {c} pens. How many pens in all?",
        "班里有{a}名男生和{b}名女生。每人{c}支笔。一共多少支？",
    ),
)
PRODUCT_DIFFERENCE: tuple[Text, ...] = (
    ("What is {a} * {b} - {c}?", "{a} * {b} - {c} 等于多少？"),
    (
        "Tom buys {b} boxes of {a} pens and gives away {c}. How many pens are left?",
        "小明买了{b}盒笔，每盒{a}支，送出{c}支。还剩多少支？",
    ),
)


def _draw_sum(digits: int) -> Callable[[random.Random], Operands]:
    low, high = 10 ** (digits - 1), 10**digits - 1
    return lambda rng: (rng.randint(low, high), rng.randint(low, high))


def _draw_difference(rng: random.Random) -> Operands:
    a = rng.randint(21, 99)
    return a, rng.randint(10, a - 1)


def _draw_product(digits: int) -> Callable[[random.Random], Operands]:
    low, high = 10 ** (digits - 1), 10**digits - 1
    return lambda rng: (rng.randint(low + 1, high), rng.randint(2, 9))


def _draw_quotient(rng: random.Random) -> Operands:
    b = rng.randint(2, 9)
    return rng.randint(11, 99) * b, b


def _draw_product_sum(rng: random.Random) -> Operands:
    return rng.randint(11, 99), rng.randint(2, 9), rng.randint(10, 99)


def _draw_sum_product(rng: random.Random) -> Operands:
    return rng.randint(10, 99), rng.randint(10, 99), rng.randint(2, 9)


def _draw_product_difference(rng: random.Random) -> Operands:
    a, b = rng.randint(11, 99), rng.randint(2, 9)
    return a, b, rng.randint(10, min(99, a * b - 1))


def _draw_long_product(rng: random.Random) -> Operands:
    return rng.randint(11, 99), rng.randint(11, 99)


def _solve_sum(operands: Operands, scribe: Scribe) -> str:
    return str(add(scribe, *operands))


def _solve_difference(operands: Operands, scribe: Scribe) -> str:
    return str(subtract(scribe, *operands))


def _solve_product(operands: Operands, scribe: Scribe) -> str:
    return str(multiply(scribe, *operands))


def _solve_quotient(operands: Operands, scribe: Scribe) -> str:
    return str(divide(scribe, *operands))


def _first(scribe: Scribe, text: str) -> None:
    scribe.say(f"First {text}.", f"先算{text}。")


def _then(scribe: Scribe, text: str) -> None:
    scribe.say(f"Then {text}.", f"再算{text}。")


def _solve_product_sum(operands: Operands, scribe: Scribe) -> str:
    a, b, c = operands
    _first(scribe, f"{a}*{b}")
    product = multiply(scribe, a, b)
    _then(scribe, f"{product}+{c}")
    return str(add(scribe, product, c))


def _solve_product_difference(operands: Operands, scribe: Scribe) -> str:
    a, b, c = operands
    _first(scribe, f"{a}*{b}")
    product = max(c, multiply(scribe, a, b))
    _then(scribe, f"{product}-{c}")
    return str(subtract(scribe, product, c))


def _solve_sum_product(operands: Operands, scribe: Scribe) -> str:
    a, b, c = operands
    _first(scribe, f"{a}+{b}")
    total = add(scribe, a, b)
    _then(scribe, f"{total}*{c}")
    return str(multiply(scribe, total, c))


def _solve_long_product(operands: Operands, scribe: Scribe) -> str:
    a, b = operands
    tens, ones = divmod(b, 10)
    _first(scribe, f"{a}*{tens}")
    high = multiply(scribe, a, tens) * 10
    if not ones:
        scribe.say(f"Times 10 is {high}.", f"乘10得{high}。")
        return str(high)
    _then(scribe, f"{a}*{ones}")
    low = multiply(scribe, a, ones)
    _then(scribe, f"{high}+{low}")
    return str(add(scribe, high, low))


KINDS: tuple[Kind, ...] = (
    Kind(
        name="sum_2",
        domain="math",
        level=1,
        draw=_draw_sum(2),
        identity=lambda o: sum_identity(*o),
        pose=_posed(SUM),
        solve=_solve_sum,
    ),
    Kind(
        name="sum_3",
        domain="math",
        level=2,
        draw=_draw_sum(3),
        identity=lambda o: sum_identity(*o),
        pose=_posed(SUM),
        solve=_solve_sum,
    ),
    Kind(
        name="difference_2",
        domain="math",
        level=3,
        draw=_draw_difference,
        identity=lambda o: difference_identity(*o),
        pose=_posed(DIFFERENCE),
        solve=_solve_difference,
    ),
    Kind(
        name="product_2",
        domain="math",
        level=2,
        draw=_draw_product(2),
        identity=lambda o: product_identity(*o),
        pose=_posed(PRODUCT),
        solve=_solve_product,
    ),
    Kind(
        name="product_3",
        domain="math",
        level=3,
        draw=_draw_product(3),
        identity=lambda o: product_identity(*o),
        pose=_posed(PRODUCT),
        solve=_solve_product,
    ),
    Kind(
        name="quotient",
        domain="math",
        level=4,
        draw=_draw_quotient,
        identity=lambda o: quotient_identity(*o),
        pose=_posed(QUOTIENT),
        solve=_solve_quotient,
    ),
    Kind(
        name="product_sum",
        domain="math",
        level=4,
        draw=_draw_product_sum,
        identity=lambda o: "product_sum:{},{},{}".format(*o),
        pose=_posed(PRODUCT_SUM),
        solve=_solve_product_sum,
        parts=lambda o: (product_identity(o[0], o[1]), sum_identity(o[0] * o[1], o[2])),
    ),
    Kind(
        name="product_difference",
        domain="math",
        level=5,
        draw=_draw_product_difference,
        identity=lambda o: "product_difference:{},{},{}".format(*o),
        pose=_posed(PRODUCT_DIFFERENCE),
        solve=_solve_product_difference,
        parts=lambda o: (product_identity(o[0], o[1]), difference_identity(o[0] * o[1], o[2])),
    ),
    Kind(
        name="sum_product",
        domain="math",
        level=4,
        draw=_draw_sum_product,
        identity=lambda o: "sum_product:{},{},{}".format(*sorted(o[:2]), o[2]),
        pose=_posed(SUM_PRODUCT),
        solve=_solve_sum_product,
        parts=lambda o: (sum_identity(o[0], o[1]), product_identity(o[0] + o[1], o[2])),
    ),
    Kind(
        name="product_22",
        domain="math",
        level=5,
        draw=_draw_long_product,
        identity=lambda o: product_identity(*o),
        pose=_posed(PRODUCT),
        solve=_solve_long_product,
        parts=lambda o: (product_identity(o[0], o[1] // 10), product_identity(o[0], o[1] % 10)),
    ),
)
