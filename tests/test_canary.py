"""The canary passes a synced sampler, and catches stale weights however small the update was."""

from __future__ import annotations

import copy

import pytest
import torch

from stages.rollout.canary import Canary, SamplerMismatch
from stages.rollout.transformers_engine import TransformersEngine
from tests.tiny_model import build_model, build_tokenizer, one_thread  # noqa: F401

TOKENS = [[3, 17, 20, 4, 9, 30], [12, 12, 5]]


def trainer_and_sampler():
    model = build_model()
    return model, TransformersEngine(copy.deepcopy(model), build_tokenizer())


def train(model, rate):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(rate * torch.randn_like(parameter))


@pytest.mark.parametrize("rate", [1e-4, 1e-2])
def test_a_synced_sampler_passes_and_a_stale_one_is_caught(rate):
    model, engine = trainer_and_sampler()
    canary = Canary(TOKENS)
    assert canary.check(engine, model, "step 0") < 1e-5
    train(model, rate)
    engine.sync(model)
    assert canary.check(engine, model, "step 1") < 1e-5
    train(model, rate)  # and the sync is forgotten
    with pytest.raises(
        SamplerMismatch,
        match=r"step 2: the sampler \(TransformersEngine\).*trainer \(Qwen2ForCausalLM\).*did not arrive",
    ):
        canary.check(engine, model, "step 2")


def test_wrong_weights_are_caught_at_the_first_check():
    model, engine = trainer_and_sampler()
    engine.sync(build_model(seed=1))
    with pytest.raises(SamplerMismatch, match=r"step 0: the sampler .* part by .* worst: sampler -.*, trainer -"):
        Canary(TOKENS).check(engine, model, "step 0")


def test_a_sampler_of_lower_precision_passes():
    model, engine = trainer_and_sampler()
    engine.model = engine.model.to(torch.bfloat16)
    canary = Canary(TOKENS, tolerance=0.2)  # weights drawn large: rounding shows more than in a trained model
    assert canary.check(engine, model, "step 0") > 1e-3
    train(model, 1e-5)
    engine.sync(model)
    canary.check(engine, model, "step 1")


def test_an_unchanged_trainer_is_no_suspect():
    model, engine = trainer_and_sampler()
    canary = Canary(TOKENS)
    for step in range(3):
        canary.check(engine, model, f"step {step}")


def test_training_mode_and_gradients_are_left_alone():
    model, engine = trainer_and_sampler()
    model.train()
    Canary(TOKENS).check(engine, model, "step 0")
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_canary_needs_tokens():
    with pytest.raises(ValueError, match="two tokens"):
        Canary([[3], []])
