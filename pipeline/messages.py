"""One clear line for a user's mistake: where it is, what is wrong, the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def nearest(name: str, known: Iterable[str]) -> str:
    """What to append to "unknown X 'name'": the closest known name, or all of them where none is close."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6) or [n for n in names if name and n.startswith(name)]
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else "; there are none"


def shorten(value: object, width: int = 60) -> str:
    """`value` as it is written in code, cut to `width` characters."""
    text = repr(value)
    return text if len(text) <= width else text[: width - 3] + "..."


_EXPECTED = {
    "tuple_type": "expected a list",
    "dict_type": "expected keys and values",
    "model_type": "expected keys and values",
}
"""Findings of pydantic in the terms of YAML."""


def checked_seed(value: object, where: str) -> int:
    """`value` as a seed that every random generator takes. Raises ValueError for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**32:
        raise ValueError(f"{where}: expected a whole number from 0 to 2**32 - 1, got {shorten(value)}")
    return value


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """The first finding of pydantic as one line that begins with `where` ("file.yaml: steps.cold_start")."""
    findings = error.errors()
    first = findings[0]
    # A union names its branch: dict[str,any], bool.
    loc = tuple(part for part in first["loc"] if "[" not in str(part) and part not in ("bool", "str"))
    place = ": ".join([where, *([".".join(map(str, loc))] if loc else [])])
    if first["type"] == "extra_forbidden":
        parent = ": ".join([where, *([".".join(map(str, loc[:-1]))] if loc[1:] else [])])
        line = f"{parent}: unknown key {loc[-1]!r}{nearest(str(loc[-1]), _keys_at(model, loc[:-1]))}"
    elif first["type"] == "missing":
        parent = ": ".join([where, *([".".join(map(str, loc[:-1]))] if loc[1:] else [])])
        line = f"{parent}: the key {loc[-1]!r} is missing"
    elif first["type"] in ("value_error", "assertion_error"):
        line = f"{place}: {first['msg'].partition(', ')[2]}"
    else:
        message = _EXPECTED.get(first["type"]) or first["msg"][:1].lower() + first["msg"][1:]
        line = f"{place}: {message}, got {shorten(first['input'])}"
    more = len(findings) - 1
    return " ".join(line.split()) + (f" (and {more} more)" if more else "")


def _keys_at(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    models = [model]
    for part in loc:
        inside = [m.model_fields[part].annotation for m in models if isinstance(part, str) and part in m.model_fields]
        if inside:
            models = [found for annotation in inside for found in _models_in(annotation)]
    return [name for m in models for name in m.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]
