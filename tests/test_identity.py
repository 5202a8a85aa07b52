"""Fingerprints: what counts, what does not, and a golden value that a release must not change unawares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Launch, load
from pipeline.given import HashCache
from pipeline.identity import differences, recipe_fingerprint
from pipeline.plan import make_plan
from pipeline.store import RunStore
from tests.toy_project import plan_of, project, steps

RECIPE: dict[str, Any] = {
    "stage": "sft_mix",
    "version": 1,
    "config": {"learning_rate": 1e-5, "phases": [{"name": "推理", "rows": 3}], "adapter": None},
    "inputs": {"init": [{"name": "base", "fingerprint": "0123456789ab"}]},
    "seed": 0,
    "convention": "think_answer",
    "prefill": "",
}


def test_golden_fingerprint() -> None:
    """A change here makes every artifact that anybody has stale."""
    assert recipe_fingerprint(RECIPE) == "2c4f667dafe9"


def test_names_do_not_count_and_order_of_inputs_does() -> None:
    renamed = RECIPE | {"inputs": {"init": [{"name": "other", "fingerprint": "0123456789ab"}]}}
    assert recipe_fingerprint(renamed) == recipe_fingerprint(RECIPE)
    pair = [{"name": "a", "fingerprint": "1"}, {"name": "b", "fingerprint": "2"}]
    one, two = (recipe_fingerprint(RECIPE | {"inputs": {"data": order}}) for order in (pair, pair[::-1]))
    assert one != two


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, Path("x")])
def test_what_has_no_stable_form_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        recipe_fingerprint(RECIPE | {"config": {"x": value}})


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({}, []),
        ({"version": 2}, ["version: 1 -> 2"]),
        ({"seed": 1, "convention": "zh"}, ["convention: think_answer -> zh", "seed: 0 -> 1"]),
        ({"config": {**RECIPE["config"], "learning_rate": 2e-5}}, ["config.learning_rate: 1e-05 -> 2e-05"]),
        (
            {"config": {**RECIPE["config"], "phases": [{"name": "推理", "rows": 4}]}},
            ["config.phases.0.rows: 3 -> 4"],
        ),
        (
            {"config": {"learning_rate": 1e-5, "phases": []}},
            ["config.adapter: None -> (absent)", "config.phases: [{'name': '推理', 'rows': 3}] -> []"],
        ),
        ({"inputs": {"init": [{"name": "base", "fingerprint": "f"}]}}, ["input init: base changed"]),
        ({"inputs": {"init": [{"name": "new", "fingerprint": "f"}]}}, ["input init: base -> new"]),
        ({"inputs": {}}, ["input init: base -> nothing"]),
    ],
)
def test_differences_name_the_field(change: dict[str, Any], lines: list[str]) -> None:
    assert differences(RECIPE, RECIPE | change) == lines


def fingerprints(file: Path, *overrides: str) -> dict[str, str]:
    store = RunStore(file.parent / "run")
    config = load(file, overrides)
    plan = make_plan(config, plan_of(file, *overrides), store, HashCache(file.parent / "hashes"))
    return {state.node.name: state.fingerprint for state in plan.states}


def changed(file: Path, *overrides: str) -> set[str]:
    before, after = fingerprints(file), fingerprints(file, *overrides)
    return {name for name in before if before[name] != after[name]}


def test_a_threshold_makes_its_step_and_those_after_it_stale(tmp_path: Path) -> None:
    file = project(tmp_path)
    assert changed(file, "steps.keep.keep_fraction=0.3") == {"keep", "second", "evaluate.second"}
    assert changed(file, "evaluate.samples=2") == {"evaluate.base", "evaluate.first", "evaluate.second"}
    assert changed(file, "steps.first.seed=1") == {
        "first",
        "evaluate.first",
        "keep",
        "second",
        "evaluate.second",
        "judge",
    }
    assert changed(file, "data.held_out.rows=3") == {"held_out", "evaluate.base", "evaluate.first", "evaluate.second"}


@pytest.mark.parametrize("override", ["seed=1", "convention=zh", "prefill=true"])
def test_what_concerns_the_whole_run_makes_all_stale(tmp_path: Path, override: str) -> None:
    file = project(tmp_path)
    assert changed(file, override) == set(fingerprints(file))


def test_placement_is_no_part_of_an_identity(tmp_path: Path) -> None:
    file = project(tmp_path)
    assert not changed(file, "launch.processes=8", "steps.first.launch.threads=3", "sandbox=weak", "name=other")
    others = {
        "machines": 2, "own_process": True, "threads": 2, "mixed_precision": "bf16", "gradient_checkpointing": True,
        "reward_workers": 3, "checkpoint_steps": 7, "timeout": 9, "zero": 3, "accelerate_config": "zero2",
        "deepspeed": "zero2", "extra": {"nodes": 3},
    }  # fmt: skip
    assert {"processes", *others} == set(Launch.model_fields), "every key of `launch`"
    for key, value in others.items():
        assert not changed(file, "launch.processes=8", f"launch.{key}={json.dumps(value)}"), key


def test_paths_are_no_part_of_an_identity_and_contents_are(tmp_path: Path) -> None:
    here, there = project(tmp_path / "here"), project(tmp_path / "elsewhere" / "deep")
    assert fingerprints(here) == fingerprints(there)
    (there.parent / "model" / "config.json").write_text('{"a": 1}')
    one, two = fingerprints(here), fingerprints(there)
    assert one["rows"] == two["rows"]
    assert one["first"] != two["first"]
    with (here.parent / "rows.jsonl").open("a") as file:
        file.write("\n")
    assert fingerprints(here)["rows"] != one["rows"]


def test_renaming_a_step_keeps_the_identities_after_it(tmp_path: Path) -> None:
    file = project(tmp_path)
    before = fingerprints(file)
    renamed = steps(("keep", {"name": "kept"}), ("second", {"data_from": ["kept", "rows"]}))
    assert fingerprints(project(tmp_path, steps=renamed))["second"] == before["second"]
