"""YAML files to one plain mapping: `extends:`, variables, dotted overrides, rounds. What the keys mean is config.py's.

JSON is YAML, so the resolved configuration that a run writes can be run again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline import round_names, rounds
from pipeline.inheritance import Tree, merge, step_names, without
from pipeline.messages import nearest, shorten

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
        tree = without(_with_parents(file, ()), str(file))
        of_one_round = [text for text in overrides if not _override(tree, text)]
        for block in rounds.blocks(tree):
            for key in {"rounds", "first"} & block.keys():
                block[key] = _fill(block[key], _variables(tree, file), f"{file}: steps.{block.get('name')}.{key}", ())
        places = rounds.unroll(tree, str(file))
        for text in of_one_round:
            _override(tree, text)
        variables = _variables(tree, file)
        tree = {key: _fill(value, variables, f"{file}: {key}", ()) for key, value in tree.items()}
        round_names.wire(tree, places, str(file))
        return tree
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
    return merge(_with_parents((file.parent / parent).resolve(), (*children, file)), tree, str(file))


def anchor_paths(tree: Tree, folder: Path) -> None:
    """Make the paths of models, data, rewards and verdicts absolute: they are relative to the file that states them.

    A path with a variable waits until it is filled in; it is relative to the configuration that is run.
    """
    entries = [entry for section in ("models", "data") for entry in _items(tree.get(section))]
    steps = rounds.steps_of(tree)
    for owner in (tree, *steps):
        for holder in (owner, owner.get("evaluate")):
            entries += _items(holder.get("rewards")) if isinstance(holder, dict) else []
    for entry in entries:
        path = entry.get("path") if isinstance(entry, dict) else None
        if isinstance(path, str):
            entry["path"] = _anchored(path, folder)
        elif isinstance(path, list):
            entry["path"] = [_anchored(p, folder) if isinstance(p, str) else p for p in path]
    for step in steps:
        if isinstance(step.get("reviewed"), str) and step["reviewed"]:
            step["reviewed"] = _anchored(step["reviewed"], folder)
    for entry in _items(tree.get("data")):
        copies = entry.get("augment") if isinstance(entry, dict) else None
        if isinstance(copies, dict) and isinstance(copies.get("table"), str):
            copies["table"] = _anchored(copies["table"], folder)


def _anchored(path: str, folder: Path) -> str:
    return path if "${" in path else str((folder / Path(path).expanduser()).resolve())


def _items(section: Any) -> list[Any]:
    return list(section.values()) if isinstance(section, dict) else section if isinstance(section, list) else []


def _override(tree: Tree, text: str) -> bool:
    """Apply one `a.b=value`; an item of a list is reached by its `name` or its index.

    Returns False, and leaves `tree` alone, for a step of one round while the rounds are not unrolled.
    """
    dotted, equals, value = text.partition("=")
    if not equals or not dotted or "" in dotted.split("."):
        raise ValueError(f"--set {text}: expected KEY=VALUE, as in steps.cold_start.epochs=1")
    parts = rounds.located(tree, dotted.split("."))
    if parts is None:
        return False
    *parents, last = parts
    place: Any = tree
    for part in parents:
        place = place.setdefault(part, {}) if isinstance(place, dict) else place[_index(place, part, text)]
        if not isinstance(place, dict | list):
            raise ValueError(f"--set {text}: {part!r} is {shorten(place)} and has no keys")
    place[last if isinstance(place, dict) else _index(place, last, text)] = _parse(value, f"--set {text}")
    return True


def _index(items: list[Any], part: str, text: str) -> int:
    names = [str(item.get("name", "")) if isinstance(item, dict) else "" for item in items]
    if part in names:
        return names.index(part)
    if part.isdecimal() and int(part) < len(items):
        return int(part)
    known = step_names(items) or [str(number) for number in range(len(items))]
    raise ValueError(f"--set {text}: unknown name {part!r}{nearest(part, known)}")


def _variables(tree: Tree, file: Path) -> Tree:
    variables = tree.get("vars") or {}
    if not isinstance(variables, dict):
        raise ValueError(f"{file}: vars: expected names and values, got {shorten(variables)}")
    return variables


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
