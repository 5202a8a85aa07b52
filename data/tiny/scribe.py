"""Writing a worked solution, step by step: clean in one language, or careless and mixed as in the wild.

The arithmetic below computes with the figures that were written down, so a slip carries on to the answer as a
person's would. Left out: what is being solved (mathematics.py, science.py, programs.py, logic_puzzles.py).
"""

from __future__ import annotations

import random

Text = tuple[str, str]
"""The same words in English and Chinese."""

PLACES: tuple[Text, ...] = (("Ones", "个位"), ("Tens", "十位"), ("Hundreds", "百位"), ("Thousands", "千位"))


class Scribe:
    """Collects the sentences of one solution.

    `slip` is the probability that a figure is written down wrong, `switch` that a sentence changes the language.
    With both at 0 the solution is clean and `rng` is never used.
    """

    def __init__(
        self, language: str, *, rng: random.Random | None = None, slip: float = 0.0, switch: float = 0.0
    ) -> None:
        assert rng is not None or (slip == 0 and switch == 0)
        self.language = language
        self._rng = rng
        self._slip = slip
        self._switch = switch
        self._text = ""

    @property
    def text(self) -> str:
        """All sentences so far."""
        return self._text.strip()

    def say(self, en: str, zh: str) -> None:
        """Write one sentence, ending in its full stop."""
        if self._switch and self._rng is not None and self._rng.random() < self._switch:
            self.language = "zh" if self.language == "en" else "en"
        self._text += f"{en} " if self.language == "en" else zh

    def pick(self, words: Text) -> str:
        """The words in the language being written."""
        return words[self.language == "zh"]

    def figure(self, value: int) -> int:
        """`value` as it is written down."""
        if not self._slip or self._rng is None or self._rng.random() >= self._slip:
            return value
        return max(0, value + self._rng.choice((-2, -1, 1, 2, 10 if value > 9 else 3)))


def add(scribe: Scribe, a: int, b: int) -> int:
    """Column addition of two numbers, lowest place first."""
    places = max(len(str(a)), len(str(b)))
    carry = result = 0
    for place in range(places):
        x, y = a // 10**place % 10, b // 10**place % 10
        total = scribe.figure(x + y + carry)
        sides = f"{x}+{y}+{carry}" if carry else f"{x}+{y}"
        carry, result = _write(scribe, place, f"{sides}={total}", total, result, place == places - 1)
    return result


def multiply(scribe: Scribe, a: int, digit: int) -> int:
    """Column multiplication by one digit, lowest place first."""
    places = len(str(a))
    carry = result = 0
    for place in range(places):
        x = a // 10**place % 10
        total = scribe.figure(x * digit + carry)
        sides = f"{x}*{digit}+{carry}" if carry else f"{x}*{digit}"
        carry, result = _write(scribe, place, f"{sides}={total}", total, result, place == places - 1)
    return result


def subtract(scribe: Scribe, a: int, b: int) -> int:
    """Column subtraction with borrowing; `a` must not be below `b`."""
    places = len(str(a))
    borrow = result = 0
    for place in range(places):
        x, y = a // 10**place % 10, b // 10**place % 10
        lack = int(x < y + borrow)
        left = scribe.figure(x + 10 * lack - y - borrow) % 10
        sides = f"{x + 10 * lack}-{y}-1" if borrow else f"{x + 10 * lack}-{y}"
        note = (", borrow 1", "，借1") if lack else ("", "")
        en, zh = PLACES[place]
        scribe.say(f"{en} {sides}={left}{note[0]}.", f"{zh}{sides}={left}{note[1]}。")
        result += left * 10**place
        borrow = lack
    scribe.say(f"So {result}.", f"得{result}。")
    return result


def divide(scribe: Scribe, a: int, digit: int) -> int:
    """Long division by one digit, highest place first; the rest of the last place is dropped."""
    rest = result = 0
    for place in reversed(range(len(str(a)))):
        part = rest * 10 + a // 10**place % 10
        if part < digit and result == 0 and place:
            rest = part
            continue
        quotient = min(9, scribe.figure(part // digit))
        product = quotient * digit
        rest = abs(part - product) % digit
        step = f"{part}/{digit}={quotient}", f"{quotient}*{digit}={product}"
        scribe.say(f"{step[0]}, {step[1]}, rest {rest}.", f"{step[0]}，{step[1]}，余{rest}。")
        result = result * 10 + quotient
    scribe.say(f"So {result}.", f"得{result}。")
    return result


def _write(scribe: Scribe, place: int, sides: str, total: int, result: int, last: bool) -> tuple[int, int]:
    """Write one column down; returns the carry and the result so far, finished at the last place."""
    en, zh = PLACES[place]
    carry = 0 if last else total // 10
    result += (total if last else total % 10) * 10**place
    note = (f", carry {carry}", f"，进{carry}") if carry else ("", "")
    scribe.say(f"{en} {sides}{note[0]}.", f"{zh}{sides}{note[1]}。")
    if last:
        scribe.say(f"So {result}.", f"得{result}。")
    return carry, result
