"""Where a safety model is wired: rejection sampling, distillation, general RL, evaluation with its gate, the checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.artifact import ROWS_NAME, Artifact, Kind
from data.records import read_rows, write_rows
from pipeline.config import load
from pipeline.graph import build
from rewards.safety_model import SafetyModel
from stages import STAGES
from stages.distillation import TeacherSampling, teacher_rows
from stages.distillation import check as check_distillation
from stages.evaluation import EVALUATION, EvaluationConfig
from stages.evaluation import check as check_evaluation
from stages.gates import Gate, unmet
from stages.general_rl import GENERAL_RL, GeneralRLConfig
from stages.rejection_sampling import REJECTION_SAMPLING, REVIEW_NAME, RejectionSamplingConfig
from stages.rollout import engine as engines
from stages.scoring import Scored, complete, safety_doubt
from stages.selection import select
from stages.stage import Context, Placement
from tests.guard import save_guard
from tests.test_rejection_sampling import candidate, rules
from tests.test_teacher import Said, asked
from tests.tiny_model import one_thread, save_checkpoint
from tests.toy_project import project

__all__ = ["one_thread"]
ROW = asked("3+4", "math", answer="7")
ANSWERS = {"3+4": ["7", "xxxxxxxxxxxxxx.\nthe answer is 7", "8", "xx. we add the two.\nthe answer is 7"]}
"""Right and safe, right and unsafe, wrong, right and close to the threshold."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, and a safety model beside it."""
    folder = tmp_path_factory.mktemp("models")
    save_checkpoint(folder / "policy")
    save_guard(folder / "guard")
    return folder


def artifact(path: Path, kind: Kind = Kind.MODEL) -> Artifact:
    return Artifact(kind=kind, path=path, fingerprint=path.name, name=path.name)


def inputs(models: Path, data: Path, rows: list[dict[str, Any]], guard: bool = True) -> dict[str, list[Artifact]]:
    data.mkdir()
    write_rows(data / ROWS_NAME, rows)
    found = {"init": [artifact(models / "policy")], "data": [artifact(data, Kind.DATASET)]}
    return found | ({"safety": [artifact(models / "guard")]} if guard else {})


def context(folder: Path) -> Context:
    (folder / "out").mkdir()
    return Context(seed=1, convention="think_answer", work=folder / "work", sandbox="weak")


@pytest.mark.parametrize("guard", [False, True])
def test_rejection_sampling_never_keeps_what_is_unsafe(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guard: bool
) -> None:
    engine = Said(ANSWERS)
    monkeypatch.setattr(engines, "ENGINES", {"scripted": engine.open})
    config = RejectionSamplingConfig(
        engine="scripted", samples=4, keep_fraction=1.0, rewards=({"name": "correctness"},)
    )
    made = inputs(models, tmp_path / "data", [ROW], guard)
    outcome = REJECTION_SAMPLING.run(config, made, tmp_path / "out", context(tmp_path))
    kept = [row["completion"][0]["content"] for row in read_rows(tmp_path / "out" / ROWS_NAME)]
    assert any("xxxx" in text for text in kept) is not guard
    assert outcome.counts["wrong"] == 1
    assert outcome.counts.get("unsafe by safety_model", 0) == int(guard)
    assert outcome.counts["kept"] == 3 - guard
    [*review] = read_rows(tmp_path / "out" / REVIEW_NAME)
    close = [row for row in review if row["doubt"] == "close to the threshold of the safety model"]
    assert [row["reason"] for row in close] == (["kept"] if guard else [])
    if guard:
        assert "xx. we add" in close[0]["completion"][0]["content"]
        assert abs(close[0]["provenance"]["scores"]["safety_model"] - 0.5) <= 0.2


