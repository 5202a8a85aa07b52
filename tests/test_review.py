"""What people said reaches the next step: rows taken in, dropped, corrected, and a fingerprint that follows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.artifact import ROWS_NAME, Artifact, Kind
from data.records import read_rows, write_rows
from data.verdicts import read_verdicts
from pipeline import cli
from pipeline.config import load
from pipeline.graph import build
from pipeline.review_log import ReviewLog
from pipeline.review_session import Session
from pipeline.review_target import resolve
from pipeline.runner import Options, run
from pipeline.status import status_lines
from stages import STAGES
from stages.rejection_sampling import REVIEW_NAME
from stages.review import REVIEW, ReviewConfig
from stages.stage import Context, Outcome, Stage
from tests.test_rejection_sampling import checkpoint, sample_rejectively, sums  # noqa: F401
from tests.toy_project import CONFIG, project, statuses, steps, toy_row
from tests.toy_stages import TOY, sample

BETTER = "<think>better</think><answer>4</answer>"


def row(number: int, **columns: Any) -> dict[str, Any]:
    text = f"<think>so {number}</think><answer>4</answer>"
    return toy_row(number) | {"completion": [{"role": "assistant", "content": text}]} | columns


def verdicts(file: Path, *lines: Mapping[str, Any]) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def one(number: int, verdict: str, **more: str) -> dict[str, str]:
    return {"id": f"row-{number}", "verdict": verdict} | more


def review(
    folder: Path,
    *lines: Mapping[str, Any],
    rows: list[dict[str, Any]] | None = None,
    queue: list[dict[str, Any]] | None = None,
    **settings: Any,
) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Counts and rows after the verdicts `lines` on five rows."""
    data, out = folder / "data", folder / "out"
    for place in (data, out):
        place.mkdir(exist_ok=True)
    write_rows(data / ROWS_NAME, [row(n) for n in range(5)] if rows is None else rows)
    if queue is not None:
        write_rows(data / REVIEW_NAME, queue)
    file = verdicts(folder / "v.jsonl", *lines)
    artifact = Artifact(kind=Kind.DATASET, path=data, fingerprint="x", name="chains")
    context = Context(seed=0, convention=settings.pop("convention", "think_answer"), work=folder)
    outcome: Outcome = REVIEW.run(ReviewConfig(reviewed=str(file), **settings), {"data": [artifact]}, out, context)
    return {key: n for key, n in outcome.counts.items() if n}, list(read_rows(out / ROWS_NAME))


def numbers(rows: list[dict[str, Any]]) -> list[int]:
    return [int(r["id"].removeprefix("row-")) for r in rows]


def test_chains_are_kept_dropped_and_corrected(tmp_path: Path) -> None:
    counts, rows = review(
        tmp_path,
        one(0, "keep", reviewer="li", time="2026-01-02T03:04:05+00:00"),
        one(1, "drop"),
        one(3, "correct", completion=BETTER),
        one(4, "skip"),
    )
    assert numbers(rows) == [0, 2, 3, 4]
    assert counts == {
        "rows read": 5,
        "kept": 1,
        "dropped": 1,
        "corrected": 1,
        "verdicts: skip": 1,
        "rows without a verdict": 2,
        "rows written": 4,
    }
    assert rows[0]["review"] == {"verdict": "keep", "reviewer": "li", "time": "2026-01-02T03:04:05+00:00"}
    assert rows[2]["completion"] == [{"role": "assistant", "content": BETTER}]
    assert rows[2]["review"] == {"verdict": "correct"}
    assert rows[1] == row(2), "what nobody judged stays as it is"


def test_a_corrected_text_does_not_inherit_what_was_said_of_the_old_one(tmp_path: Path) -> None:
    old = {"safe": False, "judgement": "1_full_compliance", "chosen": None, "rejected": None}
    measured = {"step": "s", "total": 0.2, "tokens": 9, "scores": {"format": 0.0}}
    rows = [row(0, **old, provenance=measured), row(1, safe=False)]
    _, [corrected, kept] = review(tmp_path, one(0, "correct", completion=BETTER), one(1, "keep"), rows=rows)
    assert not {"safe", "judgement"} & set(corrected)
    assert corrected["provenance"] == {"step": "s"}
    assert kept["safe"] is False


