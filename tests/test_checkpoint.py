"""`r1 chat` and `r1 evaluate` on a small random checkpoint."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from data.artifact import RECORD_NAME, ROWS_NAME
from data.records import read_rows, write_rows
from pipeline.checkpoint import metric_lines, open_checkpoint, replies
from pipeline.cli import main
from stages.stage import Metric
from tests.tiny_model import save_checkpoint
from tests.toy_stages import TOY

SAMPLING = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 12, "seed": 0}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model, saved."""
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four sums."""
    file = tmp_path_factory.mktemp("problems") / "sums.jsonl"
    rows = [
        {
            "id": f"sum-{n}",
            "prompt": [{"role": "user", "content": f"{n}+1="}],
            "domain": "math",
            "language": "en",
            "answer": str(n + 1),
        }
        for n in range(4)
    ]
    write_rows(file, rows)
    return file


def record(checkpoint: Path, convention: str, prefill: str) -> None:
    tree = {
        "name": "x", "kind": "model", "fingerprint": "0" * 12, "recipe": {"prefill": prefill}, "parents": [],
        "contract": {"convention": convention}, "seed": 0, "code": "", "started": "", "seconds": 0.0,
        "metrics": {}, "counts": {}, "timings": {},
    }  # fmt: skip
    (checkpoint / RECORD_NAME).write_text(json.dumps(tree))


def test_a_conversation_remembers_until_an_empty_line(checkpoint: Path) -> None:
    said = ["1+1=", "and 2?", "", "and 2?", "", "1+1="]
    answers = list(replies(checkpoint, said, None, SAMPLING, None))
    assert len(answers) == 4
    assert answers[0] == answers[3], "the same start of a conversation"
    assert answers[1] != answers[2], "the second answer saw what was said before"


def test_answers_show_what_they_were_made_to_start_with(checkpoint: Path) -> None:
    plain = next(replies(checkpoint, ["1+1="], None, SAMPLING, ""))
    opened = next(replies(checkpoint, ["1+1="], "be brief", SAMPLING, "<think>\n"))
    assert not plain.startswith("<think>\n")
    assert opened.startswith("<think>\n")


def test_a_record_says_what_a_checkpoint_was_trained_under(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert open_checkpoint(tmp_path)[1:] == ("think_answer", "")
    record(tmp_path, "zh", "<推理过程>\n")
    assert open_checkpoint(tmp_path)[1:] == ("zh", "<推理过程>\n")


def test_chat_reads_lines_and_prints_answers(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("1+1=\n"))
    assert main(["chat", str(checkpoint), "--temperature", "0", "--max-tokens", "12"]) == 0
    assert capsys.readouterr().out.strip() == next(replies(checkpoint, ["1+1="], None, SAMPLING, None)).strip()


def test_chat_survives_bytes_that_are_no_text(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = io.TextIOWrapper(io.BytesIO(b"\xff\xfe 1+1=\r\n"), encoding="utf-8", errors="surrogateescape")
    monkeypatch.setattr("sys.stdin", broken)
    assert main(["chat", str(checkpoint), "--temperature", "0", "--max-tokens", "2"]) == 0


def test_an_error_of_the_system_names_its_file_if_there_is_one(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, said in (
        (OSError("two\nlines"), "r1: two lines\n"),
        (PermissionError(13, "Permission denied", "/a/b"), "r1: /a/b: Permission denied\n"),
    ):
        monkeypatch.setattr("pipeline.checkpoint.replies", lambda *_, error=error: (_ for _ in ()).throw(error))
        assert main(["chat", str(checkpoint)]) == 2
        assert capsys.readouterr().err == said


def test_evaluate_prints_figures_and_writes_scored_rows(
    checkpoint: Path, problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["evaluate", str(checkpoint), "--data", str(problems), "--output", str(tmp_path / "out")]
    assert main([*line, "--sandbox", "weak", "--set", "samples=2", "--set", "max_tokens=8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} >= {"accuracy", "format", "language"}
    assert all("[" in line and "n=" in line for line in lines)
    assert len((tmp_path / "out" / ROWS_NAME).read_text().splitlines()) in (4, 8)


def test_evaluate_fails_where_a_gate_is_not_met(
    checkpoint: Path, problems: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["evaluate", str(checkpoint), "--data", str(problems), "--sandbox", "weak", "--set", "max_tokens=8"]
    assert main([*line, "--set", "gates.tokens.most=99"]) == 0
    capsys.readouterr()
    assert main([*line, "--set", "gates.tokens.most=0.5"]) == 1
    out, err = capsys.readouterr()
    assert any(line.startswith("tokens ") for line in out.splitlines()), "figures are printed all the same"
    assert err.splitlines()[-1].startswith("r1: tokens is ")
    assert err.splitlines()[-1].endswith(", above 0.5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chat", "gone"], "gone is not a checkpoint: it has no config.json"),
        (["chat", "CHECKPOINT", "--temperature", "-1"], "temperature -1.0"),
        (["evaluate", "gone", "--data", "x"], "gone is not a checkpoint"),
        (["evaluate", "CHECKPOINT", "--data", "gone.jsonl"], "gone.jsonl"),
        (
            ["evaluate", "CHECKPOINT", "--data", "DATA", "--set", "sample=2"],
            "unknown key 'sample'; did you mean 'samples'",
        ),
        (["evaluate", "CHECKPOINT", "--data", "DATA", "--convention", "zhh"], "unknown convention 'zhh'; did you mean"),
        (["evaluate", "CHECKPOINT", "--data", "DATA", "--source", "gsm"], "unknown source 'gsm'"),
        (["evaluate", "CHECKPOINT", "--data", "DATA", "--source", "text"], "--source text: raw text asks nothing that"),
    ],
)
def test_mistakes_are_one_line(
    checkpoint: Path, problems: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    places = {"CHECKPOINT": str(checkpoint), "DATA": str(problems)}
    assert main([places.get(argument, argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("r1: ")
    assert message in error
    assert error.count("\n") == 1


def test_the_toy_evaluation_is_used_where_the_table_says_so(
    tmp_path: Path, problems: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert main(["evaluate", str(tmp_path), "--data", str(problems)], TOY) == 0
    assert capsys.readouterr().out.splitlines()[0] == "accuracy  0.0000  [-0.1000, 0.1000]  n=4"
    assert len(list(read_rows(problems))) == 4


def test_metric_lines_of_nothing() -> None:
    assert metric_lines({}) == []
    assert metric_lines({"a": Metric(value=0.5, n=2, low=0, high=1)}) == ["a  0.5000  [0.0000, 1.0000]  n=2"]


@pytest.mark.parametrize("kind", ["preference", "safety"])
def test_a_model_that_scores_does_not_talk(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    save_checkpoint(tmp_path)
    record(tmp_path, "think_answer", "")
    tree = json.loads((tmp_path / RECORD_NAME).read_text())
    (tmp_path / RECORD_NAME).write_text(json.dumps(tree | {"recipe": {"stage": f"{kind}_model"}}))
    assert main(["chat", str(tmp_path)], TOY) == 2
    assert f"is a {kind} model: it scores text and writes none" in capsys.readouterr().err


def test_a_seed_that_no_generator_takes_is_refused(
    checkpoint: Path, problems: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from stages import STAGES

    assert main(["evaluate", str(checkpoint), "--data", str(problems), "--seed", "-1"], STAGES) == 2
    assert "--seed: expected a whole number from 0 to 2**32 - 1, got -1" in capsys.readouterr().err


def test_programs_are_measured_in_a_proven_sandbox_only(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tests = {"kind": "function", "entry_point": "f", "asserts": ["assert f() == 1"]}
    row = {"id": "1", "prompt": [{"role": "user", "content": "x"}], "domain": "code", "language": "en", "tests": tests}
    write_rows(tmp_path / "rows.jsonl", [row])
    monkeypatch.setattr("rewards.sandbox.self_test", lambda mode: [("network refused", False, "connected")])
    assert main(["evaluate", str(checkpoint), "--data", str(tmp_path / "rows.jsonl"), "--sandbox", "weak"]) == 2
    assert "sandbox: weak does not hold here: network refused: connected" in capsys.readouterr().err


def test_a_run_directory_is_no_checkpoint_and_says_where_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / "artifacts").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    assert main(["chat", str(tmp_path / "run")]) == 2
    folder = tmp_path / "run"
    assert capsys.readouterr().err == (
        f"r1: {folder} is a run directory: give one of the checkpoints in {folder}/artifacts\n"
    )
