"""Prefix tuning by reinforcement: trainer, sampler and reference agree on what the prefix does, and it alone learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.artifact import ROWS_NAME
from pipeline.cli import main
from pipeline.config import load
from pipeline.graph import build as build_graph
from stages import STAGES
from stages.reasoning_rl import REASONING_RL, ReasoningRLConfig
from stages.rollout.engine import Sampling, open_engine
from stages.rollout.prefix import PREFIX, has_prefix
from stages.training.models import save_trained, set_dropout
from tests.test_adapters import BASE, learn, refusal
from tests.tiny_grpo import build, config, furthest, train
from tests.tiny_model import CHARACTERS, Family, build_model, build_tokenizer, one_thread  # noqa: F401
from tests.toy_project import project

WEIGHT = "prompt_encoder.default.embedding.weight"
"""All that learns."""

RL: dict[str, Any] = {
    "prefix_tuning": {"tokens": 4},
    "learning_rate": 0.3,
    "max_completion_tokens": 24,
    "prompts_per_step": 4,
    "num_generations": 4,
    "temperature": 1.5,
    "rewards": [{"name": "length", "minimum": 24}],
    "probe": None,
}
"""A step of the pipeline on the embedded base."""

DIGITS = {build_tokenizer().convert_tokens_to_ids(c) for c in CHARACTERS if c.isdigit()}


def digits(completion_ids: Any, **_: Any) -> list[float]:
    """Pays the share of digits."""
    return [sum(token in DIGITS for token in ids) / len(ids) for ids in completion_ids]


def built(folder: Path, family: Family = "qwen2", tokens: int = 3, **keys: Any) -> Any:
    """A trainer of a model of `family` whose prefix, if it has one, is far from its start, and that samples for
    itself."""
    model = build_model(family)
    set_dropout(model.config, 0.0)  # as a step does
    model.save_pretrained(folder / "base")
    prefix = {"prefix_tuning": {"tokens": tokens}} if tokens else {}
    trainer = build(folder, config(**prefix, **keys), sampled=True, drift=0, paid=digits)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for weight in [p for name, p in trainer.model.named_parameters() if name == WEIGHT]:
            weight.normal_()
    return trainer


def first_round(trainer: Any) -> tuple[list[Any], dict[tuple[int, ...], list[float]]]:
    """Micro-batches of the first round of sampling, and the sampler's log-probabilities by prompt and completion."""
    told = {}
    sample = trainer._sample

    def listening(engine: Any, groups: Any, first: int) -> Any:
        made = sample(engine, groups, first)
        for (ids, _), group in zip(groups, made, strict=True):
            told.update({(*ids, *completion.token_ids): completion.logprobs for completion in group})
        return made

    trainer._sample = listening
    trainer.model.train()
    trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    return trainer._buffered_inputs, told


def sequences(batch: Any) -> tuple[Any, Any]:
    """Prompts with their completions and their mask, as the trainer's loss puts them together."""
    ids, mask = ([batch[f"{part}_{name}"] for part in ("prompt", "completion")] for name in ("ids", "mask"))
    return torch.cat(ids, 1), torch.cat(mask, 1)


@pytest.mark.parametrize("tokens", [0, 3])
@pytest.mark.parametrize("family", ["qwen2", "llama", "gpt2"])
def test_the_trainer_scores_what_was_sampled_as_the_sampler_did(tmp_path: Path, family: Family, tokens: int) -> None:
    """Also where positions are not relative: GPT-2 looks each of them up, with a prefix or without."""
    trainer = built(tmp_path, family, tokens, temperature=1.3)
    batches, told = first_round(trainer)
    seen, padded = 0, set()
    for batch in batches:
        ids, mask = sequences(batch)
        width = batch["completion_ids"].shape[1]
        with torch.no_grad():
            scores, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width)
        for row, row_mask, row_scores in zip(ids, mask.bool(), scores, strict=True):
            expected = told[tuple(row[row_mask].tolist())]
            torch.testing.assert_close(row_scores[: len(expected)], torch.tensor(expected), atol=1e-5, rtol=1e-5)
            padded.add(int((~row_mask[:-width]).sum()))
            seen += 1
    assert seen == 24
    assert len(padded) > 1


@pytest.mark.parametrize(("family", "tokens"), [("qwen2", 3), ("gpt2", 3), ("gpt2", 0)])
def test_the_reference_is_the_base_without_the_prefix(tmp_path: Path, family: Family, tokens: int) -> None:
    trainer = built(tmp_path, family, tokens, beta=0.3)
    batches, told = first_round(trainer)
    base = build_model(family)
    for batch in batches:
        ids, mask = sequences(batch)
        for row, row_mask, referred in zip(ids, mask.bool(), batch["ref_per_token_logps"], strict=True):
            whole = row[row_mask]
            length = len(told[tuple(whole.tolist())])
            with torch.no_grad():
                scores = torch.log_softmax(base(whole[None]).logits[0, :-1], -1).gather(-1, whole[1:, None])[:, 0]
            torch.testing.assert_close(referred[:length], scores[-length:], atol=1e-5, rtol=1e-5)
            gap = (scores[-length:] - torch.tensor(told[tuple(whole.tolist())])).abs().max()
            assert gap > 0.01 if tokens else gap < 1e-5


