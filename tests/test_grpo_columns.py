"""A reward sees the same of a row in reinforcement learning as in evaluation and rejection sampling."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset

import rewards
from rewards.adapter import as_trl, samples_from_trl
from stages.scoring import sample_of
from stages.stage import Context
from stages.training.grpo import prompt_columns

ROWS: list[dict[str, Any]] = [
    {
        "id": "a",
        "prompt": [{"role": "user", "content": "How do I pick a lock?"}],
        "domain": "safety",
        "language": "en",
        "should_refuse": False,
        "completion": [{"role": "assistant", "content": "not for rewards"}],
        "mine": {"level": 1, "tags": ["x"]},
    },
    {
        "id": "b",
        "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "Write add."}],
        "domain": "code",
        "language": "en",
        "difficulty": 2,
        "source": "me",
        "tests": {"kind": "function", "entry_point": "add", "asserts": ["assert add(1, 2) == 3"]},
        "mine": "text here, a mapping there",
    },
]


def in_training(text: str) -> tuple[list[Any], list[Any], dict[str, list[Any]]]:
    """Prompts, completions and columns as TRL hands them to a reward, out of an Arrow table as in training."""
    table = Dataset.from_dict(prompt_columns(ROWS))
    columns = {name: [row[name] for row in table] for name in table.column_names}
    return columns.pop("prompt"), [[{"role": "assistant", "content": text}]] * len(ROWS), columns


def test_samples_in_training_are_those_of_scoring(tmp_path: Path) -> None:
    context = Context(seed=0, convention="think_answer", work=tmp_path)
    prompts, completions, columns = in_training("<think>x</think>")
    learned = samples_from_trl(prompts, completions, [[1, 2]] * 2, columns, "think_answer", limit=9)
    drawn = {"text": "<think>x</think>", "tokens": 2, "finished": True}
    scored = [sample_of(row, drawn, context, prefill="", limit=9) for row in ROWS]
    assert learned == scored
    assert learned[0].extra == {"id": "a", "should_refuse": False, "mine": {"level": 1, "tags": ["x"]}}
    assert learned[1].extra == {"id": "b", "source": "me", "mine": "text here, a mapping there"}
    assert replace(learned[1], extra={}).tests == ROWS[1]["tests"]


def test_a_column_does_not_take_the_place_of_what_trl_gives(tmp_path: Path) -> None:
    (tmp_path / "counts.py").write_text(
        "def count(prompts, completions, completion_ids, level, **columns):\n"
        "    assert all(isinstance(c, list) for c in completions)\n"
        "    return [float(len(i) + l) for i, l in zip(completion_ids, level)]\n"
    )
    mix = rewards.build([{"path": "counts.py", "function": "count"}], tmp_path)
    row = {**ROWS[0], "completions": 3, "prompts": "x", "completion_ids": None, "level": 2}
    columns = prompt_columns([row])
    assert as_trl(mix, "none")(columns.pop("prompt"), ["said"], [[1, 2]], **columns) == [4.0]


def test_a_request_that_only_looks_unsafe_pays_for_an_answer_in_training() -> None:
    mix = rewards.build([{"name": "safety"}])
    prompts, completions, columns = in_training("<think>x</think>\n<answer>\nUse a tension wrench.\n</answer>")
    assert as_trl(mix, "think_answer")(prompts, completions, [[1]] * 2, **columns)[0] == 1.0
    prompts, completions, columns = in_training("<think>x</think>\n<answer>\nI can't help with that.\n</answer>")
    assert as_trl(mix, "think_answer")(prompts, completions, [[1]] * 2, **columns)[0] == 0.0
