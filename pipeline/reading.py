"""YAML files to one plain mapping: `extends:`, `${vars.x}`, dotted overrides. What the keys mean is config.py's.

JSON is YAML, so the resolved configuration that a run writes can be run again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.messages import nearest, shorten

Tree = dict[str, Any]

_VARIABLE = re.compile(r"\$\{([^}]*)\}")


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number and a key that occurs twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} occurs twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read(file: Path, overrides: Sequence[str] = ()) -> Tree:
    """The merged, overridden and interpolated mapping of `file`. Raises ValueError with one line."""
    try:
        tree = _without(_with_parents(file, ()), str(file))
        for text in overrides:
            _override(tree, text)
        return _interpolate(tree, file)
    except RecursionError:
        raise ValueError(f"{file}: nested too deeply, or an alias (*name) stands inside its own anchor") from None


def assignments(overrides: Sequence[str]) -> Tree:
    """The mapping that `a.b=value` texts describe by themselves. Raises ValueError with one line."""
    tree: Tree = {}
    for text in overrides:
        _override(tree, text)
    return tree


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{where}:{line}: not YAML ({error.problem})") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not YAML ({' '.join(str(error).split())})") from None


def _with_parents(file: Path, children: tuple[Path, ...]) -> Tree:
    if file in children:
        raise ValueError(f"{children[-1]}: extends: {' -> '.join(f.name for f in (*children, file))} is a circle")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        by = f" (extended by {children[-1]})" if children else ""
        raise ValueError(f"{file}: cannot be read: {reason}{by}") from None
    tree = _parse(text, str(file))
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ValueError(f"{file}: expected keys and values at the top level")
    anchor_paths(tree, file.parent)
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent, str):
        raise ValueError(f"{file}: extends: expected the name of one file, got {shorten(parent)}")
    return _merge(_with_parents((file.parent / parent).resolve(), (*children, file)), tree, str(file))


def anchor_paths(tree: Tree, folder: Path) -> None:
    """Make the paths of models, data and rewards absolute, for they are relative to the file that states them.

    A path with a variable waits until it is filled in; it is relative to the configuration that is run.
    """
    entries = [entry for section in ("models", "data") for entry in _items(tree.get(section))]
    steps = [step for step in _items(tree.get("steps")) if isinstance(step, dict)]
    for owner in (tree, *steps):
        for holder in (owner, owner.get("evaluate")):
            entries += _items(holder.get("rewards")) if isinstance(holder, dict) else []
    for entry in entries:
        path = entry.get("path") if isinstance(entry, dict) else None
        if isinstance(path, str):
            entry["path"] = _anchored(path, folder)
        elif isinstance(path, list):
            entry["path"] = [_anchored(p, folder) if isinstance(p, str) else p for p in path]
    for entry in _items(tree.get("data")):
        copies = entry.get("augment") if isinstance(entry, dict) else None
        if isinstance(copies, dict) and isinstance(copies.get("table"), str):
            copies["table"] = _anchored(copies["table"], folder)


def _anchored(path: str, folder: Path) -> str:
    return path if "${" in path else str((folder / Path(path).expanduser()).resolve())


def _items(section: Any) -> list[Any]:
    return list(section.values()) if isinstance(section, dict) else section if isinstance(section, list) else []


def _merge(below: Tree, above: Tree, where: str) -> Tree:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if key == "steps" and isinstance(old, list) and isinstance(value, list):
            merged[key] = _merge_named(old, value, where)
        elif isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merge(old, value, where)
        else:
            merged[key] = value
    return merged


def _merge_named(below: list[Any], above: list[Any], where: str) -> list[Any]:
    merged: dict[str, Any] = {}
    for step in (*below, *above):
        if not isinstance(step, dict) or not isinstance(step.get("name"), str):
            raise ValueError(f"{where}: steps: each step needs a name, got {shorten(step)}")
        name = step["name"]
        merged[name] = _merge(merged[name], step, where) if name in merged else step
    return list(merged.values())


def _without(tree: Tree, where: str) -> Tree:
    """Leave out the inherited steps, data and models that `without:` names."""
    names = tree.pop("without", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where}: without: expected a list of names, got {shorten(names)}")
    steps = tree.get("steps") if isinstance(tree.get("steps"), list) else []
    sections = [tree[key] for key in ("models", "data") if isinstance(tree.get(key), dict)]
    known = {step.get("name") for step in steps or [] if isinstance(step, dict)} | {n for s in sections for n in s}
    for name in names:
        if name not in known:
            raise ValueError(f"{where}: without: unknown name {name!r}{nearest(name, map(str, known))}")
        for section in sections:
            section.pop(name, None)
    if steps:
        tree["steps"] = [s for s in steps if not (isinstance(s, dict) and s.get("name") in names)]
    return tree


def _override(tree: Tree, text: str) -> None:
    """Apply one `a.b=value`; an item of a list is reached by its `name` or its index."""
    dotted, equals, value = text.partition("=")
    if not equals or not dotted or "" in dotted.split("."):
        raise ValueError(f"--set {text}: expected KEY=VALUE, as in steps.cold_start.epochs=1")
    *parents, last = dotted.split(".")
    place: Any = tree
    for part in parents:
        place = place.setdefault(part, {}) if isinstance(place, dict) else place[_index(place, part, text)]
        if not isinstance(place, dict | list):
            raise ValueError(f"--set {text}: {part!r} is {shorten(place)} and has no keys")
    place[last if isinstance(place, dict) else _index(place, last, text)] = _parse(value, f"--set {text}")


def _index(items: list[Any], part: str, text: str) -> int:
    names = [str(item.get("name", "")) if isinstance(item, dict) else "" for item in items]
    if part in names:
        return names.index(part)
    if part.isdigit() and int(part) < len(items):
        return int(part)
    known = [name for name in names if name] or [str(number) for number in range(len(items))]
    raise ValueError(f"--set {text}: unknown name {part!r}{nearest(part, known)}")


def _interpolate(tree: Tree, file: Path) -> Tree:
    variables = tree.get("vars") or {}
    if not isinstance(variables, dict):
        raise ValueError(f"{file}: vars: expected names and values, got {shorten(variables)}")
    return {key: _fill(value, variables, f"{file}: {key}", ()) for key, value in tree.items()}


def _fill(value: Any, variables: Mapping[str, Any], where: str, inside: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _fill(item, variables, f"{where}.{key}", inside) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, variables, f"{where}.{number}", inside) for number, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    whole = _VARIABLE.fullmatch(value)
    if whole:
        return _variable(whole[1], variables, where, inside)
    return _VARIABLE.sub(lambda match: str(_variable(match[1], variables, where, inside)), value)


def _variable(reference: str, variables: Mapping[str, Any], where: str, inside: tuple[str, ...]) -> Any:
    prefix, _, name = reference.partition(".")
    if prefix != "vars" or not name:
        raise ValueError(f"{where}: ${{{reference}}} is not known; write ${{vars.NAME}}")
    if name not in variables:
        raise ValueError(f"{where}: unknown variable {name!r}{nearest(name, map(str, variables))}")
    if name in inside:
        raise ValueError(f"{where}: the variables {' -> '.join((*inside, name))} are a circle")
    return _fill(variables[name], variables, where, (*inside, name))