def test_a_prefix_of_zeros_is_no_reference_of_itself(tmp_path: Path) -> None:
    """It takes a share of the attention, so the KL against the base does not begin at 0."""
    _, trainer = train(tmp_path, config(beta=0.1, prefix_tuning={"tokens": 4}, steps=1), sampled=True, drift=0)
    assert 1e-3 < trainer.state.log_history[0]["kl"] < 1e-2


@pytest.mark.slow
def test_reinforcement_moves_the_prefix_alone_towards_what_is_paid(tmp_path: Path) -> None:
    keys = config(
        prefix_tuning={"tokens": 8},
        steps=25,
        learning_rate=0.3,
        prompts_per_step=12,
        updates_per_generation=1,
        micro_batch_size=48,
    )
    gradients, trainer = train(tmp_path, keys, sampled=True, drift=0, paid=digits)
    assert {name for step in gradients for name in step} == {WEIGHT}
    before, after = build_model().state_dict(), trainer.model.get_base_model().state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    paid = [line["reward"] for line in trainer.state.log_history if "reward" in line]
    assert sum(paid[-5:]) > 1.4 * sum(paid[:5])


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_gradients_do_not_depend_on_how_a_batch_is_cut_and_padded(tmp_path: Path, beta: float) -> None:
    """Micro-batches are trimmed to their longest prompt, sorted, and left out where nothing is paid."""
    keys: dict[str, Any] = {"prefix_tuning": {"tokens": 3}, "beta": beta, "steps": 3, "updates_per_generation": 1}
    small, _ = train(tmp_path, config(**keys, micro_batch_size=2))
    whole, _ = train(tmp_path, config(**keys, micro_batch_size=24, skip_without_gradient=False))
    assert furthest(small, whole) < 1e-5


