"""Rounds: a block of steps that is written once and unrolled into plain steps, one copy for each round.

    - name: loop
      rounds: 3
      first: base                                  # what NAME@previous is in round 1
      steps:
        - {name: sample, stage: rejection_sampling, init_from: tune@previous, data_from: problems}
        - {name: tune, stage: cold_start, init_from: base, data_from: sample@all}

becomes the steps sample-1, tune-1, sample-2, tune-2, sample-3, tune-3. Which step a name then means is
round_names.py's. Nothing behind the reader of configurations knows of rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.inheritance import Tree, merge, section_names, step_names
from pipeline.messages import nearest, shorten
from pipeline.names import NAME

KEYS = ("name", "rounds", "first", "steps", "changes")
"""Keys of a block. `changes` lays keys over the steps of single rounds: {tune-2: {learning_rate: 1e-4}}."""

MOST = 1000
"""Rounds of one block."""

NUMBER = "${round}"
"""Stands for the number of the round, from 1, in the steps of a block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A block, checked."""

    name: str
    rounds: int
    first: str | Mapping[str, str] | None
    steps: tuple[str, ...]
    """Names of its steps as they are written, without the number of a round."""

    def all(self, step: str, last: int) -> list[str]:
        """The names of `step` in the rounds from 1 to `last`."""
        return [f"{step}-{number}" for number in range(1, last + 1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where an unrolled step comes from."""

    block: Block
    round: int


def is_block(step: Any) -> bool:
    """Whether an entry of `steps` repeats steps instead of being one."""
    return isinstance(step, dict) and "stage" not in step and ("rounds" in step or isinstance(step.get("steps"), list))


def blocks(tree: Tree) -> list[Tree]:
    """The blocks of a configuration as they are written."""
    steps = tree.get("steps")
    return [step for step in steps if is_block(step)] if isinstance(steps, list) else []


def steps_of(tree: Tree) -> list[Tree]:
    """Every mapping that holds keys of a step: plain steps, those inside blocks, and their changes."""
    steps = tree.get("steps")
    found = [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
    for block in blocks(tree):
        changes = block.get("changes")
        inside = block.get("steps")
        found += [step for step in inside if isinstance(step, dict)] if isinstance(inside, list) else []
        found += [step for step in changes.values() if isinstance(step, dict)] if isinstance(changes, dict) else []
    return found


def located(tree: Tree, key: list[str]) -> list[str] | None:
    """The place of a dotted key: "steps.tune.epochs" lies in the block of `tune`. None for a step of one round."""
    steps = tree.get("steps")
    if key[0] != "steps" or len(key) == 1 or not isinstance(steps, list):
        return key
    if any(isinstance(step, dict) and step.get("name") == key[1] for step in steps):
        return key
    stem, _, number = key[1].rpartition("-")
    for block in blocks(tree):
        inside = block.get("steps")
        names = [s.get("name") for s in inside if isinstance(s, dict)] if isinstance(inside, list) else []
        if key[1] in names:
            return ["steps", str(block.get("name")), *key]
        if stem in names and number.isdecimal():
            return None
    return key


def unroll(tree: Tree, where: str) -> list[Place | None]:
    """Replace each block among the steps of `tree` by its copies. Returns where each step comes from.

    Raises ValueError naming `where`, the block, its key and the nearest name.
    """
    if not blocks(tree):
        return []
    steps: list[Any] = []
    places: list[Place | None] = []
    for step in tree["steps"]:
        if not is_block(step):
            steps.append(step)
            places.append(None)
            continue
        block = _checked(step, where)
        changes = step.get("changes") or {}
        for number in range(1, block.rounds + 1):
            for name, inside in zip(block.steps, step["steps"], strict=True):
                named = {**inside, "name": f"{name}-{number}"}
                steps.append(_numbered(merge(named, changes.get(named["name"], {}), where), number))
                places.append(Place(block=block, round=number))
    _check_names(tree, places, where)
    tree["steps"] = steps
    return places


def _checked(step: Tree, where: str) -> Block:
    if not isinstance(step.get("name"), str) or not NAME.fullmatch(step["name"]):
        raise ValueError(f"{where}: steps: rounds need a name of letters, digits, - and _, got {shorten(step)}")
    where = f"{where}: steps.{step['name']}"
    for key in step:
        if key not in KEYS:
            raise ValueError(f"{where}: unknown key {key!r}{nearest(str(key), KEYS)}")
    for key in ("rounds", "steps"):
        if key not in step:
            raise ValueError(f"{where}: the key {key!r} is missing")
    number, inside, first = step["rounds"], step["steps"], step.get("first")
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MOST:
        raise ValueError(f"{where}.rounds: expected a whole number from 1 to {MOST}, got {shorten(number)}")
    if not isinstance(inside, list) or not inside:
        raise ValueError(f"{where}.steps: expected one or more steps, got {shorten(inside)}")
    for one in inside:
        if is_block(one):
            raise ValueError(f"{where}.steps: rounds do not go inside rounds, got {shorten(one)}")
        if not isinstance(one, dict) or not isinstance(one.get("name"), str) or not NAME.fullmatch(one["name"]):
            raise ValueError(f"{where}.steps: each step needs a name of letters, digits, - and _, got {shorten(one)}")
    names = first.values() if isinstance(first, dict) else [] if first is None else [first]
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where}.first: expected a name, or a name for each step, got {shorten(first)}")
    block = Block(name=step["name"], rounds=number, first=first, steps=tuple(one["name"] for one in inside))
    _check_changes(step.get("changes"), block, where)
    return block


def _check_changes(changes: Any, block: Block, where: str) -> None:
    if changes is not None and not isinstance(changes, dict):
        raise ValueError(f"{where}.changes: expected steps of single rounds and their keys, got {shorten(changes)}")
    known = [name for step in block.steps for name in block.all(step, block.rounds)]
    for name, keys in (changes or {}).items():
        if name not in known:
            raise ValueError(f"{where}.changes: unknown step {name!r}{nearest(str(name), known)}")
        if not isinstance(keys, dict) or "name" in keys:
            raise ValueError(f"{where}.changes.{name}: expected keys other than the name, got {shorten(keys)}")


def _check_names(tree: Tree, places: Sequence[Place | None], where: str) -> None:
    """The name of a block, of a step inside one or of its copies belongs to nothing else: it would mean two things."""
    taken = dict.fromkeys(step_names([step for step in tree["steps"] if not is_block(step)]), "step")
    for section, kind in (("data", "dataset"), ("models", "model")):
        taken |= dict.fromkeys(section_names(tree, section), kind)
    for block in {id(place.block): place.block for place in places if place}.values():
        copies = [name for step in block.steps for name in block.all(step, block.rounds)]
        for name in (block.name, *block.steps, *copies):
            if name in taken:
                raise ValueError(f"{where}: steps.{block.name}: the name {name!r} is already that of a {taken[name]}")
            taken[name] = "block of rounds" if name == block.name else f"step of {block.name!r}"


def _numbered(value: Any, number: int) -> Any:
    """A copy of `value`, down to its leaves, with the number of the round filled in."""
    if isinstance(value, dict):
        return {key: _numbered(item, number) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbered(item, number) for item in value]
    if not isinstance(value, str):
        return value
    return number if value == NUMBER else value.replace(NUMBER, str(number))