def test_where_there_is_nothing_to_look_at_nobody_is_waited_for(tmp_path: Path) -> None:
    counts, rows = review(tmp_path, queue=[])
    assert counts == {"rows read": 5, "rows written": 5}
    assert numbers(rows) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("lines", [(), (one(0, "keep"), one(0, "undo"))])
def test_silence_is_no_consent(tmp_path: Path, lines: tuple[dict[str, str], ...]) -> None:
    with pytest.raises(
        ValueError, match=r"it waits for verdicts: there is none in .*v\.jsonl; make it with: r1 review"
    ):
        review(tmp_path, *lines)


def test_two_reviews_do_not_share_a_file(tmp_path: Path) -> None:
    """Rows that are sampled again have the ids of the old ones: the last word would be on another row."""
    file = reviewed_project(tmp_path)
    tree = yaml.safe_load(file.read_text())
    [step] = [step for step in tree["steps"] if step["stage"] == "review"]
    tree["steps"].append({**step, "name": "again"})
    file.write_text(yaml.safe_dump(tree))
    told = rf"steps\.again\.reviewed: {step['name']} has the same file; give each its own"
    with pytest.raises(ValueError, match=told):
        build(load(file), TABLE, file)


def test_raw_text_has_nothing_to_review(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.jsonl", [{"id": "1", "text": "a book", "domain": "d", "language": "en"}])
    with pytest.raises(ValueError, match="is raw text, which has no answers to review"):
        resolve(tmp_path / "t.jsonl", None, None, TABLE)


def test_edge_cases_that_were_left_out_are_taken_in(tmp_path: Path) -> None:
    queue = [row(n, reason="below the top fraction", doubt="close to the cut") for n in (1, 7, 8, 9, 10)]
    lines = [one(1, "drop"), one(7, "keep"), one(8, "drop"), one(9, "correct", completion=BETTER)]
    counts, rows = review(tmp_path, *lines, queue=queue)
    assert numbers(rows) == [0, 2, 3, 4, 7, 9]
    assert counts == {
        "rows read": 5,
        "dropped": 1,
        "taken in": 1,
        "left out as before": 1,
        "taken in, corrected": 1,
        "rows without a verdict": 1,
        "rows written": 6,
    }
    assert "reason" not in rows[4]
    assert "doubt" not in rows[4]
    assert rows[4]["review"] == {"verdict": "keep", "reason": "below the top fraction", "doubt": "close to the cut"}
    assert rows[5]["completion"][0]["content"] == BETTER


def test_what_nobody_judged(tmp_path: Path) -> None:
    queue = [row(n) for n in (0, 1, 7)]
    lines = [one(0, "keep"), one(1, "skip")]
    assert numbers(review(tmp_path, *lines, queue=queue)[1]) == [0, 1, 2, 3, 4]
    counts, rows = review(tmp_path, *lines, queue=queue, unreviewed="drop")
    assert numbers(rows) == [0, 2, 3, 4], "only rows that somebody was to look at"
    assert counts["dropped: without a verdict"] == 1
    with pytest.raises(ValueError, match=r"2 rows have no verdict yet, 'row-1' is the first; make it with: r1 review "):
        review(tmp_path, *lines, queue=queue, unreviewed="stop")
    lines = [one(0, "keep"), one(1, "drop"), one(7, "drop")]
    assert numbers(review(tmp_path, *lines, queue=queue, unreviewed="stop")[1]) == [0, 2, 3, 4]


def test_verdicts_on_what_is_not_there_are_counted_and_touch_nothing(tmp_path: Path) -> None:
    lines = [one(0, "drop", seen="0123456789ab"), one(77, "drop"), one(2, "drop")]
    counts, rows = review(tmp_path, *lines)
    assert numbers(rows) == [0, 1, 3, 4]
    assert counts["verdicts on another text of a row"] == 1
    assert counts["verdicts on rows that are not there"] == 1
    with pytest.raises(ValueError, match=r"none of the 2 verdicts in .*v.jsonl is about a row of chains"):
        review(tmp_path, *lines[:2])


def test_copies_share_a_verdict_and_another_text_has_its_own(tmp_path: Path) -> None:
    twice = [row(0), row(0), row(1) | {"id": "row-0"}, row(2)]
    assert numbers(review(tmp_path, one(0, "drop"), rows=twice)[1]) == [0, 2]
    counts, rows = review(tmp_path, {"id": "row-0@2", "verdict": "drop"}, rows=twice)
    assert (numbers(rows), counts["dropped"]) == ([0, 0, 2], 1)


def test_a_correction_keeps_earlier_turns_and_may_write_the_first_chain(tmp_path: Path) -> None:
    turns = [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    rows = [row(0, completion=[*turns, {"role": "assistant", "content": "c"}]), toy_row(1)]
    made = review(tmp_path, *[one(n, "correct", completion=BETTER) for n in (0, 1)], rows=rows)[1]
    assert made[0]["completion"] == [*turns, {"role": "assistant", "content": BETTER}]
    assert made[1]["completion"] == [{"role": "assistant", "content": BETTER}]


def test_what_cannot_be_done_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"v.jsonl:2: the correction of 'row-3' cannot be used: <推理过程> is missing"):
        review(tmp_path, one(0, "drop"), one(3, "correct", completion=BETTER), convention="zh")
    pair = row(0, chosen=row(0)["completion"], rejected=row(1)["completion"])
    with pytest.raises(ValueError, match="a pair of answers has no single text"):
        review(tmp_path, one(0, "correct", completion=BETTER), rows=[pair])
    with pytest.raises(ValueError, match="no row of chains is left"):
        review(tmp_path, one(0, "drop"), rows=[row(0)])


def sample_with_queue(config: Any, inputs: Any, out: Path, context: Context) -> Outcome:
    """As the toy stage, with the rows that it left out to be looked at; and a note that it ran."""
    outcome = sample(config, inputs, out, context)
    rows = list(read_rows(inputs["data"][0].path / ROWS_NAME))
    write_rows(out / REVIEW_NAME, [{**r, "doubt": "close to the cut", "reason": "below"} for r in rows[3:]])
    with (context.work.parent / "sampled.log").open("a") as log:
        log.write("once\n")
    return outcome


TABLE: dict[str, Stage] = {**TOY, "review": REVIEW, "toy_sample": replace(TOY["toy_sample"], run=sample_with_queue)}
JUDGED = {"name": "judged", "stage": "review", "data_from": "keep", "reviewed": "said/verdicts.jsonl"}


def reviewed_project(folder: Path) -> Path:
    """first -> keep (3 rows of 6) -> judged -> second."""
    made = steps(("second", {"data_from": "judged"}))[:3]
    return project(
        folder, steps=[made[0], made[1], JUDGED, made[2]], evaluate=False, data={"rows": CONFIG["data"]["rows"]}
    )


def whole_run(file: Path) -> dict[str, str]:
    config = load(file)
    nodes = build(config, TABLE, file)
    return statuses(run(config, nodes, file.parent / "run", Options(), say=lambda line: None))


def record(folder: Path, name: str) -> dict[str, Any]:
    """The newest record of a step."""
    found = [json.loads(p.read_text()) for p in folder.glob(f"run/artifacts/{name}-*/record.json")]
    newest: dict[str, Any] = max(found, key=lambda r: str(r["started"]))
    return newest


def test_people_stand_between_two_steps(tmp_path: Path) -> None:
    """The run waits for them; another verdict makes what follows again, and samples nothing anew."""
    file, run_dir, said = reviewed_project(tmp_path), tmp_path / "run", tmp_path / "said" / "verdicts.jsonl"
    with pytest.raises(ValueError, match=f"judged: it waits for verdicts: there is none in {said}; make it with: r1 "):
        whole_run(file)
    said.parent.mkdir()
    said.write_text("\n")  # what a page that was opened and left leaves behind
    with pytest.raises(ValueError, match=f"judged: it waits for verdicts: there is none in {said}; make it with: r1 "):
        whole_run(file)
    target = resolve(run_dir / "keep", None, None, TABLE)
    assert (target.out, [item.key for item in target.items]) == (said, ["row-3", "row-4", "row-5"])
    assert resolve(run_dir, None, None, TABLE) == target, "the one step with edge cases"
    assert resolve(target.source.parent, None, None, TABLE) == target, "named by its artifact"
    assert resolve(target.source, None, None, TABLE) == target, "named by its file"
    assert [item.key for item in resolve(run_dir / "rows", None, None, TABLE).items][:2] == ["row-0", "row-1"]

    people = Session(target, ReviewLog(said), reviewer="li")
    body = {"key": "row-4", "verdict": "keep", "revision": 0}
    assert people.judge(json.dumps(body).encode())[0] == 200
    assert whole_run(file)["judged"] == "done"
    assert record(tmp_path, "judged")["counts"]["taken in"] == 1
    assert record(tmp_path, "second")["counts"]["rows_used"] == 4
    assert set(whole_run(file).values()) == {"reused"}

    body = {"key": "row-4", "verdict": "undo", "revision": 1}
    assert people.judge(json.dumps(body).encode())[0] == 200
    with said.open("a") as lines:
        lines.write(json.dumps(one(0, "drop")) + "\n" + json.dumps(one(1, "drop")) + "\n")
    told = {line.split()[0]: line for line in status_lines(run_dir, run_dir / "config.json", [], TABLE)}
    assert "config.reviewed.drop: 0 -> 2; config.reviewed.keep: 1 -> 0" in told["judged"]
    assert "input data: judged changed" in told["second"]
    assert " current " in told["keep"]
    assert whole_run(file) == {
        "rows": "reused",
        "first": "reused",
        "keep": "reused",
        "judged": "done",
        "second": "done",
    }
    assert record(tmp_path, "second")["counts"]["rows_used"] == 1
    assert (run_dir / "work" / "sampled.log").read_text() == "once\n"

    verdicts(said, read_verdicts(said)["row-0"][1].to_json(), one(1, "drop"), one(2, "skip"))
    assert set(whole_run(file).values()) == {"reused"}, "the same decisions in another file"


def test_a_malformed_file_ends_the_run_before_it_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = reviewed_project(tmp_path)
    (tmp_path / "said").mkdir()
    said = verdicts(tmp_path / "said" / "verdicts.jsonl", one(0, "keep"), one(1, "kep"))
    assert cli.main(["run", str(file), "--run-dir", str(tmp_path / "run")], TABLE) == 2
    error = capsys.readouterr().err
    assert error == f"r1: steps.judged: {said}:2: unknown verdict 'kep'; did you mean 'keep'?\n"
    assert not (tmp_path / "run").exists()


def test_verdicts_that_come_while_the_step_runs_are_not_mixed_in(tmp_path: Path) -> None:
    """Its fingerprint was settled before them."""
    file = reviewed_project(tmp_path)
    (tmp_path / "said").mkdir()
    said = verdicts(tmp_path / "said" / "verdicts.jsonl", one(4, "keep"))

    def late(config: Any, inputs: Any, out: Path, context: Context) -> Outcome:
        outcome = REVIEW.run(config, inputs, out, context)
        verdicts(said, one(4, "drop"))
        return outcome

    config = load(file)
    nodes = build(config, {**TABLE, "review": replace(REVIEW, run=late)}, file)
    with pytest.raises(ValueError, match=f"judged: {said} has changed since this run began"):
        run(config, nodes, tmp_path / "run", Options(), say=lambda line: None)
    assert not list(tmp_path.glob("run/artifacts/judged-*"))
    assert whole_run(file)["judged"] == "done"
    assert record(tmp_path, "judged")["counts"]["left out as before"] == 1


def test_the_file_lies_beside_the_configuration_that_names_it(tmp_path: Path) -> None:
    parent = reviewed_project(tmp_path / "parent")
    child = tmp_path / "child.yaml"
    child.write_text("extends: parent/toy.yaml\n")
    for file in (parent, child):
        [node] = [n for n in build(load(file), TABLE, file) if n.name == "judged"]
        assert node.config.reviewed == str(parent.parent / "said" / "verdicts.jsonl")  # type: ignore[attr-defined]
        assert node.identity()["reviewed"]["keep"] == 0


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("run", "0 steps have edge cases; name one data set as"),
        ("run/kep", "no data set 'kep'; did you mean 'keep'?"),
        ("run/keep", "keep is not current in"),
        ("run/first", "no data set 'first'"),
        ("run/artifacts/first-*", "is a model; rows of a data set can be reviewed"),
        ("model", "there is no such file, artifact, run directory, or step of a run"),
    ],
)
def test_what_cannot_be_reviewed(tmp_path: Path, place: str, error: str) -> None:
    file = reviewed_project(tmp_path)
    config = load(file)
    run(config, build(config, TABLE, file), tmp_path / "run", Options(only="first"), say=lambda line: None)
    [found] = list(tmp_path.glob(place)) or [tmp_path / place]
    with pytest.raises(ValueError, match=error):
        resolve(found, None, None, TABLE)