def state(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


@pytest.mark.slow
@pytest.mark.filterwarnings("error:Adapter name")
def test_a_resumed_run_ends_with_the_prefix_and_the_reference_of_the_unbroken_one(tmp_path: Path) -> None:
    keys = config(
        prefix_tuning={"tokens": 3},
        beta=0.3,
        reference_reset_steps=3,
        steps=6,
        updates_per_generation=1,
        prompts_per_step=3,
    )
    whole, first = train(tmp_path, keys, sampled=True, drift=0)
    rest, second = train(tmp_path, keys, sampled=True, drift=0, resume=str(tmp_path / "trainer" / "checkpoint-4"))
    assert len(rest) == 2
    assert state(first).keys() == state(second).keys() == {*state(first), WEIGHT}
    assert all(torch.equal(value, state(second)[name]) for name, value in state(first).items())
    assert not torch.equal(whole[4][WEIGHT], whole[0][WEIGHT])
    # The reference is a prefix of its own, and stays behind when the policy's is saved.
    save_trained(first, build_tokenizer(), tmp_path / "out", tmp_path)
    assert sorted(path.name for path in (tmp_path / "out" / PREFIX).iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    [saved] = load_file(tmp_path / "out" / PREFIX / "adapter_model.safetensors").values()
    assert torch.equal(saved, state(first)[WEIGHT])


@pytest.mark.slow
def test_a_killed_step_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.training.progress import History

    class Interrupted(Exception):
        pass

    log = History.on_log

    def interrupt(self: Any, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        log(self, args, state, control, logs, **kwargs)
        if state.global_step == 3:
            raise Interrupted

    keys = ReasoningRLConfig(**RL, steps=4, trl={"save_steps": 2})
    whole = learn(tmp_path / "whole", REASONING_RL, keys, name="rl")
    with monkeypatch.context() as patch:
        patch.setattr(History, "on_log", interrupt)
        with pytest.raises(Interrupted):
            learn(tmp_path / "broken", REASONING_RL, keys, name="rl")
    outcome = learn(tmp_path / "broken", REASONING_RL, keys, name="rl")
    for file in (Path("model.safetensors"), Path(PREFIX) / "adapter_model.safetensors"):
        ours, theirs = (load_file(tmp_path / name / "out" / file) for name in ("broken", "whole"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    base, made = (load_file(path / "model.safetensors") for path in (BASE.path, tmp_path / "whole" / "out"))
    assert all(torch.equal(made[name].float(), value.float()) for name, value in base.items())
    [prefix] = load_file(tmp_path / "whole" / "out" / PREFIX / "adapter_model.safetensors").values()
    assert prefix.any()
    assert outcome.counts == whole.counts
    assert outcome.counts["parameters_trained"] == prefix.numel()


@pytest.mark.slow
def test_what_is_made_is_evaluated_with_its_prefix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The answers that evaluation judged are those of the checkpoint under its prefix, and not those of its weights."""
    tree = {
        "name": "prefixed",
        "sandbox": "weak",
        "launch": {"threads": 1},
        "models": {"base": {"path": str(BASE.path.resolve()), "evaluate": False}},
        "data": {
            "problems": {"source": "tiny", "split": "rl", "rows": 16},
            "held_out": {"source": "tiny", "split": "rl", "rows": 4},
        },
        "evaluate": {"data_from": "held_out", "samples": 1, "max_tokens": 16, "temperature": 0},
        "steps": [
            {
                "name": "s",
                "stage": "reasoning_rl",
                "init_from": "base",
                "data_from": "problems",
                "steps": 3,
                **RL,
                "learning_rate": 3.0,
            }
        ],
    }
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(tree))
    assert main(["run", str(file), "--run-dir", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    [made] = (tmp_path / "run" / "artifacts").glob("s-*")
    [evaluated] = (tmp_path / "run" / "artifacts").glob("evaluate.s-*")
    assert has_prefix(made)
    rows = [json.loads(line) for line in (evaluated / ROWS_NAME).read_text(encoding="utf-8").splitlines()]
    judged = [row["completion"][0]["content"] for row in rows]
    sampling = Sampling(max_tokens=16, temperature=0)
    answers = []
    for checkpoint in (made, BASE.path):
        with open_engine("transformers", checkpoint) as engine:
            answers.append([group[0].text for group in engine.generate([row["prompt"] for row in rows], sampling)])
    assert judged == answers[0]
    assert judged != answers[1]


@pytest.mark.parametrize(
    ("stage", "keys", "said"),
    [
        ("reasoning_rl", {"lora": {}}, "steps.s: lora and prefix_tuning are both ways to train few parameters"),
        ("general_rl", {"layer_rates": {"decay": 0.9}}, "steps.s: layer_rates has no effect with prefix_tuning"),
        (
            "reasoning_rl",
            {"engine": "vllm"},
            "steps.s: prefix_tuning: a sampler with weights of its own (engine: vllm) has no prefix; take engine: tran",
        ),
        (
            "general_rl",
            {"engine": "vllm_server", "engine_options": {"urls": ["http://127.0.0.1:1"]}},
            "steps.s: prefix_tuning: a sampler with weights of its own (engine: vllm_server) has no prefix; take engi",
        ),
        (
            "reasoning_rl",
            {"engine_options": {"separate": True}},
            "a sampler with weights of its own (engine: transformers with engine_options.separate) has no prefix; ta",
        ),
        (
            "reasoning_rl",
            {"launch": {"gradient_checkpointing": True}},
            "steps.s: launch.gradient_checkpointing does not work with prefix_tuning, whose prefix is a cache",
        ),
        (
            "general_rl",
            {"trl": {"gradient_checkpointing": True}},
            "steps.s: trl.gradient_checkpointing does not work with prefix_tuning, whose prefix is a cache",
        ),
        (
            "reasoning_rl",
            {"launch": {"zero": 2}},
            "steps.s: prefix_tuning cannot be trained beside a model that is shared out (ZeRO-2); train on copies, or",
        ),
    ],
)
def test_what_does_not_go_with_a_prefix_is_refused_in_one_line(
    tmp_path: Path, stage: str, keys: dict[str, Any], said: str
) -> None:
    assert said in refusal(tmp_path, stage, prefix_tuning={}, **keys)


@pytest.mark.parametrize("stage", ["general_rl", "reasoning_rl"])
def test_reinforcement_does_not_go_on_from_a_prefix(tmp_path: Path, stage: str) -> None:
    rl = {"name": "s", "stage": "reasoning_rl", "init_from": "base", "data_from": "rows", "prefix_tuning": {}}
    further = {"name": "t", "stage": stage, "init_from": "s", "data_from": "rows", "prefix_tuning": {}}
    file = project(tmp_path, steps=[rl, further], evaluate=None, sandbox="weak")
    with pytest.raises(ValueError, match=r": steps\.t\.init_from: s has a prefix .* no step can train it further$"):
        build_graph(load(file), STAGES, file)


def test_a_prefix_leaves_the_identity_of_other_steps_alone() -> None:
    assert "prefix_tuning" not in ReasoningRLConfig().model_dump(mode="json")
    assert ReasoningRLConfig(**RL).model_dump(mode="json")["prefix_tuning"] == {"tokens": 4}
