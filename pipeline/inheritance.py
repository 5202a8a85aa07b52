"""One mapping over another, as `extends:` lays a configuration over its parent, and what `without:` leaves out."""

from __future__ import annotations

from typing import Any

from pipeline.messages import nearest, shorten

Tree = dict[str, Any]


def merge(below: Tree, above: Tree, where: str) -> Tree:
    """`above` over `below`: mappings key by key, steps by name, any other value replaced. Raises ValueError."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if key == "steps" and isinstance(old, list) and isinstance(value, list):
            merged[key] = _merge_named(old, value, where)
        elif isinstance(old, dict) and isinstance(value, dict):
            merged[key] = merge(old, value, where)
        else:
            merged[key] = value
    return merged


def _merge_named(below: list[Any], above: list[Any], where: str) -> list[Any]:
    merged: dict[str, Any] = {}
    for step in (*below, *above):
        if not isinstance(step, dict) or not isinstance(step.get("name"), str):
            raise ValueError(f"{where}: steps: each step needs a name, got {shorten(step)}")
        name = step["name"]
        merged[name] = merge(merged[name], step, where) if name in merged else step
    return list(merged.values())


def without(tree: Tree, where: str) -> Tree:
    """Leave out the inherited steps, data and models that `without:` names. Raises ValueError."""
    names = tree.pop("without", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where}: without: expected a list of names, got {shorten(names)}")
    sections = [tree[key] for key in ("models", "data") if isinstance(tree.get(key), dict)]
    known = {*step_names(tree.get("steps")), *section_names(tree, "models"), *section_names(tree, "data")}
    for name in names:
        if name not in known:
            raise ValueError(f"{where}: without: unknown name {name!r}{nearest(name, known)}")
        for section in sections:
            section.pop(name, None)
    if names and isinstance(tree.get("steps"), list):
        tree["steps"] = _kept(tree["steps"], names)
    return tree


def step_names(steps: Any) -> list[str]:
    """Names of the steps of a list, those inside rounds included."""
    found: list[str] = []
    for step in steps if isinstance(steps, list) else []:
        if isinstance(step, dict):
            found += [step["name"]] if isinstance(step.get("name"), str) else []
            found += step_names(step.get("steps"))
    return found


def section_names(tree: Tree, section: str) -> list[str]:
    """Names of the models or of the data of a configuration."""
    entries = tree.get(section)
    return [name for name in entries if isinstance(name, str)] if isinstance(entries, dict) else []


def _kept(steps: list[Any], names: list[str]) -> list[Any]:
    kept = [step for step in steps if not (isinstance(step, dict) and step.get("name") in names)]
    return [
        {**step, "steps": _kept(step["steps"], names)}
        if isinstance(step, dict) and isinstance(step.get("steps"), list)
        else step
        for step in kept
    ]
