"""The files of `r1 launch`: golden texts, a shell linter, mistakes in one line."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.launcher import ROOT
from tests.doc_pages import blocks_of, commands
from tests.toy_project import call, project
from tests.toy_stages import TOY

GOLDEN = Path(__file__).parent / "data" / "launch"
WIDE = {"processes": 4, "machines": 2}
SITE = {
    "partition": "gpu",
    "account": "lab",
    "qos": "high",
    "time": "24:00:00",
    "memory": "500G",
    "cpus_per_task": 8,
    "options": ["--constraint=h100"],
    "setup": ["module load cuda"],
    "steps": {"keep": {"time": "2:00:00"}},
}


def launch(*arguments: str | Path) -> int:
    return main(["launch", *map(str, arguments)], TOY)


def written(folder: Path, name: str) -> str:
    """A written file with the paths of this machine taken out."""
    text = (folder / name).read_text()
    names = {sys.executable: "PYTHON", str(Path(sys.executable).parent): "BIN", str(ROOT): "ROOT"}
    for path, word in (str(folder.parent.parent), "TMP"), *names.items():
        text = text.replace(path, word)
    return text


def lint(*files: Path) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("needs shellcheck (apt-get install shellcheck)")
    done = subprocess.run(["shellcheck", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def golden(name: str, text: str) -> None:
    """Compare with the file that is kept; R1_WRITE_GOLDEN=1 writes it anew."""
    if os.environ.get("R1_WRITE_GOLDEN"):
        (GOLDEN / name).write_text(text)
    assert text == (GOLDEN / name).read_text()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run" / "launch"


def wide(tmp_path: Path, **changes: Any) -> Path:
    return project(tmp_path, **{"launch": WIDE, "slurm": SITE, **changes})


def test_a_job_for_each_step(tmp_path: Path, out: Path) -> None:
    assert launch(wide(tmp_path), "--slurm", "--run-dir", tmp_path / "run") == 0
    names = ["01-evaluate.base", "02-first", "04-keep", "05-second", "07-judge"]
    assert sorted(file.name for file in out.glob("*.sbatch")) == [f"{name}.sbatch" for name in names]
    golden("02-first.sbatch", written(out, "02-first.sbatch"))
    golden("submit.sh", written(out, "submit.sh"))
    assert "#SBATCH --time=2:00:00\n" in (out / "04-keep.sbatch").read_text()
    assert "#SBATCH --nodes=1\n" in (out / "04-keep.sbatch").read_text()
    assert (out / "logs").is_dir(), "Slurm makes no folder for its output"
    lint(*out.glob("*.sbatch"), out / "submit.sh")
    assert max(len(line) for file in out.glob("*.sbatch") for line in written(out, file.name).splitlines()) < 125


def test_one_allocation_is_as_large_as_its_largest_step(tmp_path: Path, out: Path) -> None:
    assert launch(wide(tmp_path), "--slurm", "--one-allocation", "--run-dir", tmp_path / "run") == 0
    golden("all.sbatch", written(out, "all.sbatch"))
    lint(out / "all.sbatch", out / "submit.sh")


def test_servers_on_nodes_of_their_own_or_beside_the_step(tmp_path: Path, out: Path) -> None:
    from stages import STAGES

    line = ["launch", str(ROOT / "configs" / "tiny.yaml"), "--slurm", "--run-dir", str(tmp_path / "run")]
    line += ["--set", "steps.rejection_sampling.engine=vllm_server", "--gpus-per-node", "8"]
    line += ["--set", "slurm.tensor_parallel_size=4", "--set", "slurm.vllm_options=[--max-model-len, '4096']"]
    assert main([*line, "--vllm-nodes", "2"], STAGES) == 0
    text = written(out, "04-rejection_sampling.sbatch")
    text = re.sub(r"reasoning_rl-[0-9a-f]{12}", "reasoning_rl-FINGERPRINT", text)
    golden("04-rejection_sampling.sbatch", text)
    lint(*out.glob("*.sbatch"), out / "submit.sh")
    assert main([*line, "--vllm-nodes", "0"], STAGES) == 0
    text = (out / "04-rejection_sampling.sbatch").read_text()
    assert "#SBATCH --nodes=1\n" in text
    assert "\nserve 0 1 /" in text


def test_paths_with_spaces_survive(tmp_path: Path) -> None:
    folder = tmp_path / "my run's"
    assert launch(project(folder), "--slurm", "--run-dir", folder / "run") == 0
    assert launch(project(folder), "--hosts", "a", "--run-dir", folder / "plain") == 0
    lint(*folder.glob("*/launch/*.s*"))


def test_a_dry_run_prints_everything_and_writes_nothing(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = wide(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for flags in (["--slurm"], ["--slurm", "--submit"], ["--hosts", "a,b"], []):
        assert launch(file, "--run-dir", tmp_path / "run", "--dry-run", *flags) == 0
        assert sorted(tmp_path.rglob("*")) == before
        printed = capsys.readouterr().out
        assert launch(file, "--run-dir", tmp_path / "run", *[f for f in flags if f != "--submit"]) == 0
        for written_file in (path for path in out.glob("*") if path.is_file()):
            assert f"# {written_file}\n{written_file.read_text()}" in printed
        capsys.readouterr()
        shutil.rmtree(tmp_path / "run")


def test_the_jobs_run_a_copy_of_the_configuration_with_flags_and_overrides(tmp_path: Path, out: Path) -> None:
    file = project(tmp_path)
    flags = ["--nodes", "3", "--gpus-per-node", "2", "--set", "seed=7", "--partition", "x"]
    assert launch(file, "--slurm", "--run-dir", tmp_path / "run", *flags) == 0
    copy = json.loads((out / "config.json").read_text())
    assert (copy["seed"], copy["launch"]["machines"], copy["launch"]["processes"]) == (7, 3, 6)
    assert "#SBATCH --nodes=3\n" in (out / "02-first.sbatch").read_text()
    assert "#SBATCH --gpus-per-node=2\n#SBATCH --partition=x\n" in (out / "02-first.sbatch").read_text()
    one = ["--set", "launch.machines=1", "--set", "launch.processes=1"]
    code, printed, error = call("run", out / "config.json", *one, cwd=tmp_path)
    assert code == 0, error + printed


def test_what_is_finished_is_not_launched_again(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, run_dir = project(tmp_path), tmp_path / "run"
    assert call("run", file, "--run-dir", run_dir, "--only", "first", cwd=tmp_path)[0] == 0
    assert launch(file, "--slurm", "--run-dir", run_dir) == 0
    assert sorted(f.name for f in out.glob("*.sbatch")) == [
        "01-evaluate.base.sbatch", "04-keep.sbatch", "05-second.sbatch", "07-judge.sbatch",
    ]  # fmt: skip
    assert call("run", file, "--run-dir", run_dir, cwd=tmp_path)[0] == 0
    capsys.readouterr()
    assert launch(file, "--slurm", "--run-dir", run_dir) == 0
    assert capsys.readouterr().out == f"Nothing to launch: every step in {run_dir} is current.\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--submit"], "--submit needs --slurm"),
        (["--one-allocation"], "--one-allocation needs --slurm"),
        (["--per-step"], "--per-step needs --slurm"),
        (["--vllm-nodes", "0"], "--vllm-nodes needs --slurm"),
        (["--site", "x.yaml"], "--site needs --slurm"),
        (["--partition", "x"], "--partition needs --slurm"),
        (["--nodes", "0"], "--nodes: expected a number from 1, got 0"),
        (["--slurm", "--gpus-per-node", "-1"], "--gpus-per-node: expected a number from 0, got -1"),
        (["--hosts", "a,b"], "launch: processes = 1 does not divide by machines = 2"),
        (["--hosts", "a,b", "--nodes", "3", "--gpus-per-node", "1"], "--hosts names 2 machines, launch.machines is 3"),
        (["--hosts", "a,", "--gpus-per-node", "1"], "--hosts: a name is empty in 'a,'"),
        (["--slurm", "--set", "slurm.steps.frist={}"], "slurm.steps.frist: unknown step; did you mean 'first'?"),
        (["--slurm", "--set", "slurm.acount=x"], "unknown key 'acount'; did you mean 'account'?"),
        (["--slurm", "--time", "soon"], "r1 launch: time: expected a text in quotes such as"),
        (["--slurm", "--site", "gone.yaml"], "gone.yaml: cannot be read"),
        (["--slurm", "--set", "sede=1"], "unknown key 'sede'; did you mean 'seed'?"),
        (["--slurm", "--submit"], "--submit needs sbatch, which is not on the PATH"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    file = project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    before = sorted(tmp_path.rglob("*"))
    assert launch(file, *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_servers_without_slurm_are_the_users_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from stages import STAGES

    line = ["launch", str(ROOT / "configs" / "tiny.yaml"), "--run-dir", str(tmp_path / "run")]
    assert main([*line, "--set", "steps.rejection_sampling.engine=vllm_server"], STAGES) == 2
    assert "--set steps.rejection_sampling.engine_options.urls=[http://HOST:8000]" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_copies_that_do_not_fit_on_a_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from stages import STAGES

    line = ["launch", str(ROOT / "configs" / "tiny.yaml"), "--slurm", "--run-dir", str(tmp_path / "run")]
    line += ["--set", "steps.rejection_sampling.engine=vllm_server", "--gpus-per-node", "8"]
    assert main([*line, "--set", "slurm.tensor_parallel_size=3"], STAGES) == 2
    assert "rejection_sampling: slurm.tensor_parallel_size = 3 does not divide 8 GPUs" in capsys.readouterr().err


def test_two_machines_without_slurm_are_told_what_to_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(wide(tmp_path), "--run-dir", tmp_path / "run", "--port", "123") == 0
    lines = capsys.readouterr().out.splitlines()[-2:]
    for rank, line in enumerate(lines):
        assert line.startswith(f"On machine {rank}:  cd {ROOT} && {sys.executable} -m pipeline run ")
        assert line.endswith(f"--machine-rank {rank} --main-address MACHINE_0:123")


OF_README = [line for block in blocks_of(ROOT / "launch" / "README.md") for line in block.text.splitlines()]
SHOWN = [*(command for _, command in commands()), *(line.partition(" #")[0] for line in OF_README)]


@pytest.mark.parametrize("command", [command for command in SHOWN if command.startswith("r1 launch")])
def test_commands_of_the_pages_can_be_tried(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stages import STAGES

    for folder in ("configs", "data"):  # and no runs: who has run the demo has nothing to launch
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    assert main([*shlex.split(command)[1:], "--dry-run"], STAGES) == 0, capsys.readouterr().err
    assert "launch/config.json" in capsys.readouterr().out


def serve(tmp_path: Path, *arguments: str, told_by: str = "R1_VLLM") -> subprocess.CompletedProcess[str]:
    """launch/vllm_server.sh with a program that prints what it was told."""
    told = tmp_path / "vllm"
    told.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    told.chmod(0o755)
    script, env = ROOT / "launch" / "vllm_server.sh", {**os.environ, told_by: str(told)}
    return subprocess.run([script, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)


def test_the_script_of_a_server(tmp_path: Path) -> None:
    (tmp_path / "a model").mkdir()
    lint(*(ROOT / "launch").glob("*.sh"))
    common = ["--logprobs-mode", "processed_logprobs", "--served-model-name"]
    done = serve(tmp_path, "a model", "81", "4", "--max-model-len", "9")
    assert done.stdout.splitlines()[1:] == [
        *["serve", f"{tmp_path}/a model", "--port", "81", *common, f"{tmp_path}/a model", "r1"],
        *["--tensor-parallel-size", "4", "--max-model-len", "9"],
    ]
    assert done.stdout.splitlines()[0].endswith(":81]'")
    assert serve(tmp_path, "Qwen/Q").stdout.splitlines()[1:] == [
        *["serve", "Qwen/Q", "--port", "8000", *common, "Qwen/Q", "r1"]
    ]
    assert (serve(tmp_path).returncode, "CHECKPOINT [PORT]" in serve(tmp_path).stderr) == (2, True)


def test_the_script_of_a_server_without_a_gpu(tmp_path: Path) -> None:
    """The real thing is started by tests/test_vllm_server.py."""
    done = serve(tmp_path, "Qwen/Q", "81", "1", "--max-model-len", "9", told_by="R1_VLLM_CPU")
    assert done.stdout.splitlines()[1:] == [
        *["-m", "vllm.entrypoints.openai.api_server", "--model", "Qwen/Q"],
        *["--dtype", "float32", "--enforce-eager", "--no-enable-chunked-prefill", "--port", "81"],
        *["--logprobs-mode", "processed_logprobs", "--served-model-name", "Qwen/Q", "r1", "--max-model-len", "9"],
    ]
