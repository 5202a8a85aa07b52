"""Gates: what an evaluation has to find before anything is built on a checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.gates import GateShut
from pipeline.messages import explain
from stages.evaluation import EvaluationConfig, check
from stages.gates import Gate, unmet
from stages.stage import Metric, Placement
from tests.toy_project import NAMES, call, one, plan_of, project, statuses, steps, toy_run

SHUT: dict[str, Any] = {"accuracy": {"least": 0.999}}
OPEN: dict[str, Any] = {"accuracy": {"least": 0.01, "most": 0.999}}


def summary_of(folder: Path) -> dict[str, str]:
    return {s["name"]: s["status"] for s in json.loads((folder / "run" / "summary.json").read_text())["steps"]}


def gated(folder: Path, gates: dict[str, Any]) -> Path:
    """A project whose first step has to pass `gates`."""
    return project(folder, steps=steps(("first", {"evaluate": {"gates": gates}})))


def test_nothing_is_built_on_a_checkpoint_whose_gate_is_shut(tmp_path: Path) -> None:
    with pytest.raises(GateShut) as caught:
        toy_run(gated(tmp_path, SHUT))
    assert str(caught.value).startswith("keep is not made, for it builds on first. evaluate.first: accuracy is 0.")
    assert str(caught.value).endswith(" of 4, below 0.999")
    found = summary_of(tmp_path)
    made = NAMES[: NAMES.index("keep")]
    assert {n: found[n] for n in NAMES} == {n: "done" if n in made else "pending" for n in NAMES}
    assert "| evaluate.first | accuracy | least 0.999 | 0." in (tmp_path / "run" / "report.md").read_text()
    with pytest.raises(GateShut):
        toy_run(gated(tmp_path, SHUT))
    assert set(summary_of(tmp_path).values()) == {"reused", "pending"}, "figures are kept, and the gate stays shut"


def test_an_open_gate_changes_no_figure_and_makes_nothing_again(tmp_path: Path) -> None:
    with pytest.raises(GateShut):
        toy_run(gated(tmp_path, SHUT))
    found = statuses(toy_run(gated(tmp_path, OPEN)))
    made = NAMES[: NAMES.index("keep")]
    assert found == {name: "reused" if name in made else "done" for name in NAMES}
    report = (tmp_path / "run" / "report.md").read_text()
    assert "least 0.01, most 0.999" in report
    toy_run(project(tmp_path, steps=steps()))
    assert "## Gates" not in (tmp_path / "run" / "report.md").read_text()


def test_a_gate_that_comes_later_shuts_out_what_builds_on_what_was_built(tmp_path: Path) -> None:
    toy_run(gated(tmp_path, OPEN), only="first")
    toy_run(gated(tmp_path, OPEN), only="keep")
    with pytest.raises(GateShut, match="second is not made, for it builds on first"):
        toy_run(gated(tmp_path, SHUT), only="second")


def test_the_guarded_step_itself_may_be_made_again(tmp_path: Path) -> None:
    toy_run(gated(tmp_path, OPEN), only="first")
    with pytest.raises(GateShut, match="a gate is not met, though all that was asked for is made"):
        toy_run(gated(tmp_path, SHUT), only="first", force=True)
    assert summary_of(tmp_path)["first"] == "done"


def test_a_gate_at_the_end_fails_the_run_that_made_everything(tmp_path: Path) -> None:
    file = project(tmp_path, steps=steps(("second", {"evaluate": {"gates": SHUT}})))
    code, out, err = call("run", file.name, "--run-dir", "run", cwd=tmp_path)
    assert code == 1
    last = err.splitlines()[-1]
    assert last.startswith("r1: a gate is not met, though all that was asked for is made. evaluate.second: accuracy is")
    assert last.endswith("report.md)")
    assert set(summary_of(tmp_path).values()) == {"done", "reused"}
    code, out, err = call("status", "run", cwd=tmp_path)
    [line] = [line for line in out.splitlines() if line.startswith("evaluate.second")]
    assert "gate not met: accuracy is 0." in line


def test_common_gates_ask_nothing_of_given_models(tmp_path: Path) -> None:
    nodes = {n.name: n for n in plan_of(project(tmp_path, evaluate={"data_from": "held_out", "gates": SHUT}))}
    assert not nodes["evaluate.base"].gates
    assert nodes["evaluate.first"].gates == nodes["evaluate.second"].gates == {"accuracy": Gate(least=0.999)}


def test_a_gate_that_nobody_measured_lets_nothing_through(tmp_path: Path) -> None:
    file = gated(tmp_path, OPEN)
    toy_run(file, only="first")
    shutil.rmtree(one(list((tmp_path / "run" / "artifacts").glob("evaluate.first-*"))))
    said = r"keep is not made, for it builds on first\. evaluate\.first has gates and is not measured; run with --only"
    with pytest.raises(GateShut, match=said):
        toy_run(file, only="keep")
    toy_run(file, only="evaluate.first")
    assert statuses(toy_run(file, only="keep"))["keep"] == "done"


def test_gates_that_come_too_late_are_refused(tmp_path: Path) -> None:
    late = {"data_from": "held_out", "preference_from": "judge", "gates": OPEN}
    with pytest.raises(ValueError, match=r"toy\.yaml: evaluate\.first: its gates come too late: \w+ is built on first"):
        plan_of(project(tmp_path, evaluate=late))
    attack = {"name": "red_team", "stage": "evaluation", "init_from": "first", "data_from": "held_out", "gates": OPEN}
    with pytest.raises(
        ValueError, match=r"steps\.red_team: its gates come too late: keep is built on first before them"
    ):
        plan_of(project(tmp_path, steps=[*steps(), attack]))


def test_an_evaluation_of_its_own_guards_what_runs_after_it(tmp_path: Path) -> None:
    attack = {"name": "red_team", "stage": "evaluation", "init_from": "first", "data_from": "held_out", "gates": SHUT}
    first, *rest = steps()
    file = project(tmp_path, steps=[first, attack, *rest])
    with pytest.raises(GateShut, match=r"keep is not made, for it builds on first\. red_team: accuracy is"):
        toy_run(file)


def test_gates_are_no_part_of_the_identity() -> None:
    shut, free = (EvaluationConfig(gates=gates) for gates in ({"accuracy": Gate(least=1)}, {}))
    hidden = set(EvaluationConfig.NO_IDENTITY)
    assert shut.model_dump(exclude=hidden) == free.model_dump(exclude=hidden)


def test_what_was_not_measured_meets_no_gate() -> None:
    metric = Metric(value=0.5, n=8, low=0.2, high=0.8)
    gates = {"safety": Gate(least=0.9), "accuracy": Gate(most=0.4), "format": Gate(least=0.5, most=0.5)}
    assert unmet(gates, {"accuracy": metric, "format": metric}) == [
        "safety was not measured (measured: accuracy, format)",
        "accuracy is 0.500 [0.200, 0.800] of 8, above 0.4",
    ]


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        ({"acuracy": {"least": 1}}, "evaluate: gates: no figure is called 'acuracy'; did you mean 'accuracy'?"),
        ({"xyz": {"least": 1}}, "evaluate: gates: no figure is called 'xyz'; known: accuracy, format"),
        ({"pass@8": {}}, "evaluate: gates.pass@8: a gate needs least or most"),
        (
            {"pass@8": {"least": 0.1}},
            "evaluate: gates: pass@8 is not measured; with samples: 4 there is pass@1, pass@2, ",
        ),
        (
            {"maj@2": {"least": 0.1}},
            "evaluate: gates: maj@2 is not measured; with samples: 4 there is pass@1, pass@2, ",
        ),
        ({"accuracy": {"least": 90}}, "evaluate: gates: accuracy is a share, from 0 to 1; no share meets these bounds"),
        ({"tokens": {"least": 9, "most": 3}}, "evaluate: gates.tokens: least = 9 is above most = 3"),
        ({"accuracy.math": {"lest": 1}}, "evaluate: gates.accuracy.math: unknown key 'lest'; did you mean 'least'?"),
        ({"accuracy": 0.3}, "evaluate: gates.accuracy: expected keys and values"),
    ],
)
def test_a_gate_that_cannot_be_ends_in_one_line(gates: Any, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        EvaluationConfig.model_validate({"gates": gates, "samples": 4})
    assert explain(caught.value, EvaluationConfig, "evaluate").startswith(said)


def test_what_can_be_measured_may_have_a_gate() -> None:
    names = ("pass@1", "pass@4", "maj@4", "accuracy.math", "tokens", "preference")
    EvaluationConfig(samples=4, gates={name: Gate(least=0.5) for name in names})
    with pytest.raises(ValidationError, match="with samples: 1 there is none of its kind"):
        EvaluationConfig(gates={"pass@1": Gate(least=0.5)})


def test_a_gate_on_the_preference_needs_a_model_that_gives_one() -> None:
    config = EvaluationConfig(gates={"preference": Gate(least=0)})
    with pytest.raises(ValueError, match="gates: preference is not measured without preference_from"):
        check(config, ["init", "data"], Placement())
    check(config, ["init", "data", "preference"], Placement())


def test_a_gate_that_cannot_be_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"steps\.first\.evaluate: gates\.accuracy: a gate needs least or most$"):
        plan_of(gated(tmp_path, {"accuracy": {}}))
