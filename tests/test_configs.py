"""Every configuration in the repository parses, and every stage of the table is there and says what it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.artifact import Kind
from pipeline.config import load
from pipeline.graph import build
from pipeline.reward_specs import check_rewards
from pipeline.step import RESERVED, Role
from stages import STAGES, StageTable

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
FOREIGN = ("accelerate", "deepspeed")
"""Folders below configs/ whose files belong to other programs."""

FOUND = sorted(
    file for file in CONFIGS.rglob("*.y*ml") if not set(FOREIGN).intersection(file.relative_to(CONFIGS).parts)
)
FEWEST = 1


def test_all_are_found() -> None:
    assert len(FOUND) >= FEWEST
    assert CONFIGS / "tiny.yaml" in FOUND


@pytest.mark.parametrize("file", FOUND, ids=lambda file: str(file.relative_to(CONFIGS)))
def test_a_configuration_of_the_repository_is_valid(file: Path) -> None:
    config = load(file)
    nodes = build(config, STAGES, file)
    assert [node for node in nodes if node.role is Role.STEP]
    for node in nodes:
        check_rewards(node.stage, node.config, node.wired, config.sandbox, config.convention, node.where)


def test_the_table_holds_the_recipe() -> None:
    assert list(STAGES)[:6] == [
        "cold_start",
        "sft_mix",
        "reasoning_rl",
        "rejection_sampling",
        "general_rl",
        "distillation",
    ]
    assert len(STAGES) == 11


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_of_the_table(name: str) -> None:
    stage = STAGES[name]
    assert stage.name == name
    assert stage.summary
    assert "\n" not in stage.summary
    assert name in STAGES
    assert name == "review" or stage.needs["init"].kind is Kind.MODEL
    keys = {*RESERVED, *(f"{need}_from" for need in stage.needs)}
    assert not keys & set(stage.config.model_fields), "a key of a step can mean only one thing"
    assert set(stage.config.model_fields) >= stage.config.NO_IDENTITY
    assert stage.generative == (name not in ("preference_model", "safety_model"))


def test_a_name_that_is_not_in_the_table() -> None:
    table = StageTable({"a": "stages.stage:Stage"})
    assert "b" not in table
    with pytest.raises(KeyError):
        table["b"]