def test_an_artifact_outside_a_run_names_its_verdicts_itself(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="waits for verdicts"):
        whole_run(reviewed_project(tmp_path))
    [made] = tmp_path.glob("run/artifacts/keep-*")
    moved = made.rename(tmp_path / "elsewhere")
    assert resolve(moved, None, None, TABLE).out == Path("keep.verdicts.jsonl")
    [rows] = tmp_path.glob("run/artifacts/rows-*")
    assert resolve(rows, None, None, TABLE).out == tmp_path / "run" / "rows.verdicts.jsonl"


def test_jobs_of_a_cluster_end_where_people_come_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Later jobs would name checkpoints by fingerprints that nobody knows yet."""
    file, run_dir, said = reviewed_project(tmp_path), tmp_path / "run", tmp_path / "said" / "verdicts.jsonl"
    command = ["launch", str(file), "--run-dir", str(run_dir), "--slurm", "--dry-run"]
    waits = f"judged waits for verdicts: there is none in {said}; launch again when people have judged"
    assert cli.main(command, TABLE) == 0
    told = capsys.readouterr().out
    assert waits in told
    assert "02-keep.sbatch" in told
    assert "03-judged.sbatch" not in told
    with pytest.raises(ValueError, match="waits for verdicts"):
        whole_run(file)
    assert cli.main(command, TABLE) == 2
    assert capsys.readouterr().err.endswith(f"r1: {waits}\n")
    said.parent.mkdir()
    verdicts(said, one(4, "keep"))
    assert cli.main(command, TABLE) == 0
    assert {"03-judged.sbatch", "04-second.sbatch"} <= set(re.findall(r"\d\d-\w+\.sbatch", capsys.readouterr().out))


@pytest.mark.slow
def test_verdicts_on_real_edge_cases(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Samples of the real stage: one that missed the cut is taken in, the last one above it goes."""
    sample_rejectively(tmp_path, checkpoint, sums(20), monkeypatch, samples=4)
    out = tmp_path / "out"
    edge = [r for r in read_rows(out / REVIEW_NAME) if r["doubt"] == "close to the cut"]
    above, below = ([r for r in edge if (r["reason"] == "kept") is kept] for kept in (True, False))
    before = [r["id"] for r in read_rows(out / ROWS_NAME)]
    said = verdicts(
        tmp_path / "v.jsonl",
        {"id": above[0]["id"], "verdict": "drop"},
        {"id": below[0]["id"], "verdict": "keep"},
    )
    made = tmp_path / "made"
    made.mkdir()
    artifact = Artifact(kind=Kind.DATASET, path=out, fingerprint="x", name="rejection_sampling")
    context = Context(seed=0, convention="think_answer", work=tmp_path)
    REVIEW.run(ReviewConfig(reviewed=str(said)), {"data": [artifact]}, made, context)
    after = [r["id"] for r in read_rows(made / ROWS_NAME)]
    assert after == [name for name in before if name != above[0]["id"]] + [below[0]["id"]]


