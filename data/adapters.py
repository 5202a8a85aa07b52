"""What the adapters share: from one foreign row to the columns of data/records.py.

An adapter is a function `(value, at) -> Row` for one schema. It raises ValueError for a row of the wrong
shape (the file is not what the configuration says) and Unusable for a sound row that nothing can be learned
from. It may leave out `id`, `language` and `source`: sources.py fills them in.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from data.records import Row
from data.template import BOXED, CONVENTIONS, THINK_ANSWER, ZH, Convention


class Unusable(Exception):
    """A sound row that cannot be used; the message is the reason under which it is counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class At:
    """Where a row comes from and what it is prepared for."""

    where: str
    """File and line, for messages."""
    name: str
    """File stem and running number: the row's identity inside its source."""
    seed: int = 0
    convention: str = "think_answer"
    solutions: bool = False
    """Whether the data set's own worked solution is laid out as the completion."""
    calculations: bool = False
    """Whether a solution that notes its calculations is kept in a column of that name, for data/augment.py."""
    split: str | None = None

    @property
    def layout(self) -> Convention:
        """The output convention that completions are laid out in."""
        return CONVENTIONS[self.convention]


Adapter = Callable[[Mapping[str, Any], At], Row]


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest known name, else the list of the known ones."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"


def field(value: Mapping[str, Any], at: At, *names: str) -> Any:
    """The first of the columns `names` that the row has. Raises ValueError when it has none of them."""
    for name in names:
        if name in value:
            return value[name]
    wanted = " or ".join(repr(n) for n in names)
    hint = nearest(names[0], (str(k) for k in value)) if value else ""
    raise ValueError(f"{at.where}: the column {wanted} is missing{hint}")


def text(value: Mapping[str, Any], at: At, *names: str) -> str:
    """A column that must hold text. An empty one makes the row unusable."""
    found = field(value, at, *names)
    if found is None:
        raise Unusable(f"no {names[0]}")
    if not isinstance(found, str):
        raise ValueError(f"{at.where}: column {names[0]!r} must be text, got {type(found).__name__}")
    if not found.strip():
        raise Unusable(f"no {names[0]}")
    return found


def gold(value: Mapping[str, Any], at: At, *names: str) -> str:
    """The gold answer as text: a number loses its trailing `.0`; null and empty make the row unusable."""
    found = field(value, at, *names)
    if isinstance(found, bool) or (found is not None and not isinstance(found, str | int | float)):
        raise ValueError(f"{at.where}: column {names[0]!r} must be text or a number, got {type(found).__name__}")
    if found is None or not str(found).strip():
        raise Unusable("no answer")
    if isinstance(found, float) and found.is_integer():
        return str(int(found))
    return str(found).strip()


def listed(value: Mapping[str, Any], at: At, *names: str) -> list[Any]:
    """A column that must hold a list; null counts as an empty one."""
    found = field(value, at, *names)
    if found is None:
        return []
    if not isinstance(found, list):
        raise ValueError(f"{at.where}: column {names[0]!r} must be a list, got {type(found).__name__}")
    return found


def user(content: str) -> list[dict[str, str]]:
    """A prompt of one user message."""
    return [{"role": "user", "content": content.strip()}]


def assistant(content: str) -> list[dict[str, str]]:
    """A completion of one message."""
    return [{"role": "assistant", "content": content}]


def lay_out(at: At, reasoning: str, answer: str, *, exact: bool = False) -> list[dict[str, str]]:
    """A completion in the run's convention. `exact` says that `answer` is the bare gold, which is put in a
    box where the convention has no answer tags of its own."""
    if not reasoning.strip() or not answer.strip():
        raise Unusable("no worked solution")
    layout = at.layout
    if exact and not layout.answer_open:
        answer = f"\\boxed{{{answer}}}"
    if not layout.reasoning_open:
        return assistant(f"{reasoning.strip()}\n\n{answer.strip()}")
    if any(tag in part for tag in layout.tags for part in (reasoning, answer)):
        raise Unusable("a tag of the output convention inside the text")
    return assistant(layout.render(reasoning, answer))


def relaid(at: At, content: str) -> list[dict[str, str]]:
    """A completion as other models write it (`<think>...</think>`, with or without answer tags) in the run's
    convention; text that has no reasoning block stays as it is."""
    if not content.strip():
        raise Unusable("empty completion")
    for convention in (THINK_ANSWER, ZH, BOXED):
        parsed = convention.parse(content)
        if parsed.well_formed and parsed.reasoning and parsed.answer:
            return lay_out(at, parsed.reasoning, parsed.answer)
    return assistant(content.strip())
