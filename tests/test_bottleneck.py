"""Bottleneck adapters: what learns, that training, saving and sampling agree on them, and what refuses them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file

from pipeline.adapters import adapter_numbers
from pipeline.architecture import read_config
from pipeline.cli import main
from pipeline.config import load
from pipeline.graph import build
from stages import STAGES
from stages.cold_start import ColdStartConfig
from stages.continued_pretraining import ContinuedPretrainingConfig
from stages.distillation import DISTILLATION, DistillationConfig, TeacherSampling
from stages.preference_model import PreferenceModelConfig
from stages.reasoning_rl import REASONING_RL, ReasoningRLConfig
from stages.rollout.beside import BOTTLENECK, beside, with_beside, without_beside
from stages.rollout.bottleneck import PLACES, WEIGHTS, Adapter, has_adapters, put_on, save_bottleneck, take_off
from stages.rollout.collect import collect
from stages.rollout.engine import Sampling, open_engine
from stages.rollout.prompts import prompt_ids
from stages.rollout.transformers_engine import TransformersEngine
from stages.rollout.weights import checkpoint_weights
from stages.sft_mix import SftMixConfig
from stages.stage import Context, Placement
from stages.training.adapter_options import Bottleneck
from stages.training.adapting import grow
from stages.training.groups import count_parameters, parameter_groups
from stages.training.models import load_classifier, load_policy
from stages.training.options import TrainingConfig
from tests.chains import artifact, run
from tests.test_adapters import BASE, IDS, learn, refusal
from tests.test_stage_checks import one_step
from tests.tiny_grpo import config as grpo_config
from tests.tiny_grpo import train
from tests.tiny_model import build_model, build_tokenizer, one_thread  # noqa: F401
from tests.toy_project import project

LEARNING: dict[str, Any] = {"learning_rate": 0.01, "bottleneck": {"size": 8, "placement": "both"}}
PROMPTS = [[{"role": "user", "content": text}] for text in ("1+1=", "what is 12*3? think.", "a b c d e f")]


def adapted(family: Any = "qwen2", placement: str = "both", seed: int = 1) -> Any:
    """A random model under random adapters."""
    model = build_model(family)
    put_on(model, 4, placement, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Adapter):
                module.up.weight.normal_(std=0.7, generator=generator)
    return model.eval()


def saved(folder: Path, placement: str = "both") -> Path:
    """A checkpoint as a step makes it."""
    without_beside(adapted(placement=placement), folder).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def logits(model: Any) -> Any:
    with torch.inference_mode():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("placement", PLACES)
def test_what_is_saved_is_the_model_under_its_adapters_and_nothing_else_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, placement: str
) -> None:
    from stages.training import models

    seen: dict[str, Any] = {}
    save = models.save_trained

    def watched(trainer: Any, *args: Any) -> None:
        seen["logits"] = logits(trainer.model)
        seen["learns"] = [name for name, p in trainer.model.named_parameters() if p.requires_grad]
        save(trainer, *args)

    monkeypatch.setattr(models, "save_trained", watched)
    outcome = learn(tmp_path, **LEARNING | {"bottleneck": {"size": 8, "placement": placement}, "epochs": 3})
    assert all(".bottleneck." in name for name in seen["learns"])
    assert {name.split(".")[3] for name in seen["learns"]} == set(PLACES[placement])
    before, after = (load_file(path / "model.safetensors") for path in (BASE.path, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value.float()) for name, value in before.items())
    made = load_policy(tmp_path / "out")
    assert torch.equal(logits(made), seen["logits"])
    assert (logits(made) - logits(load_policy(BASE.path))).abs().max() > 0.1
    numbers = adapter_numbers(read_config(BASE.path / "config.json"), Bottleneck(size=8, placement=placement))
    assert outcome.counts["parameters_trained"] == numbers < 0.02 * outcome.counts["parameters_frozen"]
    losses = [json.loads(line).get("loss") for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    assert sum(losses[-2:]) < 0.9 * sum(losses[:2])
    assert json.loads((tmp_path / "out" / BOTTLENECK / "config.json").read_text()) == {
        "size": 8,
        "placement": placement,
    }


@pytest.mark.parametrize("family", ["qwen2", "llama", "mistral"])
@pytest.mark.parametrize("placement", PLACES)
def test_the_start_is_the_model_below_and_its_end_is_left_as_it_was(family: Any, placement: Any) -> None:
    model, plain = build_model(family), build_model(family)
    grow(Bottleneck(size=4, placement=placement), model, seed=5)
    assert torch.equal(logits(model), logits(plain))
    assert not has_adapters(plain)
    model.train()(IDS, labels=IDS).loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert all(".bottleneck." in name for name in grads)
    assert sum(bool(grad.abs().max() > 0) for name, grad in grads.items() if "up.weight" in name) == 2 * len(
        PLACES[placement]
    )
    before = model.model.layers[0].mlp.bottleneck.down.weight.clone()
    assert model.model.layers[1].mlp.bottleneck.down.weight.std().item() == pytest.approx(32**-0.5, rel=0.3)
    take_off(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert torch.equal(logits(model), logits(plain))
    grow(Bottleneck(size=4, placement=placement), model, seed=5)
    assert torch.equal(model.model.layers[0].mlp.bottleneck.down.weight, before)  # of the seed, and of nothing else
    grow(Bottleneck(size=4, placement=placement), plain, seed=6)
    assert not torch.equal(plain.model.layers[0].mlp.bottleneck.down.weight, before)


def test_a_module_is_the_formula_of_the_paper_behind_each_block() -> None:
    """h + up(gelu(down(h))) of what the block puts out, before it is added to the stream."""
    model = adapted(placement="both")
    layer = model.model.layers[0]
    seen: dict[str, Any] = {}
    handles = [
        layer.mlp.down_proj.register_forward_hook(lambda _, __, output: seen.update(mlp=output)),
        layer.self_attn.o_proj.register_forward_hook(lambda _, __, output: seen.update(self_attn=output)),
        layer.mlp.register_forward_hook(lambda _, __, output: seen.update(mlp_out=output)),
        layer.self_attn.register_forward_hook(lambda _, __, output: seen.update(self_attn_out=output[0])),
    ]
    logits(model)
    for handle in handles:
        handle.remove()
    for name in PLACES["both"]:
        own = getattr(layer, name).bottleneck
        with torch.inference_mode():
            low = seen[name] @ own.down.weight.T + own.down.bias
            made = (0.5 * low * (1 + torch.erf(low / 2**0.5))) @ own.up.weight.T + own.up.bias
        torch.testing.assert_close(seen[f"{name}_out"], seen[name] + made)
        assert made.abs().max() > 0.1


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(reentrant: bool) -> None:
    found = []
    for checkpointing in (False, True):
        model = adapted()
        take_off(model)
        grow(Bottleneck(size=4, placement="both"), model, seed=5)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.train()(IDS, labels=IDS, use_cache=False).loss.backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


@pytest.mark.parametrize("placement", PLACES)
def test_the_plan_counts_the_modules_that_are_put_on(tmp_path: Path, placement: Any) -> None:
    model, kind = build_model(), Bottleneck(size=6, placement=placement)
    model.save_pretrained(tmp_path)
    grow(kind, model, seed=0)
    assert count_parameters(model)["parameters_trained"] == adapter_numbers(read_config(tmp_path / "config.json"), kind)


def test_matrices_decay_and_biases_do_not() -> None:
    model, kind = build_model(), Bottleneck(size=6)
    grow(kind, model, seed=0)
    config = TrainingConfig(learning_rate=1e-3, weight_decay=0.1, layer_rates={"decay": 0.5})
    groups = parameter_groups(model, config)
    found = {(g["lr"], g["weight_decay"]): [tuple(p.shape) for p in g["params"]] for g in groups}
    matrices, biases = [(6, 32), (32, 6)], [(6,), (32,)]
    assert found == {(1e-3, 0.1): matrices, (1e-3, 0.0): biases, (5e-4, 0.1): matrices, (5e-4, 0.0): biases}


@pytest.mark.parametrize("family", ["qwen2", "llama", "mistral"])
def test_an_engine_samples_what_training_passes_see(family: Any) -> None:
    """Token for token and probability for probability, without a cache and without padding on the training side."""
    model = adapted(family)
    engine = TransformersEngine(model, build_tokenizer())
    bare = TransformersEngine(build_model(family), build_tokenizer())
    sampling = Sampling(max_tokens=24, temperature=0)
    differ = 0
    for prompt, [completion], [other] in zip(
        PROMPTS, engine.generate(PROMPTS, sampling), bare.generate(PROMPTS, sampling), strict=True
    ):
        ids = prompt_ids(engine.tokenizer, prompt)
        with torch.inference_mode():
            row = model(torch.tensor([ids + completion.token_ids])).logits[0, len(ids) - 1 : -1]
        assert completion.token_ids == row.argmax(-1).tolist()
        scores = torch.log_softmax(row, -1).max(-1).values
        torch.testing.assert_close(torch.tensor(completion.logprobs), scores, atol=1e-4, rtol=1e-4)
        differ += completion.token_ids != other.token_ids
    assert differ > 0


@pytest.mark.parametrize("placement", PLACES)
def test_a_checkpoint_is_opened_with_its_adapters_wherever_it_is_moved(tmp_path: Path, placement: str) -> None:
    saved(tmp_path / "made", placement).rename(tmp_path / "moved")
    assert beside(tmp_path / "moved") == "bottleneck"
    sampling = Sampling(max_tokens=12, temperature=0)
    live = TransformersEngine(adapted(placement=placement), build_tokenizer()).generate(PROMPTS, sampling)
    with open_engine("transformers", tmp_path / "moved") as engine:
        opened = engine.generate(PROMPTS, sampling)
    assert [group[0].token_ids for group in opened] == [group[0].token_ids for group in live]
    assert torch.equal(logits(load_policy(tmp_path / "moved")), logits(adapted(placement=placement)))
    half = with_beside(build_model().bfloat16(), tmp_path / "moved")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert beside(BASE.path) is None
    assert with_beside(plain := build_model(), BASE.path) is plain
    assert not has_adapters(plain)


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
    ours, theirs = (load_file(tmp_path / name / "out" / BOTTLENECK / WEIGHTS) for name in ("broken", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (outcome.counts, outcome.metrics) == (whole.counts, whole.metrics)


def test_a_step_may_recompute_its_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapters of a step that keeps them, but for rounding."""
    import tests.test_adapters as tools

    @contextmanager
    def launched(**keys: Any) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(tools, "Placement", lambda **given: Placement(**given, **keys))
            yield

    learn(tmp_path / "kept", **LEARNING)
    with launched(gradient_checkpointing=True):
        learn(tmp_path / "recomputed", **LEARNING)
    ours, theirs = (load_file(tmp_path / name / "out" / BOTTLENECK / WEIGHTS) for name in ("kept", "recomputed"))
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_student_may_learn_adapters(tmp_path: Path) -> None:
    learn(tmp_path, DISTILLATION, DistillationConfig(**LEARNING, batch_size=8, epochs=1))
    assert beside(tmp_path / "out") == "bottleneck"