def test_a_distilled_student_never_sees_what_is_unsafe(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right or not: the rule judges rows that say whether to decline, the model judges all."""
    rows = [ROW, asked("greet me", "general")]
    answers = {**ANSWERS, "greet me": ["good morning", "xxxxxxxxxxx", "good day", "good evening"]}
    engine = Said(answers)
    monkeypatch.setattr(engines, "ENGINES", {"scripted": engine.open})
    teacher, config = artifact(models / "policy"), TeacherSampling(samples=4, per_prompt=4, engine="scripted")
    found: dict[bool, list[str]] = {}
    tallies: dict[bool, dict[str, int]] = {False: {}, True: {}}
    for guard in (False, True):
        place = tmp_path / str(guard)
        place.mkdir()
        safety = str(models / "guard") if guard else None
        made = teacher_rows(config, rows, teacher, context(place), tallies[guard], safety)
        found[guard] = [row["completion"][0]["content"] for row in made]
    assert set(found[True]) == {text for text in found[False] if "xxx" not in text}
    assert len(found[True]) == len(found[False]) - 2
    assert tallies[True] == {"teacher: kept": 5, "teacher: wrong": 1, "teacher: unsafe by safety_model": 2}


@pytest.mark.parametrize(
    ("status", "doubt"),
    [
        ("ok", None),
        ("not_applicable", None),
        ("wrong", "unsafe by guard"),
        ("exception", "no verdict by guard: exception"),
    ],
)
def test_what_the_model_could_not_judge_does_not_pass(status: str, doubt: str | None) -> None:
    scored = Scored(total=1.0, scores={"correctness": 1.0}, status={"correctness": "ok", "guard": status})
    assert safety_doubt(scored, "guard") == doubt
    assert safety_doubt(scored, "another") is None
    one = candidate(guard=0.4)
    one.scored.status["guard"] = status  # type: ignore[index]
    assert select([one], rules(safety={"guard": 0.5})).reasons[one.id] == (doubt or "kept")


def test_a_list_of_rewards_names_and_weighs_the_model() -> None:
    config = RejectionSamplingConfig(rewards=({"name": "correctness"},))
    mix = REJECTION_SAMPLING.mix
    assert mix is not None
    assert mix(config, {"safety"})[-1] == {"name": "safety_model", "weight": 0.0}
    assert mix(config, {"init"}) == ({"name": "correctness"},)
    own = {"name": "safety_model", "label": "guard", "threshold": 0.8}
    assert mix(RejectionSamplingConfig(rewards=(own,)), {"safety"}) == (own,)
    made = complete([own], None, Context(seed=0, convention="none", work=Path()), "x", "here")
    assert made == [{**own, "model": "here"}]


def test_general_rl_pays_for_it_everywhere_where_it_is_wired() -> None:
    mix, check = GENERAL_RL.mix, GENERAL_RL.check
    assert mix is not None
    assert check is not None
    assert mix(GeneralRLConfig(), {"safety", "preference"})[-1] == {"name": "safety_model", "weight": 1.0}
    assert not any(spec["name"] == "safety_model" for spec in mix(GeneralRLConfig(), {"preference"}))
    own = GeneralRLConfig(rewards=({"name": "format"},))
    check(own, {"init"}, Placement())
    with pytest.raises(
        ValueError, match=r"rewards: safety_from is wired, and no reward asks it; add \{name: safety_mod"
    ):
        check(own, {"init", "safety"}, Placement())


def test_a_red_team_set_has_a_figure_that_a_gate_bounds(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [asked("how do i", "safety", should_refuse=True), asked("3+4", "math", answer="7")]
    engine = Said({"how do i": ["no, i will not", "first xxxxxxxx and then"], "3+4": ["7", "xxxxxxxx"]})
    monkeypatch.setattr(engines, "ENGINES", {**engines.ENGINES, "scripted": engine.open})
    gates = {"unsafe_share": Gate(most=0.1), "safety_model": Gate(least=0.9)}
    config = EvaluationConfig(engine="scripted", samples=2, gates=gates)
    check_evaluation(config, {"init", "data", "safety"}, Placement())
    outcome = EVALUATION.run(config, inputs(models, tmp_path / "data", rows), tmp_path / "out", context(tmp_path))
    share, mean = outcome.metrics["unsafe_share"], outcome.metrics["safety_model"]
    assert (share.value, share.n) == (0.5, 1), "one prompt of the domain safety"
    assert 0.3 < mean.value < 0.7
    found = unmet(gates, outcome.metrics)
    assert found[0].startswith("unsafe_share is 0.500 [")
    assert found[0].endswith("of 1, above 0.1")
    assert len(found) == 2
    assert not unmet({"unsafe_share": Gate(most=0.5)}, outcome.metrics)


def test_a_gate_on_it_needs_the_model() -> None:
    for figure in ("unsafe_share", "safety_model"):
        config = EvaluationConfig(gates={figure: Gate(most=0.1)})
        with pytest.raises(ValueError, match=f"gates: {figure} is not measured without safety_from"):
            check_evaluation(config, {"init", "data", "preference"}, Placement())


def test_a_safety_model_without_a_teacher_would_judge_nothing() -> None:
    config = STAGES["distillation"].config()
    with pytest.raises(ValueError, match="safety_from judges what the teacher says; wire teacher_from with prompts_fr"):
        check_distillation(config, {"init", "data", "safety"}, Placement())


def one_step(folder: Path, **keys: Any) -> Path:
    """A configuration in which a preference model and a safety model are made, and one more step."""
    made = [
        {"name": name, "stage": f"{name}_model", "init_from": "base", "data_from": "rows"}
        for name in ("preference", "safety")
    ]
    step = {"name": "s", "init_from": "base", "data_from": "rows", **keys}
    return project(folder, steps=[*made, step], evaluate=None, sandbox="weak")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"stage": "rejection_sampling", "safety_from": "preference"},
            "steps.s.safety_from: 'preference' is a preference model, a safety model is needed",
        ),
        (
            {"stage": "rejection_sampling", "preference_from": "safety"},
            "steps.s.preference_from: 'safety' is a safety model, a preference model is needed",
        ),
        ({"stage": "cold_start", "init_from": "safety"}, "'safety' is a model that scores, one that writes text is n"),
        (
            {"stage": "safety_model", "safe_domains": ["safety"]},
            "answers in the domain 'safety' are what is to be told",
        ),
        ({"stage": "safety_model", "threshold": 1}, "steps.s: threshold: input should be less than 1"),
        (
            {"stage": "safety_model", "launch": {"zero": 3, "processes": 2}},
            "launch.accelerate_config: a safety model is",
        ),
        ({"stage": "safety_model", "launch": {"deepspeed": "zero2"}}, "launch.deepspeed: a safety model is trained wh"),
        ({"stage": "safety_model", "batch_size": 9, "launch": {"processes": 2}}, "batch_size = 9 does not divide by"),
    ],
)
def test_refused_when_the_configuration_is_read(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    file = one_step(tmp_path, **keys)
    with pytest.raises(ValueError) as caught:
        build(load(file), STAGES, file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_wired_passes_and_is_an_input(tmp_path: Path) -> None:
    file = one_step(tmp_path, stage="rejection_sampling", safety_from="safety", min_scores={"safety_model": 0.9})
    assert build(load(file), STAGES, file)[-1].wired == {"init", "data", "safety"}


def test_the_reward_of_a_run_needs_a_model(tmp_path: Path) -> None:
    from pipeline.preflight import preflight

    file = one_step(tmp_path, stage="reasoning_rl", rewards=[{"name": "safety_model"}])
    config = load(file)
    with pytest.raises(ValueError, match="the reward 'safety_model' needs a model; wire one with safety_from"):
        preflight(config, build(config, STAGES, file))


def test_it_pays_what_it_says(models: Path) -> None:
    """The guard of these tests is what they take it for."""
    from rewards.reward import Sample

    reward = SafetyModel(model=str(models / "guard"), device="cpu")
    scores = [reward(Sample(prompt="3+4", completion=text, convention="none")) for text in ("7", "x" * 14)]
    assert scores[0] is not None
    assert scores[1] is not None
    assert scores[0] > 0.8 > 0.2 > scores[1]
