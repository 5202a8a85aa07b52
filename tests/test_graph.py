"""Steps to an order: implicit steps, wiring, and one clear line for every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.graph import descendants
from pipeline.step import Role
from tests.toy_project import NAMES, plan_of, project, steps


def test_preparations_come_first_and_evaluations_right_after_their_model(tmp_path: Path) -> None:
    nodes = plan_of(project(tmp_path))
    assert [node.name for node in nodes] == NAMES
    assert [node.role for node in nodes][:3] == [Role.PREPARATION, Role.PREPARATION, Role.EVALUATION]
    assert nodes[7].inputs == {"init": ("second",), "data": ("held_out",), "preference": ()}


def test_the_order_of_the_configuration_does_not_matter(tmp_path: Path) -> None:
    plan = plan_of(project(tmp_path, steps=steps()[::-1]))
    order = {node.name: at for at, node in enumerate(plan)}
    assert all(order[source] < order[node.name] for node in plan for source in node.sources if source in order)


def test_an_evaluation_waits_for_its_preference_model(tmp_path: Path) -> None:
    nodes = plan_of(project(tmp_path, evaluate={"data_from": "held_out", "preference_from": "judge"}))
    names = [node.name for node in nodes]
    assert names.index("judge") < names.index("evaluate.base") < names.index("evaluate.first")


@pytest.mark.parametrize("off", [False, None])
def test_evaluation_can_be_off(tmp_path: Path, off: bool | None) -> None:
    names = [node.name for node in plan_of(project(tmp_path, evaluate=off))]
    assert names == ["rows", "first", "keep", "second", "judge"], "and nobody needs the held-out rows"


def test_one_step_may_be_evaluated_otherwise_or_not(tmp_path: Path) -> None:
    changed = steps(("first", {"evaluate": False}), ("second", {"evaluate": {"samples": 7}}))
    nodes = {node.name: node for node in plan_of(project(tmp_path, steps=changed))}
    assert "evaluate.first" not in nodes
    assert nodes["evaluate.second"].config.model_dump() == {"samples": 7, "gates": {}}
    assert nodes["evaluate.base"].config.model_dump() == {"samples": 1, "gates": {}}


def test_a_step_may_be_evaluated_where_no_other_is(tmp_path: Path) -> None:
    changed = steps(("second", {"evaluate": {"data_from": "held_out"}}))
    names = [node.name for node in plan_of(project(tmp_path, evaluate=None, steps=changed))]
    assert [name for name in names if name.startswith("evaluate.")] == ["evaluate.second"]
    assert "held_out" in names


def test_a_given_model_that_no_step_starts_from_is_not_evaluated(tmp_path: Path) -> None:
    models = {"base": {"path": "model"}, "teacher": {"path": "model"}}
    names = [node.name for node in plan_of(project(tmp_path, models=models))]
    assert "evaluate.teacher" not in names
    quiet = {"base": {"path": "model", "evaluate": False}}
    assert "evaluate.base" not in [node.name for node in plan_of(project(tmp_path, models=quiet))]


def test_seeds_and_launch_are_the_run_s_unless_the_step_has_its_own(tmp_path: Path) -> None:
    data = {"rows": {"source": "records", "path": "rows.jsonl"}}
    data["held_out"] = {**data["rows"], "seed": 11}  # type: ignore[dict-item]
    changed = steps(("first", {"seed": 5, "launch": {"threads": 2}}))
    file = project(tmp_path, seed=3, data=data, launch={"reward_workers": 7}, steps=changed)
    nodes = {node.name: node for node in plan_of(file)}
    assert [nodes[n].seed for n in ("rows", "held_out", "first", "second", "evaluate.first")] == [3, 11, 5, 3, 3]
    assert (nodes["first"].launch.threads, nodes["first"].launch.reward_workers) == (2, 7)
    assert nodes["second"].launch.threads is None


def test_steps_that_sample_run_as_one_process_of_their_own_beside_several(tmp_path: Path) -> None:
    nodes = {node.name: node for node in plan_of(project(tmp_path, launch={"processes": 4}))}
    assert (nodes["first"].launch.processes, nodes["first"].launch.own_process) == (4, False)
    for name in ("keep", "evaluate.first"):
        assert (nodes[name].launch.processes, nodes[name].launch.own_process) == (1, True)
    assert not nodes["rows"].launch.own_process
    nodes = {node.name: node for node in plan_of(project(tmp_path, launch={"deepspeed": "z.json"}))}
    assert nodes["first"].launch.files == {"deepspeed": "z.json"}
    machines = {"processes": 4, "machines": 2, "zero": 3}
    wide = {node.name: node for node in plan_of(project(tmp_path, launch=machines))}
    assert (wide["first"].launch.machines, wide["keep"].launch.machines) == (2, 1)
    assert wide["keep"].launch.files == {}
    assert (nodes["keep"].launch.files, nodes["keep"].launch.own_process) == ({}, True)


def test_descendants(tmp_path: Path) -> None:
    nodes = plan_of(project(tmp_path))
    assert descendants(nodes, "keep") == {"keep", "second", "evaluate.second"}
    assert descendants(nodes, "rows") == set(NAMES) - {"held_out", "evaluate.base"}


def with_steps(*changes: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {"steps": steps(*changes)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (with_steps(("first", {"stage": "toy_trian"})), "steps.first.stage: unknown stage 'toy_trian'; did you mean"),
        (with_steps(("new", {})), "steps.new: the key 'stage' is missing"),
        ({"steps": [{"stage": "toy_train"}]}, "steps.0.name: expected letters, digits, - and _, got None"),
        (with_steps(("a.b", {"stage": "toy_train"})), "steps.4.name: expected letters, digits, - and _, got 'a.b'"),
        (with_steps(("first", {"epoch": 1})), "steps.first: unknown key 'epoch'"),
        (with_steps(("first", {"learning_rat": 1})), "unknown key 'learning_rat'; did you mean 'learning_rate'?"),
        (with_steps(("first", {"date_from": 1})), "unknown key 'date_from'; did you mean 'data_from'?"),
        (with_steps(("first", {"steps": "x"})), "steps.first: steps: input should be a valid integer"),
        (with_steps(("first", {"steps": 0})), "steps.first: steps: input should be greater than or equal to 1, got 0"),
        (with_steps(("first", {"options": {"a": "x"}})), "steps.first: options.a: input should be a valid integer"),
        (
            with_steps(("first", {"seed": "x"})),
            "steps.first.seed: expected a whole number from 0 to 2**32 - 1, got 'x'",
        ),
        (
            with_steps(("first", {"seed": True})),
            "steps.first.seed: expected a whole number from 0 to 2**32 - 1, got True",
        ),
        (with_steps(("first", {"seed": -1})), "steps.first.seed: expected a whole number from 0 to 2**32 - 1, got -1"),
        (with_steps(("first", {"seed": 2**32})), "from 0 to 2**32 - 1, got 4294967296"),
        (with_steps(("first", {"launch": 3})), "steps.first.launch: expected keys and values, got 3"),
        (with_steps(("first", {"launch": {"gpus": 3}})), "steps.first.launch: unknown key 'gpus'"),
        (
            with_steps(("keep", {"launch": {"processes": 2}})),
            "steps.keep.launch.processes: stage toy_sample makes",
        ),
        (with_steps(("keep", {"launch": {"zero": 3}})), "steps.keep.launch.zero: stage toy_sample makes"),
        (with_steps(("keep", {"launch": {"deepspeed": "z.json"}})), "steps.keep.launch.deepspeed: stage toy_sample"),
        (with_steps(("first", {"init_from": None})), "steps.first.init_from: the input 'init' of stage toy_train is"),
        (with_steps(("first", {"init_from": ["base"]})), "steps.first.init_from: expected one name, got ['base']"),
        (with_steps(("first", {"data_from": []})), "steps.first.data_from: expected one or more names, got []"),
        (with_steps(("first", {"data_from": [1]})), "steps.first.data_from: expected one or more names, got [1]"),
        (with_steps(("first", {"init_from": "bas"})), "steps.first.init_from: unknown name 'bas'; did you mean 'base'"),
        (with_steps(("first", {"init_from": "rows"})), "steps.first.init_from: 'rows' is a dataset, a model is needed"),
        (with_steps(("keep", {"data_from": "first"})), "steps.keep.data_from: 'first' is a model, a dataset is needed"),
        (with_steps(("second", {"evaluate": 3})), "steps.second.evaluate: expected false, or keys and values, got 3"),
        (with_steps(("second", {"evaluate": {"sample": 3}})), "steps.second.evaluate: unknown key 'sample'; did you"),
        ({"evaluate": {"data_from": "held_out", "k": 3}}, "evaluate: unknown key 'k'"),
        ({"evaluate": {"samples": 3}}, "evaluate.data_from: the input 'data' of stage evaluation is missing"),
        ({"evaluate": {"data_from": "held"}}, "evaluate.data_from: unknown name 'held'; did you mean 'held_out'?"),
        (with_steps(("first", {"init_from": "second"})), "the inputs go in a circle: "),
        (with_steps(("first", {"init_from": "first"})), "the inputs go in a circle: first -> first"),
        (with_steps(("rows", {"stage": "toy_sample", "init_from": "base", "data_from": "rows"})), "already that of a"),
        ({"steps": []}, "steps: there is none, so nothing would be made"),
        ({"data": {"rows": {"source": ["records"]}}}, "data.rows: unknown source ['records']; did you mean 'records'?"),
        ({"steps": [*steps(), steps()[0]]}, "steps.first: the name is already that of a step"),
        ({"models": {"base": {"path": "m"}, "rows": {"path": "m"}}}, "data.rows: the name is already that of a model"),
        ({"data": {"rows": {"path": "x"}}}, "data.rows: the key 'source' is missing"),
        ({"data": {"rows": {"source": "records", "pat": "x"}}}, "data.rows: unknown key 'pat'"),
        ({"data": {"rows": {"source": "records", "path": "x", "sed": 1}}}, "unknown key 'sed'; did you mean 'seed'?"),
        ({"data": {"rows": {"source": "records", "path": "x", "seed": "x"}}}, "data.rows.seed: expected a whole"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = project(tmp_path, **changes)
    with pytest.raises(ValueError) as caught:
        plan_of(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_circle_is_shown_in_the_direction_of_the_data(tmp_path: Path) -> None:
    file = project(tmp_path, **with_steps(("first", {"init_from": "second"})))
    with pytest.raises(ValueError, match=r"circle: first -> second -> first|circle: second -> first -> second"):
        plan_of(file)
