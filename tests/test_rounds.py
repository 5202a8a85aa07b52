"""Rounds: what a block is unrolled into, which step a name means, and that finished rounds stay."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import load
from pipeline.rounds import KEYS
from tests.doc_pages import ROOT, table_rows
from tests.test_kill import numbers, steps_logged, wait_for
from tests.toy_project import call, plan_of, project, r1, statuses, toy_run

SAMPLE = {"name": "sample", "stage": "toy_sample", "init_from": "tune@previous", "data_from": "rows"}
TUNE = {"name": "tune", "stage": "toy_train", "init_from": "tune@previous", "data_from": ["rows", "sample"]}
LOOP = {"name": "loop", "rounds": 3, "first": "start", "steps": [SAMPLE, TUNE]}
START = {"name": "start", "stage": "toy_train", "init_from": "base", "data_from": "rows"}
LAST = {"name": "last", "stage": "toy_train", "init_from": "tune", "data_from": "sample"}


def looped(folder: Path, *, more: tuple[dict[str, Any], ...] = (LAST,), top: Any = None, **changes: Any) -> Path:
    """A project of a start, the rounds LOOP with keys changed, and further steps."""
    return project(folder, steps=[START, LOOP | changes, *more], **(top or {}))


def wires(file: Path, *overrides: str) -> dict[str, Mapping[str, Any]]:
    """Step to its inputs by name, those without any left out."""
    return {
        node.name: {name: found for name, found in node.inputs.items() if found} for node in plan_of(file, *overrides)
    }


def changed(step: Mapping[str, Any], **keys: Any) -> dict[str, Any]:
    return {**step, **keys}


def test_rounds_are_the_steps_that_one_would_write_by_hand(tmp_path: Path) -> None:
    """Equal nodes have equal fingerprints: a run that was written out by hand goes on as rounds."""
    in_rounds = plan_of(looped(tmp_path, rounds=2, changes={"tune-2": {"learning_rate": 0.1}}))
    written = [
        START,
        {"name": "sample-1", "stage": "toy_sample", "init_from": "start", "data_from": "rows"},
        {"name": "tune-1", "stage": "toy_train", "init_from": "start", "data_from": ["rows", "sample-1"]},
        {"name": "sample-2", "stage": "toy_sample", "init_from": "tune-1", "data_from": "rows"},
        {"name": "tune-2", "stage": "toy_train", "init_from": "tune-1", "data_from": ["rows", "sample-2"]}
        | {"learning_rate": 0.1},
        {"name": "last", "stage": "toy_train", "init_from": "tune-2", "data_from": ["sample-2"]},
    ]
    assert in_rounds == plan_of(project(tmp_path, steps=written))


def test_all_gathers_the_rounds_so_far_and_outside_every_round(tmp_path: Path) -> None:
    tune = changed(TUNE, init_from="base", data_from=["rows", "sample@all"])
    first = {"tune": "start"}
    found = wires(looped(tmp_path, first=first, steps=[SAMPLE, tune], more=(changed(LAST, data_from="sample@all"),)))
    assert found["tune-1"]["data"] == ("rows", "sample-1")
    assert found["tune-3"]["data"] == ("rows", "sample-1", "sample-2", "sample-3")
    assert found["last"] == {"init": ("tune-3",), "data": ("sample-1", "sample-2", "sample-3")}


def test_each_step_may_have_its_own_first_and_a_dataset_can_be_handed_on(tmp_path: Path) -> None:
    sample = changed(SAMPLE, data_from="sample@previous")
    found = wires(looped(tmp_path, first={"tune": "start", "sample": "rows"}, steps=[sample, TUNE]))
    assert found["sample-1"] == {"init": ("start",), "data": ("rows",)}
    assert found["sample-2"] == {"init": ("tune-1",), "data": ("sample-1",)}


def test_a_round_of_its_own_is_reached_from_anywhere(tmp_path: Path) -> None:
    more = changed(LAST, init_from="tune-2", data_from=["sample-1", "sample"])
    assert wires(looped(tmp_path, more=(more,)))["last"] == {"init": ("tune-2",), "data": ("sample-1", "sample-3")}


def test_rounds_may_start_from_other_rounds(tmp_path: Path) -> None:
    steps = [changed(TUNE, name="polish", init_from="polish@previous", data_from="rows")]
    found = wires(looped(tmp_path, more=({"name": "more", "rounds": 2, "first": "tune", "steps": steps},)))
    assert found["polish-1"]["init"] == ("tune-3",)
    assert found["polish-2"]["init"] == ("polish-1",)


def test_evaluations_follow_the_same_names(tmp_path: Path) -> None:
    judge = {"name": "judge", "stage": "toy_judge", "init_from": "tune", "data_from": "rows"}
    own = changed(TUNE, evaluate={"preference_from": "judge@previous", "data_from": ["held_out", "sample"]})
    top = {"evaluate": {"data_from": "held_out", "preference_from": "judge"}}
    first = {"tune": "start", "judge": "base"}
    found = wires(looped(tmp_path, first=first, steps=[SAMPLE, own, judge], top=top))
    assert found["evaluate.tune-2"] == {
        "init": ("tune-2",),
        "data": ("held_out", "sample-2"),
        "preference": ("judge-1",),
    }
    assert found["evaluate.last"]["preference"] == ("judge-3",)


def test_set_reaches_all_rounds_of_a_step_one_of_them_and_the_block(tmp_path: Path) -> None:
    tune = changed(TUNE, options={"a": 1})
    file = looped(tmp_path, steps=[SAMPLE, tune], changes={"tune-1": {"steps": 9}})

    def read(*overrides: str) -> dict[str, Any]:
        return {step["name"]: step for step in load(file, overrides).steps}

    found = read("steps.tune-2.learning_rate=0.1", "steps.tune.learning_rate=0.3", "steps.tune.options.b=2")
    assert [found[f"tune-{n}"]["learning_rate"] for n in (1, 2, 3)] == [0.3, 0.1, 0.3], "one round's wins"
    assert found["tune-3"]["options"] == {"a": 1, "b": 2}
    found = read("steps.tune-2.options.a=5", "steps.tune-2.init_from=tune@previous", "steps.tune-1.steps=2")
    assert [found[f"tune-{n}"]["options"] for n in (1, 2, 3)] == [{"a": 1}, {"a": 5}, {"a": 1}]
    assert found["tune-1"]["steps"] == 2, "over the changes of the file"
    assert found["tune-2"]["init_from"] == "tune-1"
    assert "tune-4" in read("steps.loop.rounds=4")
    assert read("steps.loop.changes.tune-3.steps=4")["tune-3"]["steps"] == 4
    assert read("steps.last.steps=4")["last"]["steps"] == 4


def test_the_number_of_the_round_and_variables_are_filled_in(tmp_path: Path) -> None:
    top = {
        "vars": {"n": 2, "from": "start", "wire": "tune@previous"},
        "data": {f"rows{n}": {"source": "records", "path": "rows.jsonl"} for n in ("", "_1", "_2")},
        "evaluate": False,
    }
    tune = changed(TUNE, data_from=["rows_${round}", "sample"], seed="${round}", init_from="${vars.wire}")
    keys = {"rounds": "${vars.n}", "first": "${vars.from}"}
    nodes = {node.name: node for node in plan_of(looped(tmp_path, steps=[SAMPLE, tune], top=top, **keys))}
    assert [nodes[f"tune-{n}"].seed for n in (1, 2)] == [1, 2]
    assert nodes["tune-2"].inputs["data"] == ("rows_2", "sample-2")
    assert nodes["tune-1"].inputs["init"] == ("start",)
    assert "tune-3" not in nodes


def test_a_child_changes_rounds_and_steps_inside_and_leaves_some_out(tmp_path: Path) -> None:
    looped(tmp_path, steps=[changed(SAMPLE, init_from="base"), TUNE])
    inside = [{"name": "tune", "learning_rate": 0.2, "data_from": "rows"}]
    child = {
        "extends": "toy.yaml",
        "without": ["sample", "last"],
        "steps": [{"name": "loop", "rounds": 1, "steps": inside}],
    }
    (tmp_path / "child.yaml").write_text(yaml.safe_dump(child))
    assert [step["name"] for step in load(tmp_path / "child.yaml").steps] == ["start", "tune-1"]
    assert load(tmp_path / "child.yaml").steps[1] == changed(
        TUNE, name="tune-1", init_from="start", learning_rate=0.2, data_from="rows"
    )


def test_paths_of_rewards_inside_rounds_are_relative_to_the_file_that_states_them(tmp_path: Path) -> None:
    steps = [SAMPLE, changed(TUNE, evaluate={"rewards": [{"path": "mine.py"}]})]
    changes = {"tune-2": {"evaluate": {"rewards": [{"path": "other.py"}]}}}
    looped(tmp_path / "below", steps=steps, changes=changes)
    (tmp_path / "child.yaml").write_text("extends: below/toy.yaml\n")
    found = {step["name"]: step for step in load(tmp_path / "child.yaml").steps}
    assert found["tune-1"]["evaluate"]["rewards"] == [{"path": str(tmp_path / "below" / "mine.py")}]
    assert found["tune-2"]["evaluate"]["rewards"] == [{"path": str(tmp_path / "below" / "other.py")}]


def test_keys_of_a_cluster_are_those_of_every_round_and_one_round_s_own_win(tmp_path: Path) -> None:
    site = {
        "steps": {"tune-2": {"time": "9:00:00"}, "tune": {"time": "1:00:00", "qos": "low"}, "last": {"qos": "high"}}
    }
    found = load(looped(tmp_path, top={"slurm": site})).slurm.steps
    assert found == {
        "tune-1": {"time": "1:00:00", "qos": "low"},
        "tune-2": {"time": "9:00:00", "qos": "low"},
        "tune-3": {"time": "1:00:00", "qos": "low"},
        "last": {"qos": "high"},
    }


def _planned(file: Path) -> None:
    nodes = plan_of(file)
    load(file).slurm.check(node.name for node in nodes)


UNNAMED = {"rounds": 2, "steps": [SAMPLE]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "steps.loop.rounds: expected a whole number from 1 to 1000, got 0"),
        ({"rounds": True}, "steps.loop.rounds: expected a whole number from 1 to 1000, got True"),
        ({"rounds": 1e9}, "steps.loop.rounds: expected a whole number from 1 to 1000, got 1000000000.0"),
        ({"rounds": "${vars.n}"}, "steps.loop.rounds: unknown variable 'n'; there are none"),
        ({"fist": "base"}, "steps.loop: unknown key 'fist'; did you mean 'first'?"),
        ({"steps": []}, "steps.loop.steps: expected one or more steps, got []"),
        ({"steps": [{"stage": "toy_train"}]}, "steps.loop.steps: each step needs a name of letters, digits, - and _"),
        ({"steps": [changed(TUNE, name="a.b")]}, "loop.steps: each step needs a name of letters, digits, - and _"),
        ({"steps": [LOOP]}, "steps.loop.steps: rounds do not go inside rounds, got {'name': 'loop'"),
        ({"steps": [TUNE, TUNE]}, "steps.loop: the name 'tune' is already that of a step of 'loop'"),
        ({"name": "a.b"}, "steps: rounds need a name of letters, digits, - and _, got {'name': 'a.b'"),
        ({"name": "start"}, "steps.start: the name 'start' is already that of a step"),
        ({"name": "tune"}, "steps.tune: the name 'tune' is already that of a block of rounds"),
        ({"steps": [SAMPLE, changed(TUNE, name="rows")]}, "steps.loop: the name 'rows' is already that of a dataset"),
        ({"steps": [SAMPLE, changed(TUNE, name="base")]}, "steps.loop: the name 'base' is already that of a model"),
        ({"more": (LOOP,)}, "steps.loop: the name 'loop' is already that of a block of rounds"),
        ({"more": (changed(LOOP, name="two"),)}, "steps.two: the name 'sample' is already that of a step of 'loop'"),
        ({"more": (changed(LAST, name="tune"),)}, "steps.loop: the name 'tune' is already that of a step"),
        ({"more": (changed(LAST, name="tune-2"),)}, "steps.loop: the name 'tune-2' is already that of a step"),
        ({"steps": [TUNE, changed(SAMPLE, name="tune-2")]}, "the name 'tune-2' is already that of a step of 'loop'"),
        ({"name": "tune-3"}, "steps.tune-3: the name 'tune-3' is already that of a block of rounds"),
        ({"more": (UNNAMED,)}, "steps: rounds need a name of letters, digits, - and _, got {'rounds': 2"),
        ({"more": ({"name": "x", "steps": [SAMPLE]},)}, "steps.x: the key 'rounds' is missing"),
        ({"more": ({"name": "x", "rounds": 2},)}, "steps.x: the key 'steps' is missing"),
        ({"more": (changed(LAST, rounds=2),)}, "steps.last: unknown key 'rounds'"),
        ({"first": ["base"]}, "steps.loop.first: expected a name, or a name for each step, got ['base']"),
        ({"first": {"tune": 3}}, "steps.loop.first: expected a name, or a name for each step, got {'tune': 3}"),
        ({"first": None}, "steps.loop.first: steps.sample-1.init_from is tune@previous, and nothing is said"),
        ({"first": "bsae"}, "steps.loop.first: unknown name 'bsae'; did you mean 'base'?"),
        ({"first": "tune"}, "steps.loop.first: 'tune' is a step of these rounds; name what round 1 starts from"),
        ({"first": {"tune": "base", "sampel": "rows"}}, "first: no step of round 1 reads sampel@previous"),
        (
            {"steps": [changed(SAMPLE, init_from="base"), changed(TUNE, init_from="base")]},
            "steps.loop.first: no step of round 1 reads a NAME@previous",
        ),
        ({"changes": [1]}, "steps.loop.changes: expected steps of single rounds and their keys, got [1]"),
        ({"changes": {"tune": {"steps": 2}}}, "steps.loop.changes: unknown step 'tune'; did you mean 'tune-3'?"),
        ({"changes": {"tune-4": {}}}, "steps.loop.changes: unknown step 'tune-4'; did you mean 'tune-"),
        ({"changes": {"tune-2": 3}}, "steps.loop.changes.tune-2: expected keys other than the name, got 3"),
        ({"changes": {"tune-2": {"name": "x"}}}, "steps.loop.changes.tune-2: expected keys other than the name, got {"),
        ({"changes": {"tune-2": {"epochs": 3}}}, "steps.tune-2: unknown key 'epochs'"),
        ({"steps": [SAMPLE, changed(TUNE, init_from="tuna@previous")]}, "no rounds have a step 'tuna'; did you"),
        ({"steps": [SAMPLE, changed(TUNE, init_from="tune@prev")]}, "unknown 'prev' in 'tune@prev'; did you"),
        ({"steps": [SAMPLE, changed(TUNE, init_from="tune@all")]}, "init_from: expected one name, got ['tune-1']"),
        ({"steps": [SAMPLE, changed(TUNE, data_from="sampel")]}, "steps.tune-1.data_from: unknown name 'sampel'"),
        ({"steps": [SAMPLE, changed(TUNE, data_from=["sample", 3])]}, "one or more names, got ['sample-1', 3]"),
        ({"steps": [SAMPLE, changed(TUNE, init_from="tune")]}, "the inputs go in a circle: tune-1 -> tune-1"),
        (
            {"more": (changed(LAST, init_from="tune@previous"),)},
            "steps.last.init_from: 'tune@previous' has a meaning inside the rounds 'loop' only; outside, 'tune' is",
        ),
        ({"top": {"slurm": {"steps": {"tuna": {}}}}}, "slurm.steps.tuna: unknown step"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = looped(tmp_path, **changes)
    with pytest.raises(ValueError) as caught:
        _planned(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps.tuen.steps=2", "unknown name 'tuen'; did you mean 'tune'?"),
        ("steps.tune-9.steps=2", "unknown name 'tune-9'; did you mean 'tune-3'?"),
        ("steps.tune.steps.x=2", "steps.tune.steps.x=2: 'steps' is"),
        ("steps.loop.rounds=many", "steps.loop.rounds: expected a whole number from 1 to 1000, got 'many'"),
        ("steps.tune.learning_rat=2", "steps.tune-1: unknown key 'learning_rat'; did you mean 'learning_rate'?"),
    ],
)
def test_overrides_that_reach_nothing_end_in_one_line(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        plan_of(looped(tmp_path, steps=[SAMPLE, changed(TUNE, steps=3)]), override)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "broken", [{"models": 3}, {"data": [1]}, {"slurm": {"steps": 3}}, {"evaluate": 3}, {"vars": 3}]
)
def test_rounds_do_not_hide_what_else_is_wrong(tmp_path: Path, broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(broken))}.*: expected .*, got"):
        load(looped(tmp_path, top=broken, first="start"))


def test_the_number_of_a_round_has_no_meaning_outside(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\$\{round\} is not known"):
        load(looped(tmp_path, more=(changed(LAST, seed="${round}"),)))


def test_another_round_keeps_the_finished_ones(tmp_path: Path) -> None:
    """By the command, twice; the step behind the rounds then builds on the new last one."""
    file = looped(tmp_path, rounds=2)
    command = ("run", file, "--run-dir", tmp_path / "run")
    assert call(*command, cwd=tmp_path)[0] == 0
    code, out, _ = call(*command, "--set", "steps.loop.rounds=3", cwd=tmp_path)
    assert code == 0
    made = [
        line.partition("] ")[2].split(":")[0] for line in out.splitlines() if line.startswith("[") and ": done" in line
    ]
    assert made == ["sample-3", "tune-3", "evaluate.tune-3", "last", "evaluate.last"]
    code, out, _ = call("status", tmp_path / "run", cwd=tmp_path)
    assert code == 0
    assert "pending" not in out, "config.json holds the unrolled steps"
    assert call(*command, cwd=tmp_path)[0] == 0
    found = {e["name"]: e["status"] for e in json.loads((tmp_path / "run" / "summary.json").read_text())["steps"]}
    assert "tune-3" not in found
    assert found["last"] == "reused", "going back finds what two rounds made"


def test_a_changed_round_is_made_again_with_those_after_it(tmp_path: Path) -> None:
    file = looped(tmp_path)
    toy_run(file)
    plan = toy_run(file, "steps.tune-2.learning_rate=0.1")
    made = [name for name, status in statuses(plan).items() if status == "done"]
    assert made == ["tune-2", "evaluate.tune-2", "sample-3", "tune-3", "evaluate.tune-3", "last", "evaluate.last"]


def test_steps_of_one_round_are_selected_by_their_name(tmp_path: Path) -> None:
    file = looped(tmp_path)
    toy_run(file)

    def selected(**options: Any) -> list[str]:
        return [name for name, status in statuses(toy_run(file, force=True, **options)).items() if status == "done"]

    assert selected(only="tune-2") == ["tune-2", "evaluate.tune-2"]
    assert selected(from_step="sample-3") == ["sample-3", "tune-3", "evaluate.tune-3", "last", "evaluate.last"]
    code, _, error = call("run", file, "--run-dir", tmp_path / "run", "--from", "tune", cwd=tmp_path)
    assert (code, error.count("\n")) == (2, 1)
    assert "--from tune: unknown step; did you mean 'tune-" in error


@pytest.mark.slow
def test_a_kill_in_round_2_keeps_round_1_and_ends_as_an_unbroken_run(tmp_path: Path) -> None:
    file = looped(tmp_path, steps=[SAMPLE, changed(TUNE, steps=8, step_seconds=0.05)])
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert call("run", file, "--run-dir", whole, cwd=tmp_path)[0] == 0
    child = r1("run", file, "--run-dir", run, cwd=tmp_path, wait=False)
    wait_for(child, lambda: steps_logged(run, "tune-2") >= 4)
    child.kill()
    child.communicate()
    finished = {path.name: path.stat().st_mtime_ns for path in (run / "artifacts").iterdir() if path.name[0] != "."}
    assert any(name.startswith("tune-1-") for name in finished)
    assert call("run", file, "--run-dir", run, cwd=tmp_path)[0] == 0
    assert numbers(run) == numbers(whole)
    assert {name: (run / "artifacts" / name).stat().st_mtime_ns for name in finished} == finished
    assert steps_logged(run, "tune-1") == 8
    assert steps_logged(run, "tune-2") <= 8 + 1, "it goes on from its checkpoint"


def test_the_page_tells_every_key_of_a_block() -> None:
    rows = table_rows((ROOT / "docs" / "configuration.md").read_text(encoding="utf-8"))
    assert {f"steps[].{key}" for key in KEYS} <= set(rows)
