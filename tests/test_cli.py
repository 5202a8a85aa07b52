"""The command `r1` as a user meets it: exit codes, one line for a mistake, and nothing heavy imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from pipeline.cli import main
from tests.toy_project import NAMES, ROOT, call, project
from tests.toy_stages import TOY


def python(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=60)


def test_run_then_status_then_run_again(tmp_path: Path) -> None:
    file = project(tmp_path)
    code, out, error = call("run", file, cwd=tmp_path)
    assert code == 0, error
    assert out.rstrip().endswith("Report: runs/toy/report.md")
    assert "step    status  seconds" in out
    assert (tmp_path / "runs" / "toy" / "report.md").exists()
    assert json.loads((tmp_path / "runs" / "toy" / "config.json").read_text())["name"] == "toy"

    code, out, _ = call("status", "runs/toy", cwd=tmp_path)
    assert code == 0
    assert [line.split()[2] for line in out.splitlines()] == ["current"] * len(NAMES)

    code, out, _ = call("run", file, "--set", "steps.keep.keep_fraction=1", cwd=tmp_path)
    assert "[6/9] keep: config.keep_fraction: 0.5 -> 1.0" in out
    assert "first: done" not in out
    code, out, _ = call("status", "runs/toy", cwd=tmp_path)
    assert out.count("current") == len(NAMES)
    assert out.count("kept: ") == 3
    code, out, _ = call("status", "runs/toy", "--config", file, "--set", "steps.keep.keep_fraction=0.1", cwd=tmp_path)
    assert "pending  config.keep_fraction: 1.0 -> 0.1" in out
    code, out, _ = call("run", "runs/toy/config.json", cwd=tmp_path)
    assert "done" not in out.partition("step ")[2]


def test_status_knows_a_step_that_was_begun(tmp_path: Path) -> None:
    file = project(tmp_path)
    assert call("run", file, "--set", "steps.first.fail=value", cwd=tmp_path)[0] == 2
    _, out, _ = call("status", "runs/toy", cwd=tmp_path)
    assert "first" in out
    assert "it has not been made yet (begun; will be resumed)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "gone.yaml"], "gone.yaml: cannot be read"),
        (["run", "toy.yaml", "--set", "sede=1"], "unknown key 'sede'; did you mean 'seed'?"),
        (["run", "toy.yaml", "--set", "steps.first.stage=x"], "steps.first.stage: unknown stage 'x'"),
        (["run", "toy.yaml", "--only", "x"], "--only x: unknown step"),
        (["run", "toy.yaml", "--set", "steps.first.fail=value"], "first: the toy was told to fail"),
        (["status", "."], "is not a run directory: it has no config.json"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    project(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(arguments, TOY) == 2
    error = capsys.readouterr().err
    line = error.splitlines()[-1]
    assert line.startswith("r1: ")
    assert message in line
    assert "Traceback" not in error


def test_a_broken_step_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(project(tmp_path)), "--set", "steps.first.fail=bug"], TOY) == 1
    assert "r1: first failed: RuntimeError: the toy broke (traceback: " in capsys.readouterr().err


def test_stages_lists_the_recipe() -> None:
    code, out, _ = call("stages", cwd=ROOT)
    assert code == 0
    assert "toy_train: Adds up numbers.\n    init_from: model\n    data_from: dataset, one or more" in out


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, error = call("run", project(tmp_path), "--run-dir", "file/run", cwd=tmp_path)
    assert code == 2
    assert error.splitlines()[-1].endswith("Not a directory")


def test_rewards_and_score_are_those_of_the_rewards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rewards"]) == 0
    assert "accuracy" in capsys.readouterr().out
    row = {"prompt": "1+1", "completion": "<think>\na\n</think>\n<answer>\n2\n</answer>", "answer": "2"}
    (tmp_path / "in.jsonl").write_text(json.dumps(row) + "\n")
    line = ["score", str(tmp_path / "in.jsonl"), "--rewards", "format", "--output", str(tmp_path / "out.jsonl")]
    assert main([*line, "--workers", "1"]) == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["scores"] == {"format": 1.0}
    assert main(["score", str(tmp_path / "gone.jsonl")]) == 2


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom pipeline.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'pydantic', 'yaml', 'stages.stage') if m in sys.modules])"
    )
    done = python("-c", code)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "usage: r1" in done.stdout


def test_a_run_that_has_nothing_to_do_imports_no_torch(tmp_path: Path) -> None:
    file = project(tmp_path)
    assert call("run", file, cwd=tmp_path)[0] == 0
    code = (
        "import sys\nfrom pipeline.cli import main\nfrom tests.toy_stages import TOY\n"
        f"assert main(['run', {str(file)!r}, '--run-dir', {str(tmp_path / 'runs' / 'toy')!r}], TOY) == 0\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'trl', 'numpy') if m in sys.modules])"
    )
    done = python("-c", code)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_python_dash_m_pipeline_is_r1() -> None:
    done = python("-m", "pipeline", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: r1")
    assert python("-m", "pipeline").returncode == 2


def test_a_message_stands_on_a_line_of_its_own_below_an_open_bar(capsys: pytest.CaptureFixture[str]) -> None:
    bar = tqdm(total=3, desc="step", file=sys.stderr)
    bar.update(1)
    assert main(["status", "gone"]) == 2
    *_, last = capsys.readouterr().err.split("\n")[:-1]
    assert last == "r1: gone is not a run directory: it has no config.json"
