"""Data that a step cannot learn from is refused once it is prepared, before anything trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load
from pipeline.fitness import check_fitness
from pipeline.graph import build
from pipeline.runner import Options, run
from stages import STAGES
from tests.toy_project import project, toy_row

SAID = [{"role": "assistant", "content": "two"}]
PHASES = [{"name": "p", "weights": {"math": 1, "general": 1}}]


def refused(folder: Path, stage: str, row: dict[str, Any], **keys: Any) -> str | None:
    """What is said about a step of `stage` whose data is made of `row` and one like it of the domain general."""
    step = {"name": "s", "stage": stage, "init_from": "base", "data_from": "rows", **keys}
    file = project(folder, steps=[step], evaluate=None)
    both = [toy_row(1) | row, toy_row(2) | row | {"domain": "general"}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in both))
    try:
        check_fitness(build(load(file), STAGES, file), {"rows": folder})
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("stage", "row", "keys", "message"),
    [
        ("cold_start", {"answer": "2"}, {}, "steps.s.data_from: none of 2 rows has a completion to learn"),
        ("sft_mix", {"answer": "2"}, {"phases": PHASES}, "steps.s.data_from: none of 2 rows has a completion to learn"),
        ("distillation", {}, {}, "steps.s.data_from: none of 2 rows has a completion to learn"),
        ("preference_model", {"completion": SAID}, {}, "none of 2 rows has a pair (columns chosen and rejected)"),
        ("safety_model", {"answer": "2"}, {}, "none of 2 rows has an answer to learn from"),
        ("reasoning_rl", {"completion": SAID}, {}, "none of 2 rows has an answer or tests to verify against"),
        ("rejection_sampling", {}, {}, "none of 2 rows has an answer or tests to verify against"),
        (
            "sft_mix",
            {"completion": SAID},
            {"phases": [{"name": "p", "weights": {"maths": 1}}]},
            "steps.s.phases.p.weights: no row of the domain 'maths'; did you mean 'math'?",
        ),
        (
            "sft_mix",
            {"completion": SAID},
            {"phases": [{"name": "p", "weights": {"math": 1, "general": 1}, "rows": 6}]},
            "steps.s.phases.p: 'math' has 1 rows, the mixture needs 3; take fewer, lower its weight, or set repeat",
        ),
        (
            "reasoning_rl",
            {"answer": "2"},
            {"rewards": [{"name": "correctness"}, {"name": "format", "domains": ["generl"]}]},
            "steps.s.rewards.1.domains: no row of the domain 'generl'; did you mean 'general'?",
        ),
    ],
)
def test_refused(tmp_path: Path, stage: str, row: dict[str, Any], keys: dict[str, Any], message: str) -> None:
    said = refused(tmp_path, stage, row, **keys)
    assert said is not None
    assert message in said


@pytest.mark.parametrize(
    ("stage", "row", "keys"),
    [
        ("cold_start", {"completion": SAID}, {}),
        ("sft_mix", {"completion": SAID}, {"phases": PHASES}),
        ("sft_mix", {"completion": SAID}, {"phases": [{**PHASES[0], "rows": 6}], "repeat": True}),
        ("sft_mix", {"completion": SAID}, {"phases": [{**PHASES[0], "rows": 6}], "by": "tokens"}),
        ("preference_model", {"chosen": SAID, "rejected": SAID}, {}),
        ("reasoning_rl", {"answer": "2"}, {}),
        ("reasoning_rl", {"answer": "2"}, {"rewards": [{"name": "format", "domains": ["math", "code"]}]}),
    ],
)
def test_taken(tmp_path: Path, stage: str, row: dict[str, Any], keys: dict[str, Any]) -> None:
    assert refused(tmp_path, stage, row, **keys) is None


def test_large_files_and_data_that_is_still_to_be_made_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.fitness.MOST_BYTES", 10)
    assert refused(tmp_path / "large", "cold_start", {}) is None
    step = {"name": "s", "stage": "cold_start", "init_from": "base", "data_from": "rows"}
    file = project(tmp_path / "later", steps=[step], evaluate=None)
    check_fitness(build(load(file), STAGES, file), {})


def test_a_run_stops_before_its_first_step(tmp_path: Path) -> None:
    step = {"name": "s", "stage": "cold_start", "init_from": "base", "data_from": "rows"}
    file = project(tmp_path, steps=[step], evaluate=None)
    config = load(file)
    with pytest.raises(ValueError, match=r"^steps\.s\.data_from: none of 6 rows has a completion to learn$"):
        run(config, build(config, STAGES, file), tmp_path / "run", Options(), say=lambda line: None)
    assert [path.name.rpartition("-")[0] for path in (tmp_path / "run" / "artifacts").glob("*")] == ["rows"]
