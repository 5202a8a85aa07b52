"""Which step a name means where steps are repeated in rounds.

Inside a block a name means this round's step, NAME@previous that of the round before and NAME@all those so far;
outside it means the last round's, and NAME@all every round's. NAME-2 is round 2's anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.inheritance import Tree, merge, section_names, step_names
from pipeline.messages import nearest
from pipeline.rounds import Block, Place

PREVIOUS, ALL = "previous", "all"


def wire(tree: Tree, places: Sequence[Place | None], where: str) -> None:
    """Put the steps of single rounds in place of names in `tree`, whose steps come from `places`.

    Raises ValueError naming `where`, the step, its key and the nearest name.
    """
    if not places:
        return
    names = _Names(tree, places, where)
    for step, place in zip(tree["steps"], places, strict=True):
        if isinstance(step, dict):
            names.replace(step, place, f"steps.{step.get('name')}")
            names.replace(step.get("evaluate"), place, f"steps.{step.get('name')}.evaluate")
    names.replace(tree.get("evaluate"), None, "evaluate")
    names.check_first()
    if isinstance(site := tree.get("slurm"), dict) and isinstance(site.get("steps"), dict):
        tree["slurm"] = {**site, "steps": names.spread(site["steps"])}


class _Names:
    def __init__(self, tree: Tree, places: Sequence[Place | None], where: str) -> None:
        self.where = where
        self.blocks = {name: place.block for place in places if place for name in place.block.steps}
        self.known = {*step_names(tree["steps"]), *section_names(tree, "models"), *section_names(tree, "data")}
        self.known |= self.blocks.keys()
        self.asked: dict[str, set[str]] = {block.name: set() for block in self.blocks.values()}
        """By block, the steps whose previous round somebody reads."""

    def replace(self, keys: Any, place: Place | None, at: str) -> None:
        """Every wire (`*_from`) among the keys of a step or of an evaluation."""
        for key, value in keys.items() if isinstance(keys, dict) else ():
            if not str(key).endswith("_from"):
                continue
            if isinstance(value, str):
                found = self._meant(value, place, f"{at}.{key}")
                keys[key] = found[0] if len(found) == 1 and not value.endswith(f"@{ALL}") else found
            elif isinstance(value, list):
                each = [self._meant(v, place, f"{at}.{key}") if isinstance(v, str) else [v] for v in value]
                keys[key] = [name for found in each for name in found]

    def _meant(self, text: str, place: Place | None, at: str) -> list[str]:
        name, mark, which = text.partition("@")
        block = self.blocks.get(name)
        if block is None:
            if mark:
                raise ValueError(f"{self.where}: {at}: no rounds have a step {name!r}{nearest(name, self.blocks)}")
            return [text]
        inside = place is not None and place.block is block
        last = place.round if place is not None and inside else block.rounds
        if not mark:
            return [f"{name}-{last}"]
        if which == ALL:
            return block.all(name, last)
        if which != PREVIOUS:
            raise ValueError(f"{self.where}: {at}: unknown {which!r} in {text!r}{nearest(which, (PREVIOUS, ALL))}")
        if not inside:
            raise ValueError(
                f"{self.where}: {at}: {text!r} has a meaning inside the rounds {block.name!r} only; "
                f"outside, {name!r} is that of the last round"
            )
        return [f"{name}-{last - 1}"] if last > 1 else self._first(block, name, at)

    def _first(self, block: Block, name: str, at: str) -> list[str]:
        self.asked[block.name].add(name)
        start = block.first if isinstance(block.first, str) else (block.first or {}).get(name)
        key = f"{self.where}: steps.{block.name}.first"
        if start is None:
            raise ValueError(f"{key}: {at} is {name}@{PREVIOUS}, and nothing is said to stand for it in round 1")
        found = start.partition("@")[0]
        if found in block.steps:
            raise ValueError(f"{key}: {start!r} is a step of these rounds; name what round 1 starts from")
        if found not in self.known:
            raise ValueError(f"{key}: unknown name {start!r}{nearest(start, self.known - {*block.steps})}")
        return self._meant(start, None, f"steps.{block.name}.first")

    def check_first(self) -> None:
        """Raise ValueError where a block says what round 1 starts from, and nobody reads it: it would not be a loop."""
        for block in {block.name: block for block in self.blocks.values()}.values():
            asked = self.asked[block.name]
            key = f"{self.where}: steps.{block.name}.first"
            if isinstance(block.first, str) and not asked:
                raise ValueError(f"{key}: no step of round 1 reads a NAME@{PREVIOUS}")
            for name in block.first if isinstance(block.first, dict) else ():
                if name not in asked:
                    raise ValueError(f"{key}: no step of round 1 reads {name}@{PREVIOUS}{nearest(str(name), asked)}")

    def spread(self, steps: Tree) -> Tree:
        """Keys by step, where the name of a repeated one stands for all its rounds."""
        found: Tree = {}
        for name, keys in steps.items():
            block = self.blocks.get(name)
            for each in block.all(name, block.rounds) if block else [name]:
                found[each] = keys
        for name, keys in steps.items():
            if name not in self.blocks and isinstance(keys, dict):
                stem = str(name).rpartition("-")[0]
                below = steps.get(stem) if stem in self.blocks else None
                found[name] = merge(below, keys, self.where) if isinstance(below, dict) else keys
        return found
