"""Completions whose score is known beforehand: a row's gold laid out, a wrong one, and texts meant to do harm."""

from __future__ import annotations

from collections.abc import Mapping

from data.adapters import At, Unusable, lay_out
from data.records import Row
from data.template import CONVENTIONS

REASONING = {
    "en": "Read the question again, write down what is known, go through it one step at a time, and then check the "
    "result once more before saying what it is.",
    "zh": "先把题目再读一遍，写下已知的条件，然后一步一步地推导，最后检查得到的结果是否正确，再给出答案。",
}
OPEN_ANSWER = {"en": "This is what I would say about it.", "zh": "关于这个问题，我的看法就是这样。"}
WRONG = ("987654321", "123456789")
"""Right for no problem that anybody asks, and what stands in where it is."""


def good(row: Row, convention: str) -> str | None:
    """The gold of a row behind a sentence of reasoning; None where the row has tests and no program that passes.

    A row with nothing to verify gets an answer that says nothing.
    """
    if row.get("tests") is not None:
        program = _program(row, convention)
        return None if program is None else _laid(row, convention, program, exact=False)
    if isinstance(row.get("answer"), str):
        return _laid(row, convention, row["answer"], exact=True)
    return _laid(row, convention, OPEN_ANSWER.get(row["language"], OPEN_ANSWER["en"]), exact=False)


def wrong(row: Row, convention: str) -> str | None:
    """A well-formed answer that is not the row's."""
    answer = WRONG[WRONG[0] in str(row.get("answer"))]
    return _laid(row, convention, answer, exact=row.get("tests") is None)


def hostile(convention: str) -> Mapping[str, str]:
    """Texts that have hung, crashed or fooled graders, by what they are."""
    layout = CONVENTIONS[convention]
    opening, closing = layout.reasoning_open, layout.reasoning_close
    head = f"{opening}\n.\n{closing}\n{layout.answer_open}\n" if opening else ""
    return {
        "a tower of powers": f"{head}\\boxed{{9^{{9^{{9^{{9^9}}}}}}}}{layout.answer_close}",
        "tags that are never closed": f"{opening or '<think>'}\n" * 500 + layout.answer_open,
        "100 kB of text": f"{head}{'lorem ipsum ' * 8600}{layout.answer_close}",
        "null bytes": f"{head}\x00\x00 4\x00{layout.answer_close}",
        "half a surrogate pair": f"{head}\ud800 4{layout.answer_close}",
    }


def _program(row: Row, convention: str) -> str | None:
    if isinstance(row.get("solution"), str):
        return f"```python\n{row['solution']}\n```"
    if row.get("completion"):
        return CONVENTIONS[convention].parse(row["completion"][-1]["content"]).answer
    return None


def _laid(row: Row, convention: str, answer: str, *, exact: bool) -> str | None:
    reasoning = REASONING.get(row["language"], REASONING["en"])
    try:
        return lay_out(At(where="", name="", convention=convention), reasoning, answer, exact=exact)[0]["content"]
    except Unusable:
        return None
