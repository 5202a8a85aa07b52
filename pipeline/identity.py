"""What makes a step's artifact what it is, the fingerprint of that, and how two recipes differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from data.artifact import fingerprint

Recipe = dict[str, Any]
"""{"stage", "version", "config", "inputs": {input: [{"name", "fingerprint"}]}, "seed", "convention", "prefill"}"""


def recipe_fingerprint(recipe: Recipe) -> str:
    """Identity of what the recipe makes. The names of its inputs are left out: renaming a step changes nothing.

    Raises TypeError or ValueError for a configuration without a stable JSON form.
    """
    inputs = {name: [source["fingerprint"] for source in sources] for name, sources in recipe["inputs"].items()}
    return fingerprint({**recipe, "inputs": inputs})


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Why the artifact of `old` is not that of `new`: "config.epochs: 1 -> 2", "input init: base changed"."""
    before, after = ({**r, "inputs": None} for r in (old, new))
    lines = list(_values("", before, after))
    for name in sorted(old["inputs"].keys() | new["inputs"].keys()):
        was, now = old["inputs"].get(name, []), new["inputs"].get(name, [])
        names = [", ".join(source["name"] for source in sources) or "nothing" for sources in (was, now)]
        if names[0] != names[1]:
            lines.append(f"input {name}: {names[0]} -> {names[1]}")
        else:
            changed = [n["name"] for w, n in zip(was, now, strict=True) if w["fingerprint"] != n["fingerprint"]]
            lines += [f"input {name}: {', '.join(changed)} changed"] if changed else []
    return lines


_ABSENT = object()


def _values(key: str, old: Any, new: Any) -> Iterator[str]:
    if old == new and type(old) is type(new):
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(old.keys() | new.keys()):
            yield from _values(f"{key}.{name}" if key else name, old.get(name, _ABSENT), new.get(name, _ABSENT))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for at, (was, now) in enumerate(zip(old, new, strict=True)):
            yield from _values(f"{key}.{at}", was, now)
    else:
        yield f"{key}: {_show(old)} -> {_show(new)}"


def _show(value: Any) -> str:
    text = "(absent)" if value is _ABSENT else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
