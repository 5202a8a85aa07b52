"""`r1 launch --slurm --submit` on a real Slurm of two nodes: cancelled, resumed, it ends as a plain run ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from pipeline.lock import hold
from tests.chains import ROOT, artifact, entries, environment, run
from tests.slurm_cluster import Cluster, cluster

pytestmark = [pytest.mark.slow, pytest.mark.alone]

CHAIN: dict[str, Any] = {
    "extends": str(ROOT / "configs" / "tiny.yaml"),
    "name": "small",
    "models": {"base": {"evaluate": False}, "student": {"evaluate": False}},
    "data": {
        "chains": {"rows": 48},
        "reasoning": {"rows": 64},
        "general": {"rows": 60},
        "problems": {"rows": 24},
        "more_problems": {"rows": 24},
        "requests": {"rows": 12},
        "pairs": {"rows": 32},
        "held_out": {"rows": 8},
        "held_out_chat": {"rows": 4},
    },
    "evaluate": {"preference_from": None, "max_tokens": 48},
    "steps": [
        {
            "name": "sft_mix",
            "phases": [
                {"name": "reasoning", "weights": {"math": 6, "code": 2, "science": 1}, "rows": 32},
                {"name": "general", "weights": {"general": 5, "safety": 2}, "rows": 32},
            ],
        },
        {
            "name": "reasoning_rl",
            "steps": 6,
            "prompts_per_step": 4,
            "num_generations": 4,
            "micro_batch_size": 4,
            "max_completion_tokens": 64,
            "launch": {"processes": 2, "machines": 2},
        },
        {"name": "rejection_sampling", "samples": 2, "max_tokens": 96},
        {"name": "general_rl", "steps": 2, "prompts_per_step": 4, "num_generations": 4, "max_completion_tokens": 48},
        {"name": "distillation", "epochs": 1, "teacher": {"samples": 1, "max_tokens": 64}},
    ],
    "launch": {"checkpoint_steps": 2, "threads": 1},
    "slurm": {"gpus_per_node": 0, "time": "0:30:00", "setup": ["export R1_TEST=1"]},
}
STEPS = (
    "cold_start",
    "sft_mix",
    "reasoning_rl",
    "rejection_sampling",
    "sft_final",
    "preference_model",
    "general_rl",
    "distillation",
)


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


def launch(slurm: Cluster, config: Path, run_dir: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "pipeline", "launch", str(config), "--run-dir", str(run_dir), "--slurm", *flags]
    return subprocess.run(
        line, cwd=ROOT, env={**environment(), **slurm.environment}, capture_output=True, text=True, check=False
    )


def logs(run_dir: Path) -> str:
    return "\n".join(f"{f.name}:\n{f.read_text()[-2000:]}" for f in sorted((run_dir / "launch" / "logs").iterdir()))


def test_the_chain_is_cancelled_resumed_and_ends_as_an_unbroken_run_ends(tmp_path: Path, slurm: Cluster) -> None:
    config, run_dir = tmp_path / "small.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(CHAIN))

    first = launch(slurm, config, run_dir, "--submit")
    assert first.returncode == 0, first.stderr
    ids = list(json.loads((run_dir / "launch" / "jobs.json").read_text()))
    assert len(ids) == len(STEPS)
    assert set(slurm.queue()) <= set(ids)
    refused = launch(slurm, config, run_dir, "--submit")
    assert refused.returncode == 2
    assert f"{run_dir}: its jobs are in the queue: {ids[0]} (r1-small-cold_start, " in refused.stderr
    assert len(refused.stderr.splitlines()) == 1

    slurm.wait(lambda: any((run_dir / "work").glob("reasoning_rl-*/trainer/checkpoint-2/complete")), 120)
    slurm.ask("scancel", *slurm.queue())
    slurm.wait(lambda: not slurm.queue(), 60)
    made = {path.name.rpartition("-")[0] for path in (run_dir / "artifacts").glob("[a-z]*")}
    assert {"cold_start", "sft_mix"} <= made, logs(run_dir)
    assert "reasoning_rl" not in made, logs(run_dir)

    again = launch(slurm, config, run_dir, "--submit")
    assert again.returncode == 0, again.stderr
    files = [Path(file).name for file in json.loads((run_dir / "launch" / "jobs.json").read_text()).values()]
    assert files[0].endswith("-reasoning_rl.sbatch")
    assert len(files) == len(STEPS) - 2
    slurm.wait(lambda: not slurm.queue(), 240)
    done = json.loads((run_dir / "summary.json").read_text())
    assert {entry["status"] for entry in done["steps"]} <= {"done", "reused"}, logs(run_dir)
    assert launch(slurm, config, run_dir, "--submit").stdout.startswith("Nothing to launch")

    whole, _ = run(config, tmp_path / "whole", "steps.reasoning_rl.launch.machines=1")
    assert {n: e["metrics"] for n, e in entries(done).items()} == {n: e["metrics"] for n, e in entries(whole).items()}
    assert {n: e["fingerprint"] for n, e in entries(done).items()} == {
        n: e["fingerprint"] for n, e in entries(whole).items()
    }
    for step in set(STEPS) - {"rejection_sampling"}:
        one, two = (load_file(artifact(d, step) / "model.safetensors") for d in (run_dir, tmp_path / "whole"))
        assert all((one[name] == two[name]).all() for name in one), step


def test_servers_on_a_node_of_their_own_serve_what_a_step_made_and_end_with_it(tmp_path: Path, slurm: Cluster) -> None:
    """One allocation of two nodes: steps run on the first and sample from a stand-in for vLLM on the second."""
    program = tmp_path / "vllm"
    program.write_text(f'#!/usr/bin/env bash\nexec "{sys.executable}" "{ROOT}/tests/vllm_stand_in.py" "$@"\n')
    program.chmod(0o755)
    config, run_dir = tmp_path / "served.yaml", tmp_path / "run"
    tree = {
        "sandbox": "weak",
        "models": {"base": {"path": str(ROOT / "data" / "tiny" / "base")}},
        "data": {
            "chains": {"source": "tiny", "split": "cold_start", "rows": 16},
            "held_out": {"source": "tiny", "split": "test", "rows": 6},
        },
        "evaluate": {"data_from": "held_out", "max_tokens": 24, "engine": "vllm_server"},
        "steps": [{"name": "cold_start", "stage": "cold_start", "init_from": "base", "data_from": "chains"}],
        "launch": {"threads": 1},
        "slurm": {"gpus_per_node": 0, "vllm": str(program)},
    }
    config.write_text(yaml.safe_dump(tree))
    done = launch(slurm, config, run_dir, "--submit", "--one-allocation")
    assert done.returncode == 0, done.stderr
    slurm.wait(lambda: not slurm.queue(), 150)
    said = logs(run_dir)
    [job] = json.loads((run_dir / "launch" / "jobs.json").read_text())
    assert "JobState=COMPLETED" in slurm.ask("scontrol", "show", "job", job), said
    summary = entries(json.loads((run_dir / "summary.json").read_text()))
    assert {entry["status"] for entry in summary.values()} <= {"done", "reused"}, said
    for model, checkpoint in (
        ("base", ROOT / "data" / "tiny" / "base"),
        ("cold_start", artifact(run_dir, "cold_start")),
    ):
        assert summary[model]["metrics"]["format"]["n"] == 6
        assert f"serving {checkpoint}\n" in (run_dir / "launch" / "logs" / f"vllm-{job}-1.out").read_text()
    assert not [p for p in Path("/proc").glob("[0-9]*") if b"vllm_stand_in" in _line(p)]


def _line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def test_a_refusal_of_slurm_is_one_line(tmp_path: Path, slurm: Cluster) -> None:
    done = launch(
        slurm,
        ROOT / "configs" / "tiny.yaml",
        tmp_path / "run",
        "--submit",
        "--gpus-per-node",
        "0",
        "--partition",
        "gone",
    )
    assert done.returncode == 2
    assert "invalid partition specified: gone" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not slurm.queue()

    later = ["--gpus-per-node", "0", "--set", "slurm.options=[--hold]"]
    later += ["--set", "slurm.steps={sft_mix: {partition: gone}}"]
    done = launch(slurm, ROOT / "configs" / "tiny.yaml", tmp_path / "run", "--submit", *later)
    assert done.returncode == 2
    [job] = slurm.queue()
    assert f"the jobs before it stay in the queue, to end them: scancel {job}\n" in done.stderr
    assert list(json.loads((tmp_path / "run" / "launch" / "jobs.json").read_text())) == [job]
    slurm.ask("scancel", job)


def test_the_lock_of_a_job_that_ended_elsewhere_is_taken_over(
    tmp_path: Path, slurm: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    sleeper = slurm.ask("sbatch", "--parsable", "--output=/dev/null", "--wrap", "sleep 60").strip()

    def left_by(job: str | None) -> None:
        (tmp_path / "lock.json").write_text(json.dumps({"host": "elsewhere", "pid": 1, "since": "now", "job": job}))

    for job in (sleeper, None):
        left_by(job)
        with pytest.raises(ValueError, match="process 1 on elsewhere"), hold(tmp_path):
            pass
    slurm.ask("scancel", sleeper)
    slurm.wait(lambda: not slurm.queue(), 30)
    for job in (sleeper, "987654321"):
        left_by(job)
        with hold(tmp_path):
            pass
    monkeypatch.setattr("pipeline.slurm_queue.PATIENCE", 0.2)
    (tmp_path / "squeue").touch(0o755)
    for mute in ("echo no contact >&2; exit 1", "exec sleep 9"):  # no answer is no leave
        (tmp_path / "squeue").write_text(f"#!/bin/sh\n{mute}\n")
        monkeypatch.setenv("PATH", f"{tmp_path}:{slurm.environment['PATH']}")
        left_by(sleeper)
        with pytest.raises(ValueError, match="process 1 on elsewhere"), hold(tmp_path):
            pass
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="process 1 on elsewhere"), hold(tmp_path):
        pass
    monkeypatch.setenv("SLURM_JOB_ID", sleeper)  # the job itself, started again on another node
    with hold(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["job"] == sleeper
