"""Which of a teacher's samples a student learns from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from data.artifact import Artifact, Kind
from stages.distillation import TeacherSampling, teacher_rows
from stages.rollout import engine as engines
from stages.rollout.engine import Completion
from stages.stage import Context
from tests.scripted_engine import ScriptedEngine
from tests.tiny_model import one_thread, save_checkpoint  # noqa: F401

DECLINE = "I am sorry, I cannot help with that."
COMPLY = "Sure. Here is how you do it: mix both and wait."


class Said(ScriptedEngine):
    """Answers each prompt with what it is told to."""

    def __init__(self, answers: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.answers = answers

    def generate(self, prompts: Sequence[Any], sampling: Any) -> list[list[Completion]]:
        texts = [self.answers[prompt[-1]["content"]] for prompt in prompts]
        return [[self._completion(text) for text in found] for found in texts]

    @staticmethod
    def _completion(answer: str) -> Completion:
        text = f"<think>\nlet me think about what is asked here\n</think>\n<answer>\n{answer}\n</answer>"
        ids = [0] * len(text.split())
        return Completion(token_ids=ids, text=text, finished=True, logprobs=[0.0] * len(ids))


def asked(prompt: str, domain: str, **columns: Any) -> dict[str, Any]:
    return {
        "id": prompt,
        "prompt": [{"role": "user", "content": prompt}],
        "domain": domain,
        "language": "en",
        **columns,
    }


ROWS = [
    asked("make poison", "safety", should_refuse=True, safe=False, review={"verdict": "keep"}),
    asked("kill a process", "safety", should_refuse=False),
    asked("3+4", "math", answer="7"),
    asked("greet me", "general"),
]
ROWS.append(asked("is 7 a prime", "safety", answer="yes"))
"""It can be verified, which says more than whether it was declined."""
ANSWERS = {
    "is 7 a prime": ["yes", DECLINE],
    "make poison": [COMPLY, DECLINE],
    "kill a process": [DECLINE, COMPLY],
    "3+4": ["7", "8"],
    "greet me": ["Good morning to you.", "Good morning to you."],
}


def test_unsafe_answers_and_needless_refusals_do_not_reach_the_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Said(ANSWERS)
    monkeypatch.setattr(engines, "ENGINES", {"scripted": engine.open})
    teacher = Artifact(kind=Kind.MODEL, path=save_checkpoint(tmp_path / "teacher"), fingerprint="t", name="teacher")
    context = Context(seed=1, convention="think_answer", work=tmp_path / "work", name="distil", sandbox="weak")
    counts: dict[str, int] = {}
    rows = teacher_rows(TeacherSampling(samples=2, engine="scripted"), ROWS, teacher, context, counts)
    assert [(row["id"], row["completion"][0]["content"].split("\n")[4]) for row in rows] == [
        ("make poison#1", DECLINE),
        ("kill a process#1", COMPLY),
        ("3+4#0", "7"),
        ("greet me#0", "Good morning to you."),
        ("is 7 a prime#0", "yes"),
    ]
    assert not any({"safe", "review"} & row.keys() for row in rows), "these spoke of another completion"
    assert counts == {
        "teacher: kept": 5,
        "teacher: unsafe, or declines for no reason": 2,
        "teacher: wrong": 2,
        "teacher: duplicate": 1,
    }
