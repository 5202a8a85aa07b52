"""A sampler with weights of its own: in step with the trainer, watched, its probabilities corrected for."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from data.artifact import Artifact
from stages.reasoning_rl import REASONING_RL, ReasoningRLConfig
from stages.rollout.canary import SamplerMismatch
from stages.rollout.transformers_engine import TransformersEngine
from stages.stage import Context, Placement
from stages.training.options import CanaryConfig, LoRA
from stages.training.second_sampler import SecondSampler, second_sampler
from tests.test_training_resume import BASE, dataset
from tests.tiny_model import build_model, build_tokenizer, one_thread, save_checkpoint  # noqa: F401

SEPARATE = {"separate": True}


class Counting(TransformersEngine):
    """Counts what is asked of it."""

    syncs = scores = 0

    def sync(self, model):
        self.syncs += 1
        super().sync(model)

    def score(self, sequences):
        self.scores += 1
        return super().score(sequences)


def sampler(canary=CanaryConfig(), **settings):  # noqa: B008
    return SecondSampler(Counting(build_model(), build_tokenizer()), canary, **settings)


def test_weights_go_over_once_a_step():
    second, model = sampler(), build_model(seed=1)
    assert [second.sync(model, step) for step in (0, 0, 1, 1, 3)] == [True, False, True, False, True]
    assert second.engine.syncs == 3


def test_processes_that_do_not_lead_wait_and_send_nothing():
    waited = []
    second = sampler(leads=False, wait=lambda: waited.append(1))
    assert second.sync(build_model(), 0)
    assert second.engine.syncs == 0
    assert waited == [1]


def test_the_canary_is_heard_after_every_so_many_syncs():
    second, model = sampler(CanaryConfig(every=2)), build_model(seed=1)
    assert second.unwatched
    heard = []
    for step in range(5):
        second.sync(model, step)
        if second.unwatched:
            second.watch([[3, 17, 20, 4]])
        heard.append(second.check(model) is not None)
    assert heard == [True, False, True, False, True]
    assert second.engine.scores == 3


def test_without_a_canary_nothing_is_heard():
    second, model = sampler(canary=None), build_model(seed=1)
    second.sync(model, 0)
    assert not second.unwatched
    assert second.check(build_model(seed=2)) is None


def one_process():
    return SimpleNamespace(num_processes=1, is_main_process=True, wait_for_everyone=lambda: None)


def test_the_trainer_s_own_weights_need_no_second_sampler(tmp_path):
    with second_sampler(ReasoningRLConfig(), tmp_path, tmp_path, one_process()) as opened:
        assert opened is None


def test_sharding_that_cannot_be_gathered_is_refused(tmp_path):
    config = ReasoningRLConfig(engine_options=SEPARATE)
    with (
        pytest.raises(ValueError, match="engine: transformers cannot take weights from FSDP"),
        second_sampler(config, tmp_path, tmp_path, one_process(), fsdp=True),
    ):
        pass


def test_servers_get_their_weights_from_the_first_process_alone(tmp_path):
    checkpoint = save_checkpoint(tmp_path / "model")
    config = ReasoningRLConfig(engine="vllm_server", engine_options={"urls": ["http://127.0.0.1:9"]})
    other = SimpleNamespace(num_processes=2, is_main_process=False, wait_for_everyone=lambda: None)
    with second_sampler(config, checkpoint, tmp_path, other) as opened:
        assert not opened.leads
        assert opened.engine.transport.folder == tmp_path / "weights"
        assert opened.sync(build_model(), 0)


def prepare(folder: Path):
    """The folders and the rows of a step."""
    (folder / "out").mkdir(parents=True)
    (folder / "work").mkdir()
    return dataset(folder / "data", "rl", 40)


def grpo(folder: Path, data: Artifact, processes=1, **keys):
    """Three steps of GRPO on the embedded model."""
    config = ReasoningRLConfig(
        **{"learning_rate": 1e-3, "steps": 3, "prompts_per_step": 8, "max_completion_tokens": 24, "beta": 0.0} | keys
    )
    context = Context(
        seed=3,
        convention="think_answer",
        work=folder / "work",
        name="step",
        sandbox="weak",
        placement=Placement(threads=1, reward_workers=1, processes=processes),
    )
    REASONING_RL.run(config, {"init": [BASE], "data": [data]}, folder / "out", context)


def history_of(folder: Path):
    lines = [json.loads(line) for line in (folder / "work" / "history.jsonl").read_text().splitlines()]
    return [line for line in lines if "reward" in line]


def train(folder: Path, **keys):
    """`grpo` in one process: (weights, history)."""
    grpo(folder, prepare(folder), **keys)
    return load_file(folder / "out" / "model.safetensors"), history_of(folder)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("lora", [None, LoRA(rank=4)])
def test_a_copy_that_follows_samples_what_the_trainer_itself_samples(tmp_path, lora):
    keys = {"lora": lora, "learning_rate": 3e-3 if lora else 1e-4}
    own, theirs = train(tmp_path / "own", **keys)
    copy, history = train(tmp_path / "copy", engine_options=SEPARATE, **keys)
    base = load_file(BASE.path / "model.safetensors")
    # Adam's first step takes the sign of each gradient, and rounding decides the sign of some.
    moved = sum((own[name] - base[name].float()).square().sum() for name in own)
    apart = sum((own[name] - copy[name]).square().sum() for name in own)
    assert apart < 0.05 * moved
    # Merged adapters round otherwise than adapters beside the weights, and now and then a token tips over.
    tokens = [line["num_tokens"] for line in theirs]
    assert [line["num_tokens"] for line in history] == pytest.approx(tokens, rel=0.02 if lora else 0)
    assert len(history) == 3
    for line in history:
        assert 0 < line["sampler_gap"] < 1e-5
        assert line["canary_gap"] < 1e-5
        assert line["sampling/importance_sampling_ratio/max"] == pytest.approx(1, abs=1e-3)


def shifted(monkeypatch, factor):
    """The sampler claims to have sampled every token with `factor` times its probability."""
    generate = TransformersEngine.generate

    def claim(self, prompts, sampling):
        return [
            [replace(c, logprobs=[score + math.log(factor) for score in c.logprobs]) for c in group]
            for group in generate(self, prompts, sampling)
        ]

    monkeypatch.setattr(TransformersEngine, "generate", claim)


@pytest.mark.slow
@pytest.mark.alone
def test_the_loss_is_weighted_by_truncated_importance_ratios(tmp_path, monkeypatch):
    _, plain = train(tmp_path / "plain", engine_options=SEPARATE, steps=1)
    assert plain[0]["grad_norm"] > 1e-3
    expected = {("half", 2.0, None): 1.0, ("half", 2.0, 2.0): 0.5, ("quarter", 0.25, 2.0): 2.0, ("cap", 0.25, 3.0): 3.0}
    for (name, factor, cap), weight in expected.items():
        with monkeypatch.context() as patch:
            shifted(patch, factor)
            _, [line] = train(tmp_path / f"{name}-{cap}", engine_options=SEPARATE, steps=1, importance_cap=cap)
        assert line["grad_norm"] == pytest.approx(weight * plain[0]["grad_norm"], rel=1e-3), (name, cap)
        if cap is None:
            assert "sampler_gap" not in line
        else:
            assert line["sampler_gap"] == pytest.approx(abs(math.log(factor)), rel=1e-3)


@pytest.mark.slow
@pytest.mark.alone
def test_a_forgotten_sync_stops_the_run(tmp_path, monkeypatch):
    sync = TransformersEngine.sync
    done = []

    def forget(self, model):
        done.append(1)
        if len(done) != 2:
            sync(self, model)

    monkeypatch.setattr(TransformersEngine, "sync", forget)
    with pytest.raises(SamplerMismatch) as caught:
        train(tmp_path / "stale", engine_options=SEPARATE)
    assert "step 1: the sampler (TransformersEngine) still holds the weights of the last check" in str(caught.value)
    assert "the trainer (Qwen2ForCausalLM) said then" in str(caught.value)
    done.clear()
    train(tmp_path / "trusting", engine_options=SEPARATE, canary=None)
    assert len(done) == 3
