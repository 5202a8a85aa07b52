"""The engine in process with real vLLM (mark vllm), and what is said where vLLM is missing."""

from __future__ import annotations

import importlib.util

import pytest

from stages.rollout.canary import Canary, SamplerMismatch
from stages.rollout.engine import Sampling, open_engine
from stages.rollout.transformers_engine import TransformersEngine
from tests.tiny_model import build_model, build_tokenizer, one_thread, save_checkpoint  # noqa: F401

PRESENT = importlib.util.find_spec("vllm") is not None
PROMPTS = [[{"role": "user", "content": text}] for text in ("1+1=", "what is 12*3? think.")]


@pytest.mark.skipif(PRESENT, reason="vLLM is installed")
def test_a_missing_vllm_is_named_with_its_cure(tmp_path):
    with pytest.raises(ValueError, match=r"pip install 'r1-pipeline\[vllm\]'"), open_engine("vllm", tmp_path):
        pass


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    if not PRESENT:
        pytest.skip("vLLM is not installed")
    checkpoint = save_checkpoint(tmp_path_factory.mktemp("model"))
    with open_engine("vllm", checkpoint, max_model_len=256, dtype="float32", enforce_eager=True) as opened:
        yield opened


@pytest.mark.vllm
def test_greedy_equals_the_transformers_engine(engine):
    ours = TransformersEngine(build_model(), build_tokenizer())
    engine.sync(ours.model)
    sampling = Sampling(max_tokens=30, temperature=0)
    for [mine], [theirs] in zip(ours.generate(PROMPTS, sampling), engine.generate(PROMPTS, sampling), strict=True):
        assert theirs.token_ids == mine.token_ids
        assert theirs.finished == mine.finished
        assert theirs.logprobs == pytest.approx(mine.logprobs, abs=2e-3)


@pytest.mark.vllm
def test_sampling_is_seeded_and_the_canary_sees_a_forgotten_sync(engine):
    sampling = Sampling(max_tokens=20, n=3, temperature=0.7, seed=4)
    first = engine.generate(PROMPTS, sampling)
    assert [[c.token_ids for c in group] for group in first] == [
        [c.token_ids for c in group] for group in engine.generate(PROMPTS, sampling)
    ]
    canary = Canary([[3, 17, 20, 4, 9, 30]])
    for seed in (1, 2):
        model = build_model(seed=seed)
        engine.sync(model)
        assert canary.check(engine, model, f"step {seed}") < 0.01
    with pytest.raises(SamplerMismatch, match="step 3: the sampler"):
        canary.check(engine, build_model(seed=3), "step 3")
