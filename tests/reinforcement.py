"""Run reinforcement on the embedded base in a process that has torch, as small as it can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data.artifact import ROWS_NAME, Artifact, Kind
from data.records import write_rows
from data.tiny.world import rows
from stages.reasoning_rl import REASONING_RL, ReasoningRLConfig
from stages.stage import Context, Outcome, Placement

BASE = Artifact(kind=Kind.MODEL, path=Path("data/tiny/base"), fingerprint="base", name="base")
SMALL: dict[str, Any] = {
    "steps": 4,
    "prompts_per_step": 4,
    "num_generations": 4,
    "max_completion_tokens": 24,
    "beta": 0.0,
    "learning_rate": 1e-4,
    "micro_batch_size": 16,
}


def reinforce(
    folder: Path, count: int = 40, checkpoint_steps: int = 100, domain: str | None = None, **config: Any
) -> Outcome:
    """Train in `folder`, going on where an interrupted run in it stopped. `domain` leaves the other rows out."""
    for name in ("data", "out", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    asked = [row for row in rows("rl", count) if domain in (None, row["domain"])]
    write_rows(folder / "data" / ROWS_NAME, asked)
    data = Artifact(kind=Kind.DATASET, path=folder / "data", fingerprint="rl", name="rl")
    context = Context(
        seed=3,
        convention="think_answer",
        work=folder / "work",
        name="rl",
        sandbox="weak",
        placement=Placement(threads=1, reward_workers=1, checkpoint_steps=checkpoint_steps),
    )
    made = ReasoningRLConfig.model_validate({**SMALL, **config})
    return REASONING_RL.run(made, {"init": [BASE], "data": [data]}, folder / "out", context)


def user_reward(folder: Path, body: str) -> list[dict[str, Any]]:
    """A mix of one reward of the user's own."""
    file = folder / "mine.py"
    file.write_text(f"def mine(prompts, completions, **columns):\n    {body}\n", encoding="utf-8")
    return [{"path": str(file), "function": "mine"}]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
