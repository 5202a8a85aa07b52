"""A sound little configuration with its model and files, to be broken in one place by the tests of `r1 check`."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from data.template import CONVENTIONS
from pipeline.check import Line, check
from stages import STAGES

ROOT = Path(__file__).resolve().parent.parent
TREE: dict[str, Any] = {
    "name": "world",
    "sandbox": "weak",
    "models": {"base": {"path": "base", "evaluate": False}},
    "data": {
        "chains": {"source": "records", "path": "chains.jsonl"},
        "problems": {"source": "records", "path": "problems.jsonl"},
    },
    "steps": [
        {
            "name": "cold_start",
            "stage": "cold_start",
            "init_from": "base",
            "data_from": "chains",
            "batch_size": 4,
            "max_length": 256,
        },
        {
            "name": "rl",
            "stage": "reasoning_rl",
            "init_from": "cold_start",
            "data_from": "problems",
            "prompts_per_step": 4,
            "num_generations": 2,
            "max_completion_tokens": 64,
        },
    ],
}


class World:
    """The files of one test; each method breaks something and returns the world."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree = copy.deepcopy(TREE)
        self.file = folder / "world.yaml"
        shutil.copytree(ROOT / "data" / "tiny" / "base", folder / "base")
        self.rows("problems", [problem(n) for n in range(6)])
        self.rows("chains", [chain(n) for n in range(6)])

    def rows(self, name: str, rows: Sequence[Any]) -> None:
        """Write a file of rows; texts are written as they are."""
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        (self.folder / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    def step(self, name: str, **keys: Any) -> None:
        """Change keys of a step."""
        next(step for step in self.tree["steps"] if step["name"] == name).update(keys)

    def edit(self, file: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change a JSON file of the model."""
        path = self.folder / "base" / file
        tree = json.loads(path.read_text(encoding="utf-8"))
        change(tree)
        path.write_text(json.dumps(tree), encoding="utf-8")

    def check(self, *overrides: str, table: Mapping[str, Any] = STAGES) -> list[Line]:
        """The report."""
        self.file.write_text(yaml.safe_dump(self.tree, sort_keys=False, allow_unicode=True), encoding="utf-8")
        return list(check(self.file, overrides, table, self.folder / "run"))


def problem(number: int, **more: Any) -> dict[str, Any]:
    """A row with an answer."""
    prompt = [{"role": "user", "content": f"What is {number} + 20?"}]
    row = {"id": f"p{number}", "prompt": prompt, "domain": "math", "language": "en", "answer": str(number + 20)}
    return {**row, **more}


def chain(number: int, convention: str = "think_answer", **more: Any) -> dict[str, Any]:
    """A row with a completion."""
    text = CONVENTIONS[convention].render(f"{number} and 20 make {number + 20}.", str(number + 20))
    row = problem(number, id=f"c{number}", completion=[{"role": "assistant", "content": text}])
    return {**row, **more}
