r"""Finding the final answer in what the reader is shown; linear time, no fallback to "the last number".

In order: the last balanced `\boxed{}` of the final 4,000 characters, GSM8K's `####`, "the answer is ...", and
a text of one line taken whole. The reasoning never reaches this module.
"""

from __future__ import annotations

import re

WINDOW = 4000
"""Characters from the end in which a box is looked for."""

LONGEST = 1000
"""Characters; a longer final answer is refused."""

_SAYS = re.compile(
    r"(?:final answer|answer|答案|最终答案|结果)\s*(?:is|are|was|equals|:|：|=|是|为)+\s*:?\s*(.+)", re.IGNORECASE
)
_FENCES = "*_ \t$"


def final_answer(shown: str) -> str | None:
    """The answer in `shown` (the text after the reasoning), or None where there is none to be found."""
    tail = shown[-WINDOW:]
    boxed = _last_boxes(tail)
    if boxed is not None:
        return boxed
    if "####" in tail:
        return tail.rpartition("####")[2].strip().partition("\n")[0].strip() or None
    lines = [line for line in tail.strip().splitlines() if line.strip()]
    if not lines:
        return None
    said = _SAYS.search(lines[-1])
    if said is not None:
        return said[1].strip(_FENCES) or None
    whole = shown.strip()
    if len(lines) == 1 and len(whole) <= LONGEST:
        return whole
    return whole if "\\begin{" in whole and len(whole) <= LONGEST else lines[-1].strip()


def _last_boxes(text: str) -> str | None:
    r"""Contents of the last `\boxed{}`; several in one sentence ("\boxed{1} or \boxed{2}") are parts of one answer."""
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    last = box_content(text, start)
    if last is None:
        return ""
    line_start = max(text.rfind("\n", 0, start), text.rfind(". ", 0, start)) + 1
    parts = [last]
    before = text.rfind("\\boxed", line_start, start)
    while before >= 0 and len(parts) < 20:
        content = box_content(text, before)
        between = text[before:start]
        if content is None or not _JOINED.search(between[len(content) :]):
            break
        parts.insert(0, content)
        start = before
        before = text.rfind("\\boxed", line_start, before)
    return ",".join(parts)


_JOINED = re.compile(r"\}[$\s\\)]*(?:,|，|、|and|or|和|或)[^.\n]{0,24}$")


def box_content(text: str, start: int) -> str | None:
    r"""What stands in the balanced braces of the `\boxed` at `start`; None if they are never closed."""
    position = start + len("\\boxed")
    while position < len(text) and text[position] == " ":
        position += 1
    if position >= len(text) or text[position] != "{":
        word = re.match(r"\S", text[position:])
        return word[0] if word is not None else None
    depth = 0
    for index in range(position, len(text)):
        char = text[index]
        if char == "{" and text[index - 1] != "\\":
            depth += 1
        elif char == "}" and text[index - 1] != "\\":
            depth -= 1
            if depth == 0:
                return text[position + 1 : index]
    return None
