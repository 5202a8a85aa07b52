"""Problems in logic: put three or four numbered boxes in order, told in any sequence, and name one of them."""

from __future__ import annotations

import random
from collections.abc import Callable

from data.tiny.problems import Kind, Operands
from data.tiny.scribe import Scribe, Text

RELATIONS: tuple[tuple[Text, Text, Text], ...] = (
    (("heavier", "重"), ("heaviest", "最重"), ("lightest", "最轻")),
    (("larger", "大"), ("largest", "最大"), ("smallest", "最小")),
    (("older", "旧"), ("oldest", "最旧"), ("newest", "最新")),
)
"""More than, most, least."""


def _draw(size: int, shuffled: bool) -> Callable[[random.Random], Operands]:
    def draw(rng: random.Random) -> Operands:
        boxes = tuple(rng.sample(range(1, 10), size))
        told = list(range(size - 1))
        if shuffled:
            rng.shuffle(told)
        return rng.randrange(len(RELATIONS)), boxes, rng.randrange(2), tuple(told)

    return draw


def _identity(operands: Operands) -> str:
    relation, boxes, least, _ = operands
    return f"order:{RELATIONS[relation][0][0]},{'>'.join(map(str, boxes))},{least}"


def _pose(operands: Operands, rng: random.Random, language: str) -> str:
    relation, boxes, least, told = operands
    zh = language == "zh"
    more, most, fewest = (words[zh] for words in RELATIONS[relation])
    asked = fewest if least else most
    if zh:
        return "".join(f"{boxes[i]}号箱比{boxes[i + 1]}号箱{more}。" for i in told) + f"几号箱{asked}？"
    said = " ".join(f"Box {boxes[i]} is {more} than box {boxes[i + 1]}." for i in told)
    return f"{said} Which box is the {asked}?"


def _solve(operands: Operands, scribe: Scribe) -> str:
    _, boxes, least, told = operands
    for i in told:
        pair = f"{boxes[i]}>{boxes[i + 1]}"
        scribe.say(f"Know {pair}.", f"已知{pair}。")
    order = list(boxes)
    first = scribe.figure(0) % len(order)
    order[0], order[first] = order[first], order[0]
    line = ">".join(map(str, order))
    scribe.say(f"The order is {line}.", f"顺序是{line}。")
    chosen = order[-1] if least else order[0]
    scribe.say(f"The {'last' if least else 'first'} is {chosen}.", f"{'最后' if least else '第一'}是{chosen}。")
    return str(chosen)


KINDS: tuple[Kind, ...] = tuple(
    Kind(
        name=name,
        domain="logic",
        level=level,
        draw=_draw(size, shuffled),
        identity=_identity,
        pose=_pose,
        solve=_solve,
    )
    for name, level, size, shuffled in (
        ("order_3", 1, 3, False),
        ("order_3_mixed", 2, 3, True),
        ("order_4_mixed", 4, 4, True),
    )
)
