"""Rewards in a configuration: files beside it, contents instead of paths, mistakes found before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import load
from pipeline.graph import build
from pipeline.reward_specs import check_rewards
from pipeline.runner import Options, run
from pipeline.step import Node
from stages import STAGES
from tests.toy_project import project

FUNCTION = "def brevity(prompts, completions, **columns):\n    return [0.0 for _ in completions]\n"
MINE = {"path": "mine.py", "function": "brevity", "weight": 0.5}


def reward_project(folder: Path, *specs: Any) -> Path:
    step = {"name": "rl", "stage": "reasoning_rl", "init_from": "base", "data_from": "rows", "rewards": list(specs)}
    file = project(folder, steps=[step], evaluate=None)
    (folder / "mine.py").write_text(FUNCTION)
    return file


def node_of(file: Path) -> Node:
    return build(load(file), STAGES, file)[-1]


def check(node: Node) -> None:
    check_rewards(node.stage, node.config, node.wired, "weak", "think_answer", node.where)


def test_user_files_count_by_content_and_not_by_path(tmp_path: Path) -> None:
    here, there = reward_project(tmp_path / "here", MINE), reward_project(tmp_path / "there", MINE)
    one, two = node_of(here).identity(), node_of(there).identity()
    assert one == two
    assert set(one["rewards"][0]["path"]) == {"content"}
    assert node_of(here).config.rewards[0]["path"] == str(tmp_path / "here" / "mine.py")
    check(node_of(here))
    (tmp_path / "there" / "mine.py").write_text(FUNCTION.replace("0.0", "1.0"))
    assert node_of(there).identity() != one


def test_an_inherited_file_lies_beside_the_configuration_that_states_it(tmp_path: Path) -> None:
    reward_project(tmp_path / "below", MINE)
    child = tmp_path / "child.yaml"
    child.write_text(yaml.safe_dump({"extends": "below/toy.yaml"}))
    assert node_of(child).config.rewards[0]["path"] == str(tmp_path / "below" / "mine.py")


def test_a_preference_model_beside_the_configuration_counts_by_content(tmp_path: Path) -> None:
    node = node_of(reward_project(tmp_path, {"name": "preference", "model": "model"}))
    assert node.config.rewards[0]["model"] == str(tmp_path / "model")
    assert set(node.identity()["rewards"][0]["model"]) == {"content"}
    hub = node_of(reward_project(tmp_path, {"name": "preference", "model": "org/name"}))
    assert hub.identity()["rewards"][0]["model"] == "org/name"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "acuracy"}, "steps.rl: rewards[0]: unknown reward 'acuracy'; did you mean 'accuracy'?"),
        ({"name": "accuracy", "weight": "x"}, "steps.rl: rewards[0]: weight must be a number, got 'x'"),
        ({"name": "preference"}, "steps.rl: rewards: the reward 'preference' needs a model"),
        ({"path": "gone.py", "function": "f"}, "steps.rl: rewards: path: there is no "),
        ({**MINE, "function": "levity"}, "levity"),
    ],
)
def test_mistakes_are_found_before_anything_runs(tmp_path: Path, spec: dict[str, Any], message: str) -> None:
    file = reward_project(tmp_path, spec)
    config = load(file)
    with pytest.raises(ValueError) as caught:
        run(config, build(config, STAGES, file), tmp_path / "run", Options(), say=lambda line: None)
    assert message in str(caught.value)
    assert not list((tmp_path / "run" / "artifacts").glob("*"))


def test_entries_that_are_no_mappings_are_left_to_the_stage(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"steps.rl: rewards.0: expected keys and values"):
        node_of(reward_project(tmp_path, "accuracy"))
