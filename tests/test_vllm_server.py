"""Two real vLLM servers (mark vllm): sampling, weights over a shared folder, and one that stays behind."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from stages.rejection_sampling import REJECTION_SAMPLING, RejectionSamplingConfig
from stages.rollout.canary import Canary, SamplerMismatch
from stages.rollout.engine import Sampling, open_engine
from stages.rollout.server_weights import DiskWeights
from stages.rollout.transformers_engine import TransformersEngine
from stages.training.models import load_tokenizer
from tests.chains import ROOT
from tests.test_second_sampler import train
from tests.test_training_resume import BASE, dataset
from tests.test_vllm_engine import CANARY, PROMPTS, base, changed  # noqa: F401
from tests.test_vllm_stages import free_port, sampled
from tests.tiny_model import one_thread  # noqa: F401

pytestmark = pytest.mark.vllm
PATIENCE = 180
"""Seconds that a server may take to start."""


def start(port, log):
    """The script that a user starts one with."""
    command = [ROOT / "launch" / "vllm_server.sh", BASE.path, port, 1, "--host", "127.0.0.1", "--max-model-len", 256]
    settings = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    environment = {**os.environ, **settings, "OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment["R1_VLLM_CPU"] = sys.executable
    return subprocess.Popen(
        [str(part) for part in command], stdout=log, stderr=log, env=environment, start_new_session=True
    )


def await_health(url, process, log):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{url} did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    pytest.importorskip("vllm")
    folder = tmp_path_factory.mktemp("servers")
    running = []
    try:
        for number in range(2):
            port, log = free_port(), folder / f"{number}.log"
            with log.open("w") as stream:
                running.append((f"http://127.0.0.1:{port}", start(port, stream), log))
        for url, process, log in running:
            await_health(url, process, log)
        yield [url for url, _, _ in running]
    finally:
        for _, process, _ in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for _, process, _ in running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
def engine(urls, tmp_path):
    with open_engine(
        "vllm_server", BASE.path, urls=urls, model="r1", weight_sync="disk", weights=tmp_path / "weights"
    ) as opened:
        yield opened


def test_both_servers_follow_the_trainer(engine, base):  # noqa: F811
    canary = Canary(CANARY)
    sampling = Sampling(max_tokens=30, temperature=0)
    for seed in (1, 2):
        model = changed(base, seed)
        engine.sync(model)
        assert canary.check(engine, model, f"step {seed}") < 1e-4
        ours = TransformersEngine(model, load_tokenizer(BASE.path)).generate(PROMPTS, sampling)
        for [mine], [theirs] in zip(ours, engine.generate(PROMPTS, sampling), strict=True):
            assert theirs.token_ids == mine.token_ids
            assert theirs.logprobs == pytest.approx(mine.logprobs, abs=1e-3)


def test_one_server_that_stays_behind_is_named(engine, base, monkeypatch, urls):  # noqa: F811
    canary, model = Canary(CANARY), copy.deepcopy(base)
    engine.sync(model)
    canary.check(engine, model, "step 0")
    load = DiskWeights._load
    monkeypatch.setattr(
        DiskWeights, "_load", lambda self, url, place: None if url == urls[1] else load(self, url, place)
    )
    model = changed(model, 3, size=1e-4)
    engine.sync(model)
    with pytest.raises(SamplerMismatch, match=rf"step 1: the sampler \(vLLM at {urls[1]}\) still holds .*\(Qwen2"):
        canary.check(engine, model, "step 1")


def test_grpo_trains_with_servers(urls, tmp_path):
    options = {"urls": urls, "model": "r1"}
    _, history = train(tmp_path, engine="vllm_server", engine_options=options, learning_rate=1e-3)
    assert len(history) == 3
    for line in history:
        assert 0 < line["sampler_gap"] < 1e-3
        assert line["canary_gap"] < 1e-3


def test_rejection_sampling_draws_from_servers(engine, base, urls, tmp_path):  # noqa: F811
    engine.sync(base)
    rows = dataset(tmp_path / "data", "rl", 16)
    options = {"urls": urls, "model": "r1"}
    config = RejectionSamplingConfig(samples=8, max_tokens=96, engine="vllm_server", engine_options=options)
    outcome, kept = sampled(REJECTION_SAMPLING, config, rows, tmp_path / "kept")
    assert kept
    assert outcome.counts["candidates"] == 16 * 8
