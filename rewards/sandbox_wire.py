"""Plain data between two processes that do not trust each other: JSON with tags for what JSON cannot tell apart.

`encode` reduces subclasses to their builtin base; `decode` builds nothing but builtin values, so whatever comes
over the wire, comparing with it never runs code of the other side. Both work on one line of text.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

MAX_DEPTH = 200
MAX_ITEMS = 100_000
"""How much of an iterator is looked at; one that never ends is cut off here."""


def encode(value: object) -> str:
    """One line of ASCII. Raises TypeError for anything but plain data, ValueError if it is nested too deeply."""
    return json.dumps(_reduce(value, 0), ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def decode(text: str | bytes) -> Any:
    """Inverse of `encode`. Raises ValueError for anything that `encode` does not write."""
    try:
        return from_plain(json.loads(text))
    except RecursionError as error:
        raise ValueError(f"malformed message: {error}") from None


def from_plain(value: Any) -> Any:
    """Like `decode`, for a message whose JSON is already parsed."""
    try:
        return _build(value, 0)
    except (TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"malformed message: {error}") from None


def _reduce(value: object, depth: int) -> object:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    deeper = depth + 1
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        # Hexadecimal: decimal conversion of huge integers is slow, and limited by the interpreter.
        plain = int.__index__(value)
        return plain if -(2**63) < plain < 2**63 else {"i": format(plain, "x")}
    if isinstance(value, float):
        return {"f": float.hex(value)}
    if isinstance(value, complex):
        return {"c": [float.hex(value.real), float.hex(value.imag)]}
    if isinstance(value, (bytes, bytearray)):
        return {"y" if isinstance(value, bytes) else "Y": bytes(value).hex()}
    if isinstance(value, list):
        return [_reduce(item, deeper) for item in list.__iter__(value)]
    if isinstance(value, dict):
        return {"d": [[_reduce(k, deeper), _reduce(v, deeper)] for k, v in dict.items(value)]}
    if isinstance(value, range):
        return {"r": [value.start, value.stop, value.step]}
    for tag, kind in _COLLECTIONS.items():
        if isinstance(value, kind):
            return {tag: [_reduce(item, deeper) for item in kind.__iter__(value)]}
    if isinstance(value, Iterator):
        return {"g": [_reduce(item, deeper) for item in itertools.islice(value, MAX_ITEMS)]}
    raise TypeError(f"{type(value).__name__} is not plain data")


_COLLECTIONS: dict[str, Any] = {"t": tuple, "s": set, "z": frozenset}


def _build(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH + 1:
        raise ValueError("malformed message: nested too deeply")
    deeper = depth + 1
    if isinstance(value, list):
        return [_build(item, deeper) for item in value]
    if isinstance(value, float):
        raise ValueError("malformed message: a bare float")
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ValueError("malformed message: not exactly one tag")
    ((tag, inner),) = value.items()
    if tag in _COLLECTIONS:
        return _COLLECTIONS[tag](_build(item, deeper) for item in inner)
    if tag == "g":
        return iter([_build(item, deeper) for item in inner])
    if tag == "d":
        return {_build(key, deeper): _build(item, deeper) for key, item in inner}
    if tag in _SCALARS:
        return _SCALARS[tag](inner)
    raise ValueError(f"malformed message: unknown tag {tag[:20]!r}")


_SCALARS: dict[str, Callable[[Any], Any]] = {
    "i": lambda text: int(text, 16),
    "f": float.fromhex,
    "c": lambda parts: complex(float.fromhex(parts[0]), float.fromhex(parts[1])),
    "y": bytes.fromhex,
    "Y": bytearray.fromhex,
    "r": lambda bounds: range(*bounds),
}
