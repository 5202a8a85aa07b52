"""Prefix tuning: what learns, that training, saving and sampling agree on it, and what refuses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from data.artifact import Artifact, Kind
from pipeline.adapters import adapter_numbers
from pipeline.architecture import read_config
from pipeline.cli import main
from stages.cold_start import ColdStartConfig
from stages.distillation import DISTILLATION, DistillationConfig
from stages.preference_model import PREFERENCE_MODEL, PreferenceModelConfig
from stages.rollout.engine import Sampling, open_engine
from stages.rollout.prefix import PREFIX, has_prefix, save_prefix
from stages.rollout.prompts import prompt_ids
from stages.rollout.transformers_engine import TransformersEngine
from stages.training.adapter_options import PrefixTuning
from stages.training.adapting import adapter
from stages.training.models import load_policy
from stages.training.options import TrainingConfig
from tests.test_adapters import BASE, IDS, learn, refusal
from tests.tiny_model import build_model, build_tokenizer, one_thread  # noqa: F401

LEARNING = {"learning_rate": 0.3, "prefix_tuning": {"tokens": 8}}
PROMPTS = [[{"role": "user", "content": text}] for text in ("1+1=", "what is 12*3? think.", "a b c d e f")]


def prefixed(family: Any = "qwen2") -> Any:
    """A random model under a random prefix."""
    from peft import PrefixTuningConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
        return get_peft_model(build_model(family), config).eval()


def saved(folder: Path) -> Path:
    """A checkpoint as a step of prefix tuning makes it."""
    model = prefixed()
    model.get_base_model().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    save_prefix(model, folder)
    return folder


def test_what_is_saved_is_the_model_under_its_prefix_and_nothing_else_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.training import models

    seen: dict[str, Any] = {}
    save = models.save_trained

    def watched(trainer: Any, *args: Any) -> None:
        seen["logits"] = trainer.model.eval()(IDS).logits.detach()
        seen["learns"] = [name for name, p in trainer.model.named_parameters() if p.requires_grad]
        save(trainer, *args)

    monkeypatch.setattr(models, "save_trained", watched)
    outcome = learn(tmp_path, **LEARNING, epochs=3)
    assert seen["learns"] == ["prompt_encoder.default.embedding.weight"]
    before, after = (load_file(path / "model.safetensors") for path in (BASE.path, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name].float(), value.float()) for name, value in before.items())
    base, made = load_policy(BASE.path).eval(), load_policy(tmp_path / "out").eval()
    with torch.inference_mode():
        torch.testing.assert_close(made(IDS).logits, seen["logits"])
        assert (made(IDS).logits - base(IDS).logits).abs().max() > 0.1
    numbers = adapter_numbers(read_config(BASE.path / "config.json"), PrefixTuning(tokens=8))
    assert outcome.counts["parameters_trained"] == numbers < 0.005 * outcome.counts["parameters_frozen"]
    losses = [json.loads(line).get("loss") for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    first, last = losses[:2], losses[-2:]
    assert sum(last) < 0.85 * sum(first)
    assert str(BASE.path) not in (tmp_path / "out" / PREFIX / "adapter_config.json").read_text()


@pytest.mark.parametrize("family", ["qwen2", "llama", "gpt2"])
def test_an_engine_samples_what_training_passes_see(family: str) -> None:
    """Token for token and probability for probability, without a cache and without padding on the training side."""
    model = prefixed(family)
    engine = TransformersEngine(model, build_tokenizer())
    bare = TransformersEngine(build_model(family), build_tokenizer())
    drawn = engine.generate(PROMPTS, Sampling(max_tokens=24, temperature=0))
    differ = 0
    for prompt, [completion], [other] in zip(
        PROMPTS, drawn, bare.generate(PROMPTS, Sampling(max_tokens=24, temperature=0)), strict=True
    ):
        ids = prompt_ids(engine.tokenizer, prompt)
        with torch.inference_mode():
            logits = model(torch.tensor([ids + completion.token_ids])).logits[0, len(ids) - 1 : -1]
        assert completion.token_ids == logits.argmax(-1).tolist()
        scores = torch.log_softmax(logits, -1).max(-1).values
        torch.testing.assert_close(torch.tensor(completion.logprobs), scores, atol=1e-4, rtol=1e-4)
        [scored] = engine.score([ids + completion.token_ids])
        assert scored[len(ids) - 1 :] == pytest.approx(completion.logprobs, abs=1e-4)
        differ += completion.token_ids != other.token_ids
    assert differ > 0


def test_completions_of_one_prompt_do_not_depend_on_those_beside_it() -> None:
    engine = TransformersEngine(prefixed(), build_tokenizer())
    sampling = Sampling(max_tokens=16, temperature=1, n=5, seed=2)
    together = engine.generate(PROMPTS, sampling)
    small = TransformersEngine(prefixed(), build_tokenizer(), batch_tokens=1)
    assert [[c.token_ids for c in group] for group in small.generate(PROMPTS, sampling)] == [
        [c.token_ids for c in group] for group in together
    ]


def test_a_checkpoint_is_opened_with_its_prefix_wherever_it_is_moved(tmp_path: Path) -> None:
    saved(tmp_path / "made").rename(tmp_path / "moved")
    live = TransformersEngine(prefixed(), build_tokenizer()).generate(PROMPTS, Sampling(max_tokens=12, temperature=0))
    with open_engine("transformers", tmp_path / "moved") as engine:
        opened = engine.generate(PROMPTS, Sampling(max_tokens=12, temperature=0))
    assert [group[0].token_ids for group in opened] == [group[0].token_ids for group in live]


@pytest.mark.slow
def test_a_killed_training_ends_where_an_unbroken_one_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.training.progress import History

    class Interrupted(Exception):
        pass

    log = History.on_log

    def interrupt(self: Any, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        log(self, args, state, control, logs, **kwargs)
        if state.global_step == 6:
            raise Interrupted

    keys = {**LEARNING, "epochs": 8, "early_stopping": {"every": 4, "share": 0.25}}
    whole = learn(tmp_path / "whole", **keys)
    with monkeypatch.context() as patch:
        patch.setattr(History, "on_log", interrupt)
        with pytest.raises(Interrupted):
            learn(tmp_path / "broken", **keys)
    outcome = learn(tmp_path / "broken", **keys)
    ours, theirs = (
        load_file(tmp_path / name / "out" / PREFIX / "adapter_model.safetensors") for name in ("broken", "whole")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (outcome.counts, outcome.metrics) == (whole.counts, whole.metrics)


@pytest.mark.slow
def test_a_student_may_learn_a_prefix(tmp_path: Path) -> None:
    config = DistillationConfig(**LEARNING, batch_size=8, epochs=1)
    learn(tmp_path, DISTILLATION, config)
    assert has_prefix(tmp_path / "out")
    assert type(load_policy(tmp_path / "out")).__name__ == "PeftModelForCausalLM"


@pytest.mark.slow
def test_a_run_trains_evaluates_and_answers_with_a_prefix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = {
        "name": "prefixed",
        "sandbox": "weak",
        "launch": {"threads": 1},
        "models": {"base": {"path": str(BASE.path.resolve()), "evaluate": False}},
        "data": {
            "chains": {"source": "tiny", "split": "cold_start", "rows": 16},
            "held_out": {"source": "tiny", "split": "rl", "rows": 4},
        },
        "evaluate": {"data_from": "held_out", "samples": 1, "max_tokens": 24},
        "steps": [
            {
                "name": "s",
                "stage": "cold_start",
                "init_from": "base",
                "data_from": "chains",
                "batch_size": 8,
                **LEARNING,
            }
        ],
    }
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(tree))
    assert main(["run", str(file), "--run-dir", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    [made] = (tmp_path / "run" / "artifacts").glob("s-*")
    [evaluated] = (tmp_path / "run" / "artifacts").glob("evaluate.s-*")
    assert has_prefix(made)
    assert json.loads((evaluated / "record.json").read_text())["metrics"]
    (made / PREFIX / "adapter_model.safetensors").write_bytes(b"")
    assert main(["check", str(file)]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("stage", "keys", "said"),
    [
        ("cold_start", {"lora": {}}, "steps.s: lora and prefix_tuning are both ways to train few parameters"),
        ("cold_start", {"freeze": {"layers": 1}}, "steps.s: freeze has no effect with prefix_tuning"),
        ("cold_start", {"layer_rates": {"decay": 0.9}}, "steps.s: layer_rates has no effect with prefix_tuning"),
        (
            "cold_start",
            {"launch": {"gradient_checkpointing": True}},
            "steps.s: launch.gradient_checkpointing does not work with prefix_tuning, whose prefix is a cache",
        ),
        (
            "distillation",
            {"launch": {"zero": 2}},
            "steps.s: prefix_tuning cannot be trained beside a model that is shared out (ZeRO-2); train on copies, or",
        ),
        (
            "cold_start",
            {"trl": {"gradient_checkpointing": True}},
            "steps.s: trl.gradient_checkpointing does not work with prefix_tuning, whose prefix is a cache",
        ),
        ("preference_model", {}, "steps.s: unknown key 'prefix_tuning'"),
    ],
)
def test_what_does_not_go_with_a_prefix_is_refused_in_one_line(
    tmp_path: Path, stage: str, keys: dict[str, Any], said: str
) -> None:
    assert said in refusal(tmp_path, stage, prefix_tuning={}, **keys)


BUILT_ON: dict[str, tuple[dict[str, Any], str]] = {
    "training": (
        {"name": "t", "stage": "cold_start", "init_from": "s", "data_from": "rows"},
        "steps.t.init_from: s has a prefix (prefix_tuning), which is no part of its weights: no step can train it",
    ),
    "sampling": (
        {"name": "t", "stage": "rejection_sampling", "init_from": "s", "data_from": "rows", "engine": "vllm"},
        "steps.t.init_from: s has a prefix (prefix_tuning), which engine: vllm cannot sample; take engine: transfor",
    ),
    "teacher": (
        {
            "name": "t",
            "stage": "distillation",
            "init_from": "base",
            "teacher_from": "s",
            "prompts_from": "rows",
            "teacher": {"engine": "vllm"},
        },
        "steps.t.teacher_from: s has a prefix (prefix_tuning), which engine: vllm cannot sample; take engine: transf",
    ),
}


@pytest.mark.parametrize("kind", BUILT_ON)
def test_what_cannot_be_built_on_a_prefix_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    from pipeline.config import load
    from pipeline.graph import build
    from stages import STAGES
    from tests.toy_project import project

    step, said = BUILT_ON[kind]
    first = {"name": "s", "stage": "cold_start", "init_from": "base", "data_from": "rows", "prefix_tuning": {}}
    file = project(tmp_path, steps=[first, step], evaluate=None, sandbox="weak")
    with pytest.raises(ValueError, match="prefix_tuning") as raised:
        build(load(file), STAGES, file)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    fine = {**step, "engine": "transformers"} if kind == "sampling" else {**step, "init_from": "base"}
    fine |= {"teacher": {}} if kind == "teacher" else {}
    file = project(tmp_path / "fine", steps=[first, fine], evaluate=None, sandbox="weak")
    assert build(load(file), STAGES, file)


def test_a_given_checkpoint_with_a_prefix_is_refused_by_what_would_lose_it(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "given")
    said = r"given: a model with a prefix \(prefix_tuning\) cannot be "
    with pytest.raises(ValueError, match=said + "trained further"):
        load_policy(checkpoint, TrainingConfig(learning_rate=1e-4))
    given = Artifact(kind=Kind.MODEL, path=checkpoint, fingerprint="x", name="given")
    from stages.training.models import load_classifier

    with pytest.raises(ValueError, match=said + "trained further"):
        load_classifier(given.path, PreferenceModelConfig(), build_tokenizer(), 0)
    for engine in ("vllm", "vllm_server"):
        with pytest.raises(ValueError, match=said + "sampled by vLLM"), open_engine(engine, checkpoint):
            pass
    assert PREFERENCE_MODEL.config is PreferenceModelConfig


def test_a_prefix_begins_with_zeros_and_counts_its_positions() -> None:
    from peft import get_peft_model

    model = build_model()
    model = get_peft_model(model, adapter(PrefixTuning(tokens=5), model))
    [weight] = [p for p in model.parameters() if p.requires_grad]
    assert weight.shape == (5, 2 * 2 * 16)
    assert not weight.any()


def test_a_model_with_a_sliding_window_would_forget_its_prefix(tmp_path: Path) -> None:
    build_model("mistral").save_pretrained(tmp_path)
    config = ColdStartConfig(prefix_tuning={})
    with pytest.raises(ValueError, match="prefix_tuning: mistral has layers that forget"):
        load_policy(tmp_path, config)
    load_policy(tmp_path, ColdStartConfig(lora={}))


def test_a_prefix_has_a_position(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        ColdStartConfig(prefix_tuning={"tokens": 0})