def narrow(model: Path) -> dict[str, Any]:
    """A run of one step on few rows."""
    step = {"name": "s", "stage": "cold_start", "init_from": "base", "data_from": "chains", "batch_size": 8}
    return {
        "name": "narrow",
        "sandbox": "weak",
        "launch": {"threads": 1},
        "models": {"base": {"path": str(model.resolve())}},
        "data": {
            "chains": {"source": "tiny", "split": "cold_start", "rows": 16},
            "held_out": {"source": "tiny", "split": "rl", "rows": 4},
        },
        "evaluate": {"data_from": "held_out", "samples": 1, "max_tokens": 24},
        "steps": [{**step, **LEARNING, "epochs": 4}],
    }


@pytest.mark.slow
def test_a_run_trains_evaluates_and_samples_with_adapters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(narrow(BASE.path)))
    assert main(["check", str(file)]) == 0, capsys.readouterr().out
    assert main(["run", str(file), "--run-dir", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    [made] = (tmp_path / "run" / "artifacts").glob("s-*")
    assert beside(made) == "bottleneck"
    texts = {}
    for name in ("base", "s"):
        [evaluated] = (tmp_path / "run" / "artifacts").glob(f"evaluate.{name}-*")
        assert json.loads((evaluated / "record.json").read_text())["metrics"]
        texts[name] = (evaluated / "rows.jsonl").read_text()
    assert texts["base"] != texts["s"]


def test_a_teacher_answers_with_its_adapters(tmp_path: Path) -> None:
    """As evaluation and rejection sampling, it is sampled by `collect`, which opens an engine on the checkpoint."""
    found = []
    for name, path in (("plain", tmp_path / "plain"), ("adapted", saved(tmp_path / "adapted"))):
        if name == "plain":
            build_model().save_pretrained(path)
            build_tokenizer().save_pretrained(path)
        (tmp_path / "work" / name).mkdir(parents=True)
        context = Context(seed=3, convention="none", work=tmp_path / "work" / name, placement=Placement(threads=1))
        config = TeacherSampling(max_tokens=16, samples=1, temperature=0)
        groups = collect(
            config, [{"id": str(i), "prompt": prompt} for i, prompt in enumerate(PROMPTS)], path, context, "teacher"
        )
        found.append([group[0]["text"] for group in groups])
    sampling = Sampling(max_tokens=16, temperature=0)
    live = TransformersEngine(adapted(), build_tokenizer()).generate(PROMPTS, sampling)
    assert found[1] == [group[0].text for group in live] != found[0]


@pytest.mark.slow
def test_reinforcement_moves_adapters_alone_and_its_reference_is_the_base(tmp_path: Path) -> None:
    keys = grpo_config(beta=0.3, steps=3, learning_rate=0.02, updates_per_generation=1, bottleneck={"size": 4})
    gradients, trainer = train(tmp_path, keys, drift=0, sampled=True)
    assert all(".bottleneck." in name for step in gradients for name in step)
    log = [line for line in trainer.state.log_history if "kl" in line]
    assert log[0]["kl"] == pytest.approx(0, abs=1e-9)
    assert log[2]["kl"] > 1e-5
    assert not has_adapters(trainer.ref_model)
    base = load_policy(tmp_path / "base")
    assert torch.equal(logits(trainer.ref_model), logits(base))
    without_beside(trainer.model, tmp_path / "out").save_pretrained(tmp_path / "out")
    assert torch.equal(logits(trainer.model), logits(base))
    assert (logits(load_policy(tmp_path / "out")) - logits(base)).abs().max() > 1e-2


@pytest.mark.slow
def test_a_resumed_reinforcement_ends_where_the_unbroken_one_ends(tmp_path: Path) -> None:
    keys = grpo_config(beta=0.3, steps=4, learning_rate=0.02, updates_per_generation=1, bottleneck={"size": 4})
    whole, first = train(tmp_path, keys)
    ended = {name: value.clone() for name, value in first.model.state_dict().items()}
    rest, second = train(tmp_path, keys, resume=str(tmp_path / "trainer" / "checkpoint-2"))
    assert len(rest) == 2
    assert all(torch.equal(one[name], two[name]) for one, two in zip(whole[2:], rest, strict=True) for name in one)
    assert all(torch.equal(value, ended[name]) for name, value in second.model.state_dict().items())


@pytest.mark.slow
@pytest.mark.pair
def test_two_ranks_train_the_adapters_of_one(tmp_path: Path) -> None:
    tree = narrow(BASE.path)
    tree["steps"][0] |= {"epochs": 1, "micro_batch_size": 2}
    file = tmp_path / "two.yaml"
    file.write_text(json.dumps({**tree, "evaluate": False, "launch": {"threads": 1, "timeout": 600}}))
    run(file, tmp_path / "one")
    run(file, tmp_path / "two", "launch.processes=2", "launch.gradient_checkpointing=true")
    one, two = (load_file(artifact(tmp_path / name, "s") / BOTTLENECK / WEIGHTS) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_a_reinforcement_step_saves_adapters_and_an_unchanged_model(tmp_path: Path) -> None:
    config = ReasoningRLConfig(
        steps=2, prompts_per_step=4, num_generations=4, max_completion_tokens=24, probe=None, learning_rate=0.01,
        bottleneck={"size": 4}, rewards=[{"name": "random"}],
    )  # fmt: skip
    learn(tmp_path, REASONING_RL, config, name="rl")
    before, after = (load_file(path / "model.safetensors") for path in (BASE.path, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value.float()) for name, value in before.items())
    learned = load_file(tmp_path / "out" / BOTTLENECK / WEIGHTS)
    assert any(value.any() for name, value in learned.items() if "up.weight" in name)


@pytest.mark.parametrize(
    ("stage", "keys", "said"),
    [
        ("cold_start", {"lora": {}}, "steps.s: lora and bottleneck are both ways to train few parameters"),
        (
            "continued_pretraining",
            {"prefix_tuning": {}},
            "steps.s: prefix_tuning and bottleneck are both ways to train few",
        ),
        ("cold_start", {"freeze": {"layers": 1}}, "steps.s: freeze has no effect with bottleneck"),
        ("cold_start", {"mtp": {}}, "steps.s: mtp trains whole layers beside the model"),
        ("cold_start", {"bottleneck": {"sise": 2}}, "steps.s: bottleneck: unknown key 'sise'; did you mean 'size'?"),
        (
            "distillation",
            {"launch": {"zero": 2}},
            "steps.s: bottleneck cannot be trained beside a model that is shared out (ZeRO-2); train on copies, or",
        ),
        (
            "cold_start",
            {"launch": {"accelerate_config": "fsdp2"}},
            "steps.s: bottleneck cannot be trained beside a model that is shared out (FSDP2); train on copies, or",
        ),
        (
            "reasoning_rl",
            {"engine": "vllm"},
            "steps.s: bottleneck: adapters that cannot be merged are sampled by the trainer itself; take engine: tra",
        ),
        (
            "general_rl",
            {"engine_options": {"separate": True}},
            "steps.s: bottleneck: adapters that cannot be merged are sampled by the trainer itself; take engine: tra",
        ),
        (
            "reasoning_rl",
            {"reference_reset_steps": 4},
            "steps.s: reference_reset_steps does not work with bottleneck, whose reference is the model below",
        ),
        (
            "reasoning_rl",
            {"trl": {"sync_ref_model": True}},
            "steps.s: trl.sync_ref_model does not work with bottleneck, whose reference is the model below",
        ),
        ("preference_model", {}, "steps.s: unknown key 'bottleneck'"),
    ],
)
def test_what_does_not_go_with_bottlenecks_is_refused_in_one_line(
    tmp_path: Path, stage: str, keys: dict[str, Any], said: str
) -> None:
    assert said in refusal(tmp_path, stage, **{"bottleneck": {}, **keys})


BUILT_ON: dict[str, tuple[dict[str, Any], str]] = {
    "training": (
        {"name": "t", "stage": "cold_start", "init_from": "s", "data_from": "rows"},
        "steps.t.init_from: s has bottleneck adapters, which are no part of its weights: no step can train it further",
    ),
    "sampling": (
        {"name": "t", "stage": "rejection_sampling", "init_from": "s", "data_from": "rows", "engine": "vllm"},
        "steps.t.init_from: s has bottleneck adapters, which engine: vllm cannot sample; take engine: transformers",
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
        "steps.t.teacher_from: s has bottleneck adapters, which engine: vllm cannot sample; take engine: transformers",
    ),
}


@pytest.mark.parametrize("kind", BUILT_ON)
def test_what_cannot_be_built_on_adapters_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    step, said = BUILT_ON[kind]
    first = {"name": "s", "stage": "cold_start", "init_from": "base", "data_from": "rows", "bottleneck": {}}
    file = project(tmp_path, steps=[first, step], evaluate=None, sandbox="weak")
    with pytest.raises(ValueError, match="bottleneck") as raised:
        build(load(file), STAGES, file)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    fine = {**step, "engine": "transformers"} if kind == "sampling" else {**step, "init_from": "base"}
    fine |= {"teacher": {}} if kind == "teacher" else {}
    file = project(tmp_path / "fine", steps=[first, fine], evaluate=None, sandbox="weak")
    assert build(load(file), STAGES, file)


def test_a_given_checkpoint_with_adapters_is_refused_by_what_would_lose_them(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "given")
    said = "given: a model with bottleneck adapters cannot be "
    with pytest.raises(ValueError, match=said + "trained further"):
        load_policy(checkpoint, TrainingConfig(learning_rate=1e-4))
    with pytest.raises(ValueError, match=said + "trained further"):
        load_classifier(checkpoint, PreferenceModelConfig(), build_tokenizer(), 0)
    for engine in ("vllm", "vllm_server"):
        with pytest.raises(ValueError, match=said + "sampled by vLLM"), open_engine(engine, checkpoint):
            pass
    with pytest.raises(ValueError, match="bottleneck adapters cannot be merged"), checkpoint_weights(adapted()):
        pass


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"size": 4}',
        '{"size": 4, "placement": "x"}',
        '{"size": "x", "placement": "both"}',
        '{"size": -1, "placement": "both"}',
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    checkpoint = saved(tmp_path)
    (checkpoint / BOTTLENECK / "config.json").write_text(text)
    with pytest.raises(ValueError, match="bottleneck: not the bottleneck adapters of a step: ") as raised:
        load_policy(checkpoint)
    assert "\n" not in str(raised.value)


def test_adapters_of_another_model_are_refused_in_one_line(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path)
    file = checkpoint / BOTTLENECK / WEIGHTS
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="not the bottleneck adapters of a step"):
        load_policy(checkpoint)
    (checkpoint / BOTTLENECK / "config.json").write_text('{"size": 5, "placement": "both"}')
    save_bottleneck(adapted(), tmp_path / "other")
    (tmp_path / "other" / BOTTLENECK / WEIGHTS).rename(file)
    with pytest.raises(ValueError, match=r"adapter.safetensors: not the adapters of the model whose weights lie"):
        load_policy(checkpoint)


def test_a_model_whose_blocks_are_not_known_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By `r1 check` and by the step itself."""
    said = "bottleneck: the layers of gpt2 are none with self_attn and mlp, as those of Llama, Qwen and"
    with pytest.raises(ValueError, match=said):
        grow(Bottleneck(placement="both"), build_model("gpt2"), 0)
    build_model("gpt2").save_pretrained(tmp_path / "gpt2")
    build_tokenizer().save_pretrained(tmp_path / "gpt2")
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(narrow(tmp_path / "gpt2")))
    assert main(["check", str(file)]) != 0
    assert f"FAIL  parameters    steps.s: {said}" in capsys.readouterr().out


@pytest.mark.parametrize("keys", [{"size": 0}, {"placement": "attention"}])
def test_a_bottleneck_has_a_width_and_a_known_place(keys: dict[str, Any]) -> None:
    for config in (ColdStartConfig, SftMixConfig, ContinuedPretrainingConfig, DistillationConfig):
        with pytest.raises(ValidationError, match=f"bottleneck.{next(iter(keys))}"):
            config(bottleneck=keys)


def test_a_run_refuses_a_given_checkpoint_with_adapters_before_its_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = saved(tmp_path / "given")
    file = one_step(tmp_path, "cold_start")
    tree = yaml.safe_load(file.read_text())
    tree["models"]["base"] = {"path": str(checkpoint), "evaluate": False}
    file.write_text(yaml.safe_dump(tree))
    said = "steps.s.init_from: base has bottleneck adapters, which are no part of its weights: no step can train it"
    assert main(["run", str(file), "--run-dir", str(tmp_path / "run")], STAGES) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["check", str(file)], STAGES) != 0
    assert said in capsys.readouterr().out
