"""What is known to fail from a configuration alone is refused before anything runs, in one line."""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load
from pipeline.graph import build
from pipeline.preflight import preflight
from pipeline.runner import Options, run
from stages import STAGES
from stages.rollout.engine import OPTIONS
from stages.training.options import SAMPLER_OPTIONS
from tests.toy_project import project

PHASES = [{"name": "p", "weights": {"math": 1}}]


NO_VLLM = pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")


def one_step(folder: Path, stage: str, **keys: Any) -> Path:
    """A configuration of one step, wired to a base model and rows unless `keys` say otherwise."""
    step = {"name": "s", "stage": stage, "init_from": "base", "data_from": "rows", **keys}
    return project(folder, steps=[step], evaluate=None, sandbox="weak")


@pytest.mark.parametrize(
    ("stage", "keys", "message"),
    [
        ("distillation", {"teacher_from": "base"}, "teacher_from and prompts_from belong together"),
        ("distillation", {"prompts_from": "rows"}, "teacher_from and prompts_from belong together"),
        ("distillation", {"data_from": None}, "nothing to learn from; wire data_from, or teacher_from with prompts"),
        ("cold_start", {"batch_size": 9, "launch": {"processes": 2}}, "batch_size = 9 does not divide by launch.proc"),
        (
            "reasoning_rl",
            {"prompts_per_step": 3, "num_generations": 5, "launch": {"processes": 2}},
            "prompts_per_step x num_generations / updates_per_generation = 15 does not divide by launch.processes = 2",
        ),
        (
            "reasoning_rl",
            {"prompts_per_step": 3, "num_generations": 5, "updates_per_generation": 2},
            "prompts_per_step x num_generations = 15 does not divide by updates_per_generation = 2",
        ),
        ("general_rl", {"epsilon": 0.3, "epsilon_high": 0.2}, "epsilon_high = 0.2 is below epsilon = 0.3"),
        (
            "reasoning_rl",
            {"loss_type": "cispo", "epsilon_high": 0.28},
            "epsilon_high = 0.28 caps the ratio itself with cispo, and must reach 1",
        ),
        ("general_rl", {"kl_tiers": [{"beta": 1}], "trl": {"beta": 0}}, "trl.beta contradicts kl_tiers; use beta"),
        ("general_rl", {"kl_tiers": [{"beta": 1}, {"beta": 2}]}, "kl_tiers: 'all' occurs twice"),
        ("general_rl", {"kl_tiers": [{"beta": 0, "target": 1}]}, "kl_tiers.0: target: the controller multiplies"),
        ("general_rl", {"kl_tiers": [{"beta": 1, "domain": ["math"]}]}, "did you mean 'domains'?"),
        ("reasoning_rl", {"beta": 0, "reference_reset_steps": 4}, "reference_reset_steps has no effect with beta = 0"),
        (
            "reasoning_rl",
            {"scale_rewards": "batch", "dynamic_sampling": {}},
            "dynamic_sampling replaces groups, whose advantages scale_rewards: batch ties together",
        ),
        (
            "reasoning_rl",
            {"prompts_per_step": 3, "num_generations": 4, "dynamic_sampling": {}, "launch": {"processes": 2}},
            "dynamic_sampling: prompts_per_step = 3 does not divide by launch.processes = 2",
        ),
        ("reasoning_rl", {"sentries": {"entropi": {}}}, "sentries: unknown sentry 'entropi'; did you mean 'entropy'?"),
        ("general_rl", {"sentries": {"kl": {"hihg": 1}}}, "sentries.kl: unknown key 'hihg'; did you mean 'high'?"),
        ("general_rl", {"sentries": {"kl": {"action": "halt"}}}, "sentries.kl.action: input should be 'warn', 'stop'"),
        ("reasoning_rl", {"probe": {"share": 0.9}}, "probe.share: input should be less than or equal to 0.5"),
        ("sft_mix", {"phases": [{"name": "p", "weights": {"math": -1}}]}, "math must be a finite number that is not"),
        ("cold_start", {"lora": {}, "freeze": {"layers": 1}}, "freeze has no effect with lora"),
        ("rejection_sampling", {"min_scores": {"languge": 0.5}}, "min_scores: no reward 'languge' in the mix; did you"),
        ("rejection_sampling", {"min_scores": {"preference": 0.5}}, "min_scores: no reward 'preference' in the mix"),
        (
            "rejection_sampling",
            {"engine_options": {"batch_token": 1}},
            "engine_options: unknown key 'batch_token' of the engine 'transformers'; did you mean 'batch_tokens'?",
        ),
        (
            "rejection_sampling",
            {"engine_options": {"urls": []}},
            "'urls' of the engine 'transformers'; known: batch_to",
        ),
        ("rejection_sampling", {"engine": "vllm_server"}, "the engine 'vllm_server' needs urls"),
        ("distillation", {"teacher": {"engine_options": {"x": 1}}}, "teacher: engine_options: unknown key 'x'"),
        ("rejection_sampling", {"engine_options": {"separate": True}}, "unknown key 'separate' of the engine"),
        (
            "reasoning_rl",
            {"engine_options": {"separat": True}},
            "unknown key 'separat' of the engine 'transformers'; ",
        ),
        ("reasoning_rl", {"engine": "vlm"}, "unknown engine 'vlm'; did you mean 'vllm'?"),
        (
            "general_rl",
            {"engine": "vllm_server", "engine_options": {"urls": ["http://a"], "weight_sync": "fax"}},
            "engine_options: weight_sync is disk or nccl, not 'fax'",
        ),
        (
            "reasoning_rl",
            {"engine": "vllm", "engine_options": {"tensor_parallel_size": 2}},
            "an engine in process has one device; tensor_parallel_size belongs to servers",
        ),
        ("reasoning_rl", {"trl": {"use_vllm": True}}, "trl.use_vllm would start a second vLLM"),
        ("reasoning_rl", {"trl": {"min_p": 0.1}}, "trl.min_p would change nothing: the engines here sample"),
        ("general_rl", {"trl": {"repetition_penalty": 1.1}}, "trl.repetition_penalty would change nothing"),
        ("reasoning_rl", {"trl": {"generation_kwargs": {"top_k": 5}}}, "trl.generation_kwargs would change nothing"),
        ("reasoning_rl", {"trl": {"vllm_mode": "server"}}, "trl.vllm_mode would change nothing"),
        ("reasoning_rl", {"canary": {"tolerance": 0}}, "canary"),
    ],
)
def test_refused_when_the_configuration_is_read(tmp_path: Path, stage: str, keys: dict[str, Any], message: str) -> None:
    file = one_step(tmp_path, stage, **keys)
    with pytest.raises(ValueError) as caught:
        build(load(file), STAGES, file)
    assert str(caught.value).startswith(f"{file}: steps.s")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_fits_passes(tmp_path: Path) -> None:
    file = one_step(
        tmp_path,
        "rejection_sampling",
        min_scores={"language": 0.5, "short": 0.1, "preference": 0.2},
        rewards=[{"name": "language"}, {"name": "length", "label": "short"}, {"name": "preference"}],
        preference_from="base",
        engine="vllm",
        engine_options={"tensor_parallel_size": 2},
    )
    assert build(load(file), STAGES, file)
    trl = {"min_p": 0, "repetition_penalty": 1.0, "vllm_importance_sampling_mode": "sequence_mask", "top_k": 20}
    file = one_step(tmp_path, "reasoning_rl", trl=trl)
    assert build(load(file), STAGES, file)


