"""Skipping, staleness, selection, failures and reports, in this process with toy stages."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from data.artifact import Contract, Kind
from pipeline.launcher import StepFailed
from pipeline.plan import Plan
from pipeline.report import cell
from pipeline.store import Record
from stages.stage import Metric, Outcome
from tests.toy_project import NAMES, one, project, statuses, steps, toy_row, toy_run
from tests.toy_stages import TOY


def made(plan: Plan) -> list[str]:
    return [name for name, status in statuses(plan).items() if status == "done"]


def record_of(run: Path, name: str) -> dict[str, Any]:
    return json.loads(one(list((run / "artifacts").glob(f"{name}-*/record.json"))).read_text())


def test_a_second_run_makes_nothing(tmp_path: Path) -> None:
    file = project(tmp_path)
    assert made(toy_run(file)) == NAMES
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "artifacts").rglob("*")}
    assert set(statuses(toy_run(file)).values()) == {"reused"}
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "artifacts").rglob("*")} == before


def test_a_changed_threshold_reruns_its_step_and_those_after_it_and_says_why(tmp_path: Path) -> None:
    from pipeline.config import load
    from pipeline.graph import build
    from pipeline.runner import Options, run

    file = project(tmp_path)
    toy_run(file)
    config = load(file, ["steps.keep.keep_fraction=0.9"])
    said: list[str] = []
    plan = run(config, build(config, TOY, file), tmp_path / "run", Options(), said.append)
    assert made(plan) == ["keep", "second", "evaluate.second"]
    assert said[::2] == [
        "[6/9] keep: config.keep_fraction: 0.5 -> 0.9",
        "[7/9] second: input data: keep changed",
        "[8/9] evaluate.second: input init: second changed",
    ]


def test_a_first_run_names_its_steps_and_says_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pipeline.runner as runner
    from pipeline.config import load
    from pipeline.graph import build

    names: list[str] = []

    def execute(*arguments: Any) -> Outcome:
        names.append(arguments[4].name)
        return launcher_execute(*arguments)

    launcher_execute = runner.execute
    monkeypatch.setattr(runner, "execute", execute)
    file = project(tmp_path)
    config = load(file)
    said: list[str] = []
    options = runner.Options()
    runner.run(config, build(config, TOY, file), tmp_path / "run", options, said.append)
    assert said[::2] == [f"[{at}/9] {name}" for at, name in enumerate(NAMES, start=1)]
    assert names == NAMES, "what a stage calls its progress bars"
    said.clear()
    runner.run(config, build(config, TOY, file), tmp_path / "run", runner.Options(only="keep", force=True), said.append)
    assert said[0] == "[6/9] keep: made again by --force"


def test_rows_and_held_out_figures_are_said_when_they_are_there(tmp_path: Path) -> None:
    from pipeline.config import load
    from pipeline.graph import build
    from pipeline.runner import Options, run

    file = project(tmp_path)
    config = load(file)
    said: list[str] = []
    run(config, build(config, TOY, file), tmp_path / "run", Options(), said.append)
    done = {line.split()[1].rstrip(":"): line for line in said if ": done in" in line}
    assert done["rows"].endswith(" s (used 6)")
    assert re.search(r" s \(accuracy 0\.\d+ \[0\.\d+, \d\.\d+\] n=\d+\)$", done["evaluate.first"]), done
    assert done["first"].endswith(" s")


def test_a_figure_without_an_interval_shows_none() -> None:
    assert cell({"value": 960, "n": 4800, "low": 960, "high": 960}) == "960 n=4800"
    assert cell({"value": 0.03, "n": 94, "low": 0.03, "high": 0.03}) == "0.030 n=94"
    assert cell({"value": 1.0, "n": 9, "low": 1.0, "high": 1.0}) == "1.000 n=9"
    assert cell({"value": 0.5, "n": 4, "low": 0.25, "high": 0.75}) == "0.500 [0.250, 0.750] n=4"


def test_switching_back_finds_what_was_made(tmp_path: Path) -> None:
    file = project(tmp_path)
    toy_run(file)
    toy_run(file, "steps.keep.keep_fraction=0.9")
    assert made(toy_run(file)) == []


def test_records_say_how_it_was_made(tmp_path: Path) -> None:
    toy_run(project(tmp_path, seed=4))
    record = record_of(tmp_path / "run", "second")
    first = record_of(tmp_path / "run", "first")
    assert record["parents"] == [first["fingerprint"], *(r["fingerprint"] for r in record["recipe"]["inputs"]["data"])]
    assert record["recipe"]["config"]["learning_rate"] == 0.5
    assert record["recipe"]["stage"] == "toy_train"
    assert (record["seed"], record["recipe"]["version"], record["kind"]) == (4, 1, "model")
    assert record["contract"]["convention"] == "think_answer"
    assert record["counts"]["rows_used"] == 9
    assert record["code"].startswith("0.1.0")
    assert record["started"].endswith("+00:00")
    assert record["seconds"] >= 0
    assert record["timings"] == {"training": 0.0}


def test_two_runs_make_the_same(tmp_path: Path) -> None:
    toy_run(project(tmp_path / "a"))
    toy_run(project(tmp_path / "b"))
    a, b = (one(list((tmp_path / x / "run" / "artifacts").glob("second-*"))) for x in "ab")
    assert a.name == b.name
    assert (a / "numbers.json").read_text() == (b / "numbers.json").read_text()


def test_only_and_from_select_what_may_run(tmp_path: Path) -> None:
    file = project(tmp_path)
    toy_run(file)
    plan = toy_run(file, "steps.first.seed=9", only="first")
    assert made(plan) == ["first", "evaluate.first"]
    assert statuses(plan)["second"] == "pending"
    assert made(toy_run(file, "steps.first.seed=9", from_step="keep")) == ["keep", "second", "evaluate.second"]
    assert made(toy_run(file, "steps.first.seed=9")) == ["judge"]


def test_an_evaluation_that_needs_another_step_is_left_pending(tmp_path: Path) -> None:
    file = project(tmp_path, evaluate={"data_from": "held_out", "preference_from": "judge"})
    plan = toy_run(file, only="first")
    assert made(plan) == ["rows", "first"]
    assert statuses(plan)["evaluate.first"] == "pending"
    with pytest.raises(ValueError, match=r"^evaluate.first reads judge, which is not current"):
        toy_run(file, only="evaluate.first")
    assert made(toy_run(file, only="judge")) == ["judge"]
    assert made(toy_run(file, only="first")) == ["held_out", "evaluate.first"]
    assert made(toy_run(file, from_step="keep")) == ["keep", "second", "evaluate.second"]


def test_a_selected_step_gets_the_data_that_it_needs(tmp_path: Path) -> None:
    assert made(toy_run(project(tmp_path), only="first")) == ["rows", "held_out", "first", "evaluate.first"]


def test_force_makes_the_selected_steps_again(tmp_path: Path) -> None:
    file = project(tmp_path)
    toy_run(file)
    before = record_of(tmp_path / "run", "keep")["started"]
    assert made(toy_run(file, only="keep", force=True)) == ["keep"]
    assert record_of(tmp_path / "run", "keep")["started"] > before
    assert made(toy_run(file, from_step="second", force=True)) == ["second", "evaluate.second"]
    assert made(toy_run(file, force=True)) == NAMES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "secnd"}, "--only secnd: unknown step; did you mean 'second'?"),
        ({"from_step": "thrid"}, "--from thrid: unknown step"),
        ({"from_step": "keep", "only": "keep"}, "--from and --only exclude each other"),
        (
            {"only": "second"},
            "second reads first, which is not current (it has not been made yet); make that one first",
        ),
    ],
)
def test_selection_mistakes(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        toy_run(project(tmp_path), **options)
    assert message in str(caught.value)


def test_a_malformed_row_stops_the_run_before_any_training(tmp_path: Path) -> None:
    file = project(tmp_path)
    with (tmp_path / "rows.jsonl").open("a") as rows:
        rows.write('{"id": "x"}\n')
    with pytest.raises(ValueError, match=r"^rows: .*rows.jsonl:7: the column 'prompt' is missing$"):
        toy_run(file)
    assert not list((tmp_path / "run" / "artifacts").glob("first-*"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {step["name"]: step["status"] for step in summary["steps"]} == dict.fromkeys(NAMES, "pending") | {
        "rows": "failed"
    }


def test_a_source_without_rows_is_refused(tmp_path: Path) -> None:
    file = project(tmp_path)
    (tmp_path / "rows.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"^rows: \S+/rows.jsonl has no usable row \(it is empty\)$"):
        toy_run(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": {"base": {"path": "gone"}}}, "models.base.path: there is no directory"),
        ({"models": {"base": {"path": "."}}}, "is not a checkpoint: it has no config.json"),
        ({"data": {"rows": {"source": "records", "path": "gone.jsonl"}}, "evaluate": None}, "data.rows: "),
        ({"models": {"base": {"hub": "o/n", "revision": "unpinned"}}}, "models.base.revision: o/n is not pinned"),
        ({"launch": {"deepspeed": "gone.json"}}, "launch.deepspeed: there is no file"),
        ({"launch": {"processes": 2, "machines": 2}}, "machine"),
    ],
)
def test_what_is_refused_leaves_no_run_directory(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        toy_run(project(tmp_path, **change))
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fail", "error", "message"),
    [
        ("value", ValueError, "second: the toy was told to fail"),
        ("bug", StepFailed, "second failed: RuntimeError: the toy broke (traceback: "),
    ],
)
def test_a_broken_step_keeps_what_was_finished(tmp_path: Path, fail: str, error: type[Exception], message: str) -> None:
    file = project(tmp_path)
    with pytest.raises(error) as caught:
        toy_run(file, f"steps.second.fail={fail}")
    assert message in str(caught.value)
    assert "tests/toy_stages.py" in (tmp_path / "run" / "failed.log").read_text()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    status = {step["name"]: step["status"] for step in summary["steps"]}
    assert (status["keep"], status["second"], status["judge"]) == ("done", "failed", "pending")
    assert made(toy_run(file)) == ["second", "evaluate.second", "judge"]


def test_a_metric_that_is_not_a_number_breaks_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = Metric(value=float("nan"), n=1, low=0.0, high=1.0)
    outcome = Outcome(contract=Contract(), metrics={"accuracy": nan})
    monkeypatch.setattr("pipeline.runner.execute", lambda *_: outcome)
    with pytest.raises(StepFailed, match="the metric 'accuracy' is not a finite number"):
        toy_run(project(tmp_path))


@pytest.mark.parametrize("launch", [{"own_process": True}, {"processes": 2, "threads": 1}])
def test_a_child_makes_what_this_process_makes(tmp_path: Path, launch: dict[str, Any]) -> None:
    toy_run(project(tmp_path / "here"))
    toy_run(project(tmp_path / "child", steps=steps(("second", {"launch": launch}))))
    here, child = (one(list((tmp_path / x / "run" / "artifacts").glob("second-*"))) for x in ("here", "child"))
    assert here.name == child.name
    assert (here / "numbers.json").read_text() == (child / "numbers.json").read_text()
    assert record_of(tmp_path / "child" / "run", "second")["counts"]["rank"] == 0


def test_one_process_under_accelerate_makes_what_this_process_makes(tmp_path: Path) -> None:
    toy_run(project(tmp_path / "here"))
    launch = {"accelerate_config": "accelerate.yaml"}
    file = project(tmp_path / "child", steps=steps(("second", {"launch": launch})))
    settings = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "NO", "use_cpu": True, "num_processes": 1}
    (tmp_path / "child" / "accelerate.yaml").write_text(json.dumps({**settings, "num_machines": 1}))
    toy_run(file)
    here, child = (one(list((tmp_path / x / "run" / "artifacts").glob("second-*"))) for x in ("here", "child"))
    assert (here.name, (here / "numbers.json").read_text()) == (child.name, (child / "numbers.json").read_text())


@pytest.mark.parametrize(
    ("fail", "error", "message"),
    [
        ("value", ValueError, "first: the toy was told to fail"),
        ("bug", StepFailed, "first failed: RuntimeError: the toy broke"),
        ("exit", StepFailed, "first failed: the child process ended with exit code 7 and reported nothing"),
    ],
)
def test_failures_of_a_child(tmp_path: Path, fail: str, error: type[Exception], message: str) -> None:
    change = {"launch": {"own_process": True}, "fail": fail}
    with pytest.raises(error) as caught:
        toy_run(project(tmp_path, steps=steps(("first", change))))
    assert message in str(caught.value)


def test_summary_and_report(tmp_path: Path) -> None:
    plan = toy_run(project(tmp_path))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    entries = {entry["name"]: entry for entry in summary["steps"]}
    assert [entry["name"] for entry in summary["steps"]] == ["base", *NAMES]
    assert set(summary) == {"total_seconds", "steps"}
    assert summary["total_seconds"] == pytest.approx(sum(entry["seconds"] for entry in summary["steps"]))
    for name in ("base", "first", "second"):
        assert entries[name]["metrics"] == (entries[f"evaluate.{name}"]["metrics"])
        assert set(entries[name]["metrics"]) == {"accuracy", "format", "language"}
        assert set(entries[name]["metrics"]["accuracy"]) == {"value", "n", "low", "high"}
    assert set(entries["first"]) == {"name", "stage", "status", "fingerprint", "seconds", "metrics"}
    assert entries["judge"]["metrics"] == {}
    assert entries["first"]["fingerprint"] == plan.states[3].fingerprint
    report = (tmp_path / "run" / "report.md").read_text()
    assert "| keep | refused | 3 |" in report
    assert "| second | done |" in report
    assert "| base | given | 0.0 |" in report, "nobody made it, so nobody reused it"
    assert "| first | resumed_at |" not in report, "none of something is no news"
    toy_run(tmp_path / "toy.yaml")
    again = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {entry["status"] for entry in again["steps"]} == {"reused"}
    assert again["total_seconds"] == summary["total_seconds"]


def test_unusable_rows_are_reported_by_reason(tmp_path: Path) -> None:
    file = project(
        tmp_path,
        data={name: {"source": "records", "path": "rows.jsonl", "on_error": "count"} for name in ("rows", "held_out")},
    )
    with (tmp_path / "rows.jsonl").open("a") as rows:
        rows.write(json.dumps(toy_row(7) | {"domain": 3}) + "\n")
    toy_run(file)
    assert "| rows | unusable: malformed | 1 |" in (tmp_path / "run" / "report.md").read_text()


def write_record(folder: Path, **contract: str) -> None:
    from dataclasses import asdict

    record = Record(
        name="made", kind=Kind.MODEL, fingerprint="0" * 12, recipe={}, contract=Contract(**contract), parents=(),
        seed=0, code="", started="", seconds=1.0,
    )  # fmt: skip
    (folder / "record.json").write_text(json.dumps(asdict(record)))


def test_a_given_model_of_another_convention_is_refused_before_anything_runs(tmp_path: Path) -> None:
    file = project(tmp_path)
    write_record(tmp_path / "model", convention="zh")
    with pytest.raises(ValueError, match=r"first: input init \(base\) was made under the convention 'zh', and this"):
        toy_run(file, "evaluate=false")
    assert not (tmp_path / "run").exists()


def test_a_given_model_that_contradicts_its_record_is_refused(tmp_path: Path) -> None:
    file = project(tmp_path)
    write_record(tmp_path / "model", eos="</s>", chat_template="0" * 12)
    (tmp_path / "model" / "tokenizer_config.json").write_text('{"eos_token": "<end>", "chat_template": "x"}')
    with pytest.raises(ValueError, match=r"model: chat_template, eos on disk differs from the record of 'base'"):
        toy_run(file)


def test_a_hub_model_is_fetched_once_and_only_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: list[str] = []

    def fetch(repo_id: str, revision: str, allow_patterns: list[str] | None) -> str:
        asked.append(f"{repo_id}@{revision}")
        return str(tmp_path / "model")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    file = project(tmp_path, models={"base": {"hub": "o/n", "revision": "a" * 40}})
    toy_run(file)
    assert asked == ["o/n@" + "a" * 40]
    toy_run(file)
    assert len(asked) == 1, "a run that has nothing to do downloads nothing"
    assert "second" in made(toy_run(file, f"models.base.revision={'b' * 40}"))


def test_a_given_dataset_is_no_model(tmp_path: Path) -> None:
    file = project(tmp_path)
    write_record(tmp_path / "model")
    text = (tmp_path / "model" / "record.json").read_text()
    (tmp_path / "model" / "record.json").write_text(text.replace('"model"', '"dataset"'))
    with pytest.raises(ValueError, match=r"models.base: .* holds a dataset"):
        toy_run(file)


def test_another_tokenizer_is_refused_when_models_are_joined(tmp_path: Path) -> None:
    changed = steps(("first", {"tokenizer": "abc"}), ("second", {"teacher_from": "other"}))
    other = {"name": "other", "stage": "toy_train", "init_from": "base", "data_from": "rows", "tokenizer": "xyz"}
    with pytest.raises(ValueError, match=r"second: teacher \(other\) and init \(first\) disagree on tokenizer"):
        toy_run(project(tmp_path, steps=[*changed, other]))


def test_a_checkpoint_that_was_changed_after_it_was_made_is_refused(tmp_path: Path) -> None:
    file = project(tmp_path, steps=steps(("first", {"tokenizer": "abc"})))
    toy_run(file)
    first = one(list((tmp_path / "run" / "artifacts").glob("first-*")))
    (first / "chat_template.jinja").write_text("{{ other }}")
    with pytest.raises(ValueError, match="chat_template on disk differs from the record of 'first'"):
        toy_run(file, "steps.keep.keep_fraction=0.9")


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    file = project(tmp_path)
    toy_run(file)
    record = one(list((tmp_path / "run" / "artifacts").glob("keep-*"))) / "record.json"
    record.write_text("{}")
    with pytest.raises(ValueError, match=r"keep-.*record.json: not a record .*; delete the directory"):
        toy_run(file)


def test_a_deleted_artifact_is_made_again(tmp_path: Path) -> None:
    file = project(tmp_path)
    toy_run(file)
    shutil.rmtree(one(list((tmp_path / "run" / "artifacts").glob("keep-*"))))
    assert made(toy_run(file)) == ["keep"]


def test_a_refused_configuration_does_not_take_the_place_of_the_last_one_run(tmp_path: Path) -> None:
    file = project(tmp_path)
    toy_run(file)
    before = (tmp_path / "run" / "config.json").read_text()
    with pytest.raises(ValueError, match=r"launch\.deepspeed: there is no file"):
        toy_run(file, "launch.deepspeed=gone.json", "steps.second.steps=9")
    assert (tmp_path / "run" / "config.json").read_text() == before


def test_rows_that_are_no_json_are_named_by_line(tmp_path: Path) -> None:
    from data.records import read_rows, write_rows

    file = tmp_path / "rows.jsonl"
    for line, reason in ((b"{", "not JSON"), (b'"\xff"', "not UTF-8"), (b"[" * 100_000, "nested too deeply")):
        write_rows(file, [toy_row(1)])
        file.write_bytes(file.read_bytes() + line)
        with pytest.raises(ValueError, match=rf"rows\.jsonl:2: .*{reason}"):
            list(read_rows(file))
