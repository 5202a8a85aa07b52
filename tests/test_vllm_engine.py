"""The engine in process with real vLLM (mark vllm), and what is said where vLLM is missing."""

from __future__ import annotations

import copy
import importlib.util

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from data.tiny.world import rows
from stages.rollout.canary import Canary, SamplerMismatch
from stages.rollout.engine import Sampling, open_engine
from stages.rollout.transformers_engine import TransformersEngine
from stages.training.models import load_tokenizer
from tests.test_training_resume import BASE
from tests.tiny_model import one_thread  # noqa: F401

PRESENT = importlib.util.find_spec("vllm") is not None
PROMPTS = [row["prompt"] for row in rows("rl", 6)]
CANARY = [[3, 17, 20, 4, 9, 30, 41, 8], [12, 12, 5]]


@pytest.mark.skipif(PRESENT, reason="vLLM is installed")
def test_a_missing_vllm_is_named_with_its_cure(tmp_path):
    with pytest.raises(ValueError, match=r"pip install 'r1-pipeline\[vllm\]'"), open_engine("vllm", tmp_path):
        pass


@pytest.fixture(scope="module")
def engine():
    if not PRESENT:
        pytest.skip("vLLM is not installed")
    with open_engine("vllm", BASE.path, max_model_len=256) as opened:
        yield opened


@pytest.fixture(scope="module")
def base():
    return AutoModelForCausalLM.from_pretrained(BASE.path, dtype=torch.float32).eval()


def changed(base, seed, size=2e-3):
    """The embedded model after an update."""
    model = copy.deepcopy(base)
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=chance))
    return model


@pytest.mark.vllm
@pytest.mark.parametrize("seed", [0, 1])
def test_greedy_and_log_probabilities_equal_those_of_transformers(engine, base, seed):
    ours = TransformersEngine(changed(base, seed) if seed else base, load_tokenizer(BASE.path))
    engine.sync(ours.model)
    sampling = Sampling(max_tokens=40, temperature=0)
    for [mine], [theirs] in zip(ours.generate(PROMPTS, sampling), engine.generate(PROMPTS, sampling), strict=True):
        assert theirs.token_ids == mine.token_ids
        assert theirs.text == mine.text
        assert theirs.finished == mine.finished
        assert theirs.logprobs == pytest.approx(mine.logprobs, abs=1e-3)
    for mine, theirs in zip(ours.score(CANARY), engine.score(CANARY), strict=True):
        assert theirs == pytest.approx(mine, abs=1e-3)


@pytest.mark.vllm
def test_sampled_log_probabilities_are_those_that_a_trainer_recomputes(engine, base):
    engine.sync(base)
    [group] = engine.generate(PROMPTS[:1], Sampling(max_tokens=24, n=3, temperature=0.7, seed=4))
    prompt = load_tokenizer(BASE.path).apply_chat_template(PROMPTS[0], add_generation_prompt=True)["input_ids"]
    for completion in group:
        ids = torch.tensor([prompt + completion.token_ids])
        with torch.inference_mode():
            logprobs = torch.log_softmax(base(input_ids=ids).logits[0, len(prompt) - 1 : -1] / 0.7, -1)
        expected = logprobs.gather(-1, ids[0, len(prompt) :, None]).squeeze(-1).tolist()
        assert completion.logprobs == pytest.approx(expected, abs=1e-3)


@pytest.mark.vllm
def test_sampling_is_seeded_and_the_canary_sees_a_forgotten_sync(engine, base):
    sampling = Sampling(max_tokens=20, n=3, temperature=0.7, seed=4)
    first = engine.generate(PROMPTS, sampling)
    assert [[c.token_ids for c in group] for group in first] == [
        [c.token_ids for c in group] for group in engine.generate(PROMPTS, sampling)
    ]
    canary = Canary(CANARY)
    for seed in (1, 2):
        model = changed(base, seed)
        engine.sync(model)
        assert canary.check(engine, model, f"step {seed}") < 1e-4
    with pytest.raises(SamplerMismatch, match=r"step 3: the sampler \(VllmEngine\) still holds .*\(Qwen2ForCausalLM\)"):
        canary.check(engine, changed(model, 3, size=1e-5), "step 3")


@pytest.mark.vllm
def test_half_a_sync_is_caught(engine, base):
    """Parameters name a tied matrix once; vLLM keeps its second copy as it was."""
    engine.sync(base)
    model = changed(base, 4, size=2e-2)
    engine.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": list(model.named_parameters())})
    engine.llm.reset_prefix_cache()
    with pytest.raises(SamplerMismatch, match=r"step 1: the sampler \(VllmEngine\) and the trainer \(Qwen2For"):
        Canary(CANARY).check(engine, model, "step 1")


@pytest.mark.vllm
def test_a_model_with_adapters_is_followed(engine, base):
    model = get_peft_model(copy.deepcopy(base), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    engine.sync(base)
    with pytest.raises(SamplerMismatch):
        Canary(CANARY).check(engine, model.eval(), "step 0")
    engine.sync(model)
    assert Canary(CANARY).check(engine, model, "step 1") < 1e-4


@pytest.mark.vllm
def test_an_option_that_vllm_does_not_know_is_named(engine):
    with (
        pytest.raises(ValueError, match=r"engine_options: vLLM says .*max_model_length"),
        open_engine("vllm", BASE.path, max_model_length=256),
    ):
        pass