def test_a_step_of_this_stage_needs_no_accelerator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`r1 plan` leaves it out and counts its rows; `r1 check` looks through it at the rows behind."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row(n)) + "\n" for n in range(6)))
    base = Path(__file__).parent.parent / "data" / "tiny" / "base"
    file = tmp_path / "c.yaml"
    file.write_text(
        f"models: {{base: {{path: {base}}}}}\nsandbox: weak\ndata: {{rows: {{source: records, path: rows.jsonl}}}}\n"
        "steps:\n- {name: judged, stage: review, data_from: rows, reviewed: v.jsonl}\n"
        "- {name: cold_start, stage: cold_start, init_from: base, data_from: judged}\n"
    )
    planned = []
    for source in ("judged", "rows"):
        line = ["plan", str(file), "--gpu", "cpu", "--json", "--set", f"steps.cold_start.data_from={source}"]
        assert cli.main(line, STAGES) == 0
        planned.append(json.loads(capsys.readouterr().out)["steps"])
    assert [step["name"] for step in planned[0]] == ["cold_start"]
    assert planned[0] == planned[1]
    assert cli.main(["check", str(file), "--run-dir", str(tmp_path / "run")], STAGES) == 0, capsys.readouterr().out
    assert "FAIL" not in capsys.readouterr().out
