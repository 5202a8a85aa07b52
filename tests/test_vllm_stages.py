"""Stages on real vLLM in process (mark vllm): GRPO in step with it, sampling equal to that of transformers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from data.artifact import ROWS_NAME
from data.records import read_json_lines
from stages.distillation import DISTILLATION, DistillationConfig
from stages.evaluation import EVALUATION, EvaluationConfig
from stages.rejection_sampling import REJECTION_SAMPLING, RejectionSamplingConfig
from stages.rollout.canary import SamplerMismatch
from stages.stage import Context
from tests.test_second_sampler import history_of, prepare, train
from tests.test_training_resume import BASE, dataset
from tests.tiny_model import one_thread  # noqa: F401

VLLM = {"engine": "vllm", "engine_options": {"max_model_len": 256}}
pytestmark = pytest.mark.vllm


@pytest.fixture(autouse=True)
def vllm_engine():
    pytest.importorskip("vllm")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def counted(monkeypatch, skipped=()):
    """Counts weight syncs, and forgets those with the given numbers."""
    from stages.rollout.vllm_engine import VllmEngine

    sync, done = VllmEngine.sync, []

    def follow(self, model):
        done.append(1)
        if len(done) not in skipped:
            sync(self, model)

    monkeypatch.setattr(VllmEngine, "sync", follow)
    return done


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_the_sampler_follows_every_step_of_grpo(tmp_path, monkeypatch, lora):
    syncs = counted(monkeypatch)
    _, history = train(tmp_path, **VLLM, lora=lora, learning_rate=1e-2 if lora else 1e-3)
    assert len(history) == len(syncs) == 3
    for line in history:
        assert 0 < line["sampler_gap"] < 1e-3
        assert line["canary_gap"] < 1e-3
        assert line["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-3)
    assert max(line["grad_norm"] for line in history) > 1e-3


def test_a_planted_stale_weight_stops_the_run(tmp_path, monkeypatch):
    counted(monkeypatch, skipped=(2,))
    with pytest.raises(
        SamplerMismatch, match=r"step 1: the sampler \(VllmEngine\) still holds the weights of the last"
    ):
        train(tmp_path, **VLLM, learning_rate=1e-4)


TWO_PROCESSES = f"""
import sys
from pathlib import Path
from data.artifact import Artifact, Kind
from stages.ranks import leave
from tests.test_second_sampler import grpo
folder = Path(sys.argv[1])
data = Artifact(kind=Kind.DATASET, path=folder / "data", fingerprint="rl", name="rl")
grpo(folder, data, processes=2, **{VLLM})
leave()
"""


def test_each_of_two_processes_has_an_engine_that_follows(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    prepare(tmp_path / "run")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    done = subprocess.run(
        [*command, script, tmp_path / "run"], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    history = history_of(tmp_path / "run")
    assert len(history) == 3
    for line in history:
        assert 0 < line["sampler_gap"] < 1e-3
        assert line["canary_gap"] < 1e-3
    assert (tmp_path / "run" / "out" / "model.safetensors").exists()


def sampled(stage, config, rows, folder):
    """Outcome and rows of a stage that samples."""
    (folder / "work").mkdir(parents=True)
    (folder / "out").mkdir()
    context = Context(seed=3, convention="think_answer", work=folder / "work", name="step", sandbox="weak")
    outcome = stage.run(config, {"init": [BASE], "data": [rows]}, folder / "out", context)
    return outcome, [row for _, row in read_json_lines(folder / "out" / ROWS_NAME)]


def test_evaluation_measures_what_it_measures_on_transformers(tmp_path):
    rows = dataset(tmp_path / "data", "rl", 12)
    greedy = {"temperature": 0, "max_tokens": 96}
    ours, mine = sampled(EVALUATION, EvaluationConfig(**greedy), rows, tmp_path / "transformers")
    theirs, other = sampled(EVALUATION, EvaluationConfig(**greedy, **VLLM), rows, tmp_path / "vllm")
    assert mine == other
    assert ours.metrics == theirs.metrics


def test_rejection_sampling_keeps_right_answers(tmp_path):
    rows = dataset(tmp_path / "data", "rl", 24)
    config = RejectionSamplingConfig(samples=8, max_tokens=96, **VLLM)
    outcome, kept = sampled(REJECTION_SAMPLING, config, rows, tmp_path / "kept")
    assert kept
    assert outcome.counts["candidates"] == 24 * 8
    problems = [row for _, row in read_json_lines(rows.path / ROWS_NAME)]
    answers = {row["prompt"][-1]["content"]: row["answer"] for row in problems if row.get("answer") is not None}
    checked = [row for row in kept if row["prompt"][-1]["content"] in answers]
    assert checked
    for row in checked:
        assert f"<answer>\n{answers[row['prompt'][-1]['content']]}\n</answer>" in row["completion"][-1]["content"]


def test_a_student_learns_from_a_teacher_on_vllm(tmp_path):
    rows = dataset(tmp_path / "data", "rl", 16)
    teacher = {"samples": 4, "max_tokens": 96, **VLLM}
    config = DistillationConfig(epochs=1, batch_size=4, teacher=teacher)
    inputs = {"init": [BASE], "teacher": [BASE], "prompts": [rows]}
    work, out = tmp_path / "work", tmp_path / "student"
    work.mkdir()
    out.mkdir()
    context = Context(seed=0, convention="think_answer", work=work, sandbox="weak")
    outcome = DISTILLATION.run(config, inputs, out, context)
    assert sum(count for name, count in outcome.counts.items() if name.startswith("teacher: ")) == 16 * 4
    assert outcome.counts["teacher: kept"] == outcome.counts["rows_used"] > 0
    assert (out / "model.safetensors").exists()