@pytest.mark.parametrize(
    ("stage", "keys", "message"),
    [
        ("general_rl", {}, "steps.s: rewards: the reward 'preference' needs a model; wire one with preference_from"),
        (
            "cold_start",
            {"trl": {"packin": True}},
            "steps.s: trl.packin is no argument of SFTConfig; did you mean 'packi",
        ),
        ("sft_mix", {"phases": PHASES, "trl": {"beta": 1}}, "steps.s: trl.beta is no argument of SFTConfig"),
        ("reasoning_rl", {"trl": {"save_strategy": "no"}}, "steps.s: trl.save_strategy is set by the pipeline"),
        ("cold_start", {"launch": {"deepspeed": "zero.json"}}, "steps.s: launch.deepspeed: there is no file /"),
        (
            "cold_start",
            {"launch": {"accelerate_config": "a.yaml"}},
            "steps.s: launch.accelerate_config: there is no file /",
        ),
        *(
            pytest.param(stage, keys, f"steps.s: {where}engine: vllm needs vLLM: pip install", marks=NO_VLLM)
            for stage, keys, where in (
                ("reasoning_rl", {"engine": "vllm"}, ""),
                ("rejection_sampling", {"engine": "vllm"}, ""),
                ("distillation", {"teacher": {"engine": "vllm"}}, "teacher."),
            )
        ),
        ("safety_model", {"trl": {"max_length": 2}}, "trl.max_length is no argument of TrainingArguments"),
        ("preference_model", {"trl": {"num_generations": 2}}, "trl.num_generations is no argument of RewardConfig"),
    ],
)
def test_refused_before_the_first_step_runs(tmp_path: Path, stage: str, keys: dict[str, Any], message: str) -> None:
    file = one_step(tmp_path, stage, **keys)
    config = load(file)
    with pytest.raises(ValueError) as caught:
        run(config, build(config, STAGES, file), tmp_path / "run", Options(), say=lambda line: None)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_general_rl_needs_no_preference_model_for_rewards_that_do_not(tmp_path: Path) -> None:
    file = one_step(tmp_path, "general_rl", rewards=[{"name": "safety"}])
    config = load(file)
    preflight(config, build(config, STAGES, file))


def test_the_options_of_the_engines_are_their_constructors(tmp_path: Path) -> None:
    from stages.rollout.server_engine import ServerEngine
    from stages.rollout.transformers_engine import TransformersEngine

    given = {"self", "checkpoint", "model", "tokenizer", "prefill", "progress"}
    assert set(OPTIONS["transformers"] or ()) == set(inspect.signature(TransformersEngine.__init__).parameters) - given
    server = set(inspect.signature(ServerEngine.__init__).parameters) - (given - {"model"})
    assert {*(OPTIONS["vllm_server"] or ()), *SAMPLER_OPTIONS["vllm_server"]} == server
    assert OPTIONS["vllm"] is None
