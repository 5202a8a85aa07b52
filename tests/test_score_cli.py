"""`r1 score` and `r1 rewards` as commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rewards
from rewards.cli import main, parse_rewards

ROOT = Path(__file__).resolve().parents[1]

ROWS: list[Any] = [
    {"id": "a", "prompt": "What is 12 + 7?", "completion": "<think>It is a sum.</think><answer>19</answer>",
     "answer": "19"},
    {"prompt": [{"role": "user", "content": "二加三？"}],
     "completion": [{"role": "assistant", "content": "<think>相加</think><answer>6</answer>"}], "answer": "5"},
    {"prompt": "Write add.", "completion": "<think>Add them.</think><answer>def add(a, b): return a + b</answer>",
     "tests": {"kind": "function", "entry_point": "add", "asserts": ["assert add(1, 2) == 3"]}},
    {"prompt": "p", "completion": "<think>x</think><answer>5</answer>", "answer": " "},
    {"prompt": "p", "completion": "<think>x</think><answer>1+x</answer>", "answer": "x+1"},
]  # fmt: skip
MALFORMED = [
    "not json",
    "[1]",
    '{"prompt": "p"}',
    '{"completion": 5}',
    '{"completion": "x", "answer": 5}',
    '{"completion": [1]}',
]


@pytest.fixture
def scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, str, str]:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join([*(json.dumps(row, ensure_ascii=False) for row in ROWS), "", *MALFORMED]) + "\n")
    code = main(
        ["score", str(source), "--output", str(output), "--rewards", "accuracy,format,language:min_words=1,program",
         "--sandbox", "weak"]
    )  # fmt: skip
    assert code == 0
    out, err = capsys.readouterr()
    return output, out, err


def test_every_good_row_is_scored_and_every_bad_line_named(scored: tuple[Path, str, str]) -> None:
    output, table, errors = scored
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == ["a", 2, 3, 4, 5]
    assert [row["scores"]["accuracy"] for row in rows] == [1.0, 0.0, None, None, 1.0]
    assert [row["status"]["accuracy"] for row in rows] == ["ok", "wrong", "not_applicable", "unparsed_gold", "ok"]
    assert [row["scores"]["program"] for row in rows] == [None, None, 1.0, None, None]
    assert [row["scores"]["format"] for row in rows] == [1.0] * 5
    assert rows[1]["scores"]["language"] == 1.0  # Chinese, as its prompt
    assert all(row["seconds"] >= 0 for row in rows)
    assert "5 rows in" in table
    assert "6 malformed lines" in table
    assert "unparsed_gold 20.0%" in table
    parts = (
        "Expecting value",
        "expected an object",
        "'completion' is missing",
        "'completion' must be text",
        "'answer' must be str",
        "'completion' must be text",
    )
    for number, part in enumerate(parts, start=7):
        assert any(f":{number}:" in line and part in line for line in errors.splitlines()), (number, part)


def test_two_scored_files_are_compared(scored: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    output = scored[0]
    other = output.with_name("other.jsonl")
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    rows[0]["scores"]["accuracy"] = 0.0
    rows[0]["status"]["accuracy"] = "timeout"
    rows[2]["scores"].pop("program")
    other.write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]), encoding="utf-8")
    assert main(["score", str(output), "--against", str(other)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a: accuracy 1 (ok) -> 0 (timeout)"
    assert lines[1] == "3: program 1 (ok) -> absent"
    assert lines[2].startswith("2 of 4 rows differ; 1 only in")


def test_long_comparisons_are_folded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, score in (("a", 1.0), ("b", None)):
        rows = [{"id": i, "scores": {"x": score}, "status": {"x": "ok"}} for i in range(150)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["score", str(tmp_path / "a"), "--against", str(tmp_path / "b")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 102
    assert "... and 50 more" in lines


def test_functions_of_the_user_score_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_scores.py").write_text(
        "def brevity(prompts, completions, level, words=1, **columns):\n"
        "    return [l * float(len(c[0]['content'].split()) <= words) for c, l in zip(completions, level)]\n"
    )
    Path("in.jsonl").write_text('{"completion": "one two", "level": 3}\n{"completion": "1 2 3", "level": 4}\n')
    given = ["score", "in.jsonl", "--template", "none", "--rewards", "format,my_scores.py:brevity:words=2"]
    assert main(given) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["scores"]["brevity"] for row in rows] == [3.0, 0.0]
    for wrong in ("my_scores.py", "my_scores.py:words=2"):
        with pytest.raises(ValueError, match=r"name the function, as in my_scores.py:my_reward"):
            parse_rewards(wrong, "weak")
    assert main([*given[:-1], "my_scores.py:brevty"]) == 2
    assert "has no function 'brevty'; did you mean 'brevity'" in capsys.readouterr().err


def test_without_template_the_whole_completion_is_the_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"completion": "so the answer is \\\\boxed{7}", "answer": "7"}\n')
    assert main(["score", str(source), "--template", "none", "--rewards", "accuracy,format"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["scores"] == {"accuracy": 1.0, "format": None}
    assert "accuracy" in err  # the table, beside the rows on stdout


def test_prefill_is_put_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"completion": "a</think><answer>7</answer>", "answer": "7"}\n')
    assert main(["score", str(source), "--rewards", "format", "--prefill", "<think>"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"] == {"format": 1.0}


def test_a_batch_reward_scores_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"completion": "x"}\n' * 70)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    spec = "judge:url=http://127.0.0.1:9/v1:model=m:retries=0"
    assert main(["score", str(source), "--template", "none", "--rewards", spec]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["status"]["judge"] for row in rows] == ["exception"] * 70


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jsonl"], "no such file: missing.jsonl"),
        (["in.jsonl", "--rewards", "acuracy"], "unknown reward 'acuracy'; did you mean 'accuracy'?"),
        (["in.jsonl", "--rewards", ""], "the list is empty"),
        (["in.jsonl", "--rewards", "language:three"], "'three' is not of the form key=value"),
        (["in.jsonl", "--template", "boxd"], "unknown convention 'boxd'; did you mean 'boxed'?"),
        (["in.jsonl", "--workers", "0"], "workers >= 1"),
        (["in.jsonl", "--against", "nowhere.jsonl"], "no such file: nowhere.jsonl"),
        (["in.jsonl", "--against", "in.jsonl"], "in.jsonl:1: not a scored row"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_two(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text('{"completion": "x"}\n')
    if message.startswith("no such file: nowhere"):
        Path("in.jsonl").write_text('{"id": 1, "scores": {}}\n')
    assert main(["score", *arguments]) == 2
    err = capsys.readouterr().err.strip()
    assert message in err
    assert len(err.splitlines()) == 1


def test_reward_parameters_on_the_command_line() -> None:
    assert parse_rewards("accuracy, judge:url=http://h:8000/v1:model=m:retries=0,program,correctness", "weak") == [
        {"name": "accuracy"},
        {"name": "judge", "url": "http://h:8000/v1", "model": "m", "retries": 0},
        {"name": "program", "sandbox": "weak"},
        {"name": "correctness", "program": {"sandbox": "weak"}},
    ]


def test_the_list_of_rewards_names_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rewards"]) == 0
    out = capsys.readouterr().out
    assert all(any(line.startswith(f"{name} ") for line in out.splitlines()) for name in rewards.REWARDS)
    assert "0.28  correctness" in out


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"completion": "7", "answer": "7"}\n')
    command = [sys.executable, "-m", "rewards.cli", "score", str(source), "--template", "none", "--rewards", "accuracy"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout)["scores"] == {"accuracy": 1.0}


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("in.jsonl", "is the input, which would be lost"),
        ("folder", "is a directory"),
        ("gone/out.jsonl", "its folder does not exist"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_scoring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str, message: str
) -> None:
    (tmp_path / "folder").mkdir()
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps(ROWS[0]) + "\n")
    before = source.read_text()
    assert main(["score", str(source), "--rewards", "accuracy", "--output", str(tmp_path / output)]) == 2
    assert message in capsys.readouterr().err
    assert source.read_text() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "in.jsonl"]


def test_a_directory_is_not_a_file_of_completions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(tmp_path), "--rewards", "accuracy"]) == 2
    assert "not a file: " in capsys.readouterr().err


ODD_IDS = [
    {"id": None, "completion": "5", "answer": "5"},
    {"id": "d", "completion": "5", "answer": "5"},
    {"id": "d", "completion": "6", "answer": "5"},
    {"id": "half \ud800", "completion": "\ud800 5", "answer": "5"},
    {"id": "zero \x00", "completion": "5\x00", "answer": "5"},
    {"id": "三", "completion": "5", "answer": "5"},
    {"id": float("nan"), "completion": "5", "answer": "5"},
    {"id": [1, 2], "completion": "5", "answer": "5"},
    {"id": {"a": 1}, "completion": "5", "answer": "5"},
]


def test_odd_ids_break_neither_scoring_nor_comparing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output, other = (tmp_path / name for name in ("in.jsonl", "out.jsonl", "other.jsonl"))
    source.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(json.dumps(row) for row in ODD_IDS).encode())
    given = ["score", str(source), "--template", "none", "--rewards", "accuracy", "--output", str(output)]
    assert main(given) == 0
    errors = capsys.readouterr().err
    assert "in.jsonl:7: column 'id' must be a finite number, got nan" in errors
    assert "in.jsonl:8: column 'id' must be text or a number, got list" in errors
    assert "in.jsonl:9: column 'id' must be text or a number, got dict" in errors
    text = output.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["id"] for row in rows] == [1, "d", "d", "half \ud800", "zero \x00", "三"]
    assert "三" in text
    rows[2]["scores"]["accuracy"] = 1.0
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["score", str(output), "--against", str(other)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "d (number 2): accuracy 0 (wrong) -> 1 (wrong)",
        f"1 of 6 rows differ; 0 only in {output}, 0 only in {other}",
    ]
    other.write_text('{"id": [1], "scores": {}}\n')
    assert main(["score", str(output), "--against", str(other)]) == 2
    assert "other.jsonl:1: the id must be text or a number, got list" in capsys.readouterr().err


def test_a_reward_that_fails_is_one_line_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def f(completions, **columns):\n    raise KeyError('x')\n")
    Path("in.jsonl").write_text('{"completion": "x"}\n')
    assert main(["score", "in.jsonl", "--rewards", "mine.py:f", "--output", "out.jsonl"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("r1: reward 'f' failed at ")
    assert error.endswith("mine.py:2: KeyError: 'x'")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_parameters_of_the_correctness_reward_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text('{"completion": "x"}\n')
    assert main(["score", "in.jsonl", "--rewards", "correctness:program=3"]) == 2
    assert "parameter 'program' must be Mapping, got 3" in capsys.readouterr().err


def failing_self_test(mode: str) -> list[tuple[str, bool, str]]:
    return [("starts", True, ""), ("network refused", False, "connected")]


@pytest.mark.parametrize("reward", ["program", "correctness"])
def test_programs_are_scored_in_a_proven_sandbox_only(
    reward: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("code.jsonl").write_text(json.dumps(ROWS[2]) + "\n")
    Path("sums.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    given = ["--rewards", reward, "--sandbox", "weak", "--output", "out.jsonl"]
    assert main(["score", "code.jsonl", *given]) == 0
    assert "sandbox: weak: programs share" in caplog.text
    Path("out.jsonl").unlink()
    monkeypatch.setattr("rewards.sandbox.self_test", failing_self_test)
    assert main(["score", "code.jsonl", *given]) == 2
    assert "sandbox: weak does not hold here: network refused: connected" in capsys.readouterr().err
    assert not Path("out.jsonl").exists()
    assert main(["score", "sums.jsonl", *given]) == 0  # nothing to run
