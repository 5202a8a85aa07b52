"""Encoder-decoder students: what encoder and decoder are given, what is learned, and that sampling agrees with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from data.artifact import ROWS_NAME, Artifact, Kind
from data.records import read_rows, write_rows
from data.tiny.world import rows
from stages.cold_start import COLD_START
from stages.distillation import DISTILLATION
from stages.rollout.engine import Sampling
from stages.rollout.prompts import prompt_ids
from stages.rollout.transformers_engine import TransformersEngine
from stages.stage import Context, Outcome, Placement
from stages.training.early_stopping import EarlyStopping
from stages.training.groups import freeze, parameter_groups
from stages.training.mtp import MTP
from stages.training.options import Freeze, LayerRates, LoRA, TrainingConfig
from stages.training.trainers import EncoderDecoderTrainer
from tests.tiny_encoder_decoder import build_student, save_student
from tests.tiny_model import one_thread  # noqa: F401

PREFILL = "<think>\n"
FAMILIES = ("t5", "bart")


def learn(folder: Path, student: Path, stage: Any = DISTILLATION, count: int = 12, **keys: Any) -> Outcome:
    """Train the student in `folder`, or go on there."""
    placement = Placement(threads=1, checkpoint_steps=2, gradient_checkpointing=keys.pop("checkpointing", False))
    for name in ("data", "out", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_rows(folder / "data" / ROWS_NAME, rows("cold_start", count))
    config = stage.config(**{"learning_rate": 3e-3, "epochs": 1, "batch_size": 4, **keys})
    inputs = {
        "init": [Artifact(kind=Kind.MODEL, path=student, fingerprint="student", name="student")],
        "data": [Artifact(kind=Kind.DATASET, path=folder / "data", fingerprint="rows", name="rows")],
    }
    context = Context(
        seed=3, convention="think_answer", work=folder / "work", name="step", prefill=PREFILL, placement=placement
    )
    return stage.run(config, inputs, folder / "out", context)


def history(folder: Path, key: str = "loss") -> list[float]:
    lines = [json.loads(line) for line in (folder / "out" / "history.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the model is given, micro-batch by micro-batch, with its weights and dropout rates at that time."""
    seen: list[dict[str, Any]] = []
    inner = EncoderDecoderTrainer.compute_loss

    def compute_loss(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        rates = {name: rate for name, rate in model.config.to_dict().items() if "dropout" in name}
        seen.append({**inputs, "weights": weights, "rates": rates, "training": model.training})
        return inner(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(EncoderDecoderTrainer, "compute_loss", compute_loss)
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_the_encoder_reads_the_prompt_and_the_decoder_learns_the_completion(
    tmp_path: Path, family: Any, batches: list[dict[str, Any]]
) -> None:
    student = save_student(tmp_path / "student", family)
    outcome = learn(tmp_path, student, micro_batch_size=2)
    _, tokenizer = build_student(family)
    start = {"t5": tokenizer.pad_token_id, "bart": tokenizer.eos_token_id}[family]
    expected = {}
    for row in read_rows(tmp_path / "data" / ROWS_NAME):
        text = row["completion"][0]["content"]
        assert text.startswith(PREFILL)
        labels = [*tokenizer(text.removeprefix(PREFILL))["input_ids"], tokenizer.eos_token_id]
        expected[tuple(prompt_ids(tokenizer, row["prompt"], PREFILL))] = labels  # the sampler's own function
    learned = 0
    assert len(batches) == 6
    for batch in batches:
        assert {"input_ids", "attention_mask", "labels", "decoder_input_ids"} <= set(batch)
        for at in range(2):
            length = int(batch["attention_mask"][at].sum())
            assert batch["attention_mask"][at].tolist() == [1] * length + [0] * (batch["input_ids"].shape[1] - length)
            labels = expected.pop(tuple(batch["input_ids"][at, :length].tolist()))
            padding = [-100] * (batch["labels"].shape[1] - len(labels))
            assert batch["labels"][at].tolist() == labels + padding
            assert batch["decoder_input_ids"][at, : len(labels)].tolist() == [start, *labels[:-1]]
            learned += len(labels)
    assert not expected, "every row once"
    assert outcome.counts["tokens_learned"] == learned
    assert outcome.counts["sequences"] == outcome.counts["rows_used"] == 12
    assert outcome.counts["optimiser_steps"] == 3
    assert outcome.metrics["train_loss"].value == pytest.approx(sum(history(tmp_path)) / 3)
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    saved.pop("transformers_version")
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    assert saved == {"decoder_start_token_id": start, **ends}, "nothing that the student never learned"


def test_rows_come_in_the_order_that_the_pipeline_decides(tmp_path: Path, batches: list[dict[str, Any]]) -> None:
    from stages.training.sft import encode_pairs, repeat

    student = save_student(tmp_path / "student", "t5")
    learn(tmp_path, student, epochs=1.5)
    context = Context(seed=3, convention="think_answer", work=tmp_path, prefill=PREFILL)
    pairs = encode_pairs(student, list(read_rows(tmp_path / "data" / ROWS_NAME)), 4096, context, {})
    ordered = repeat([item for _, item in pairs], 1.5, 4, seed=3)
    wanted = [[i for i, m in zip(item.input_ids, item.completion_mask, strict=True) if m] for item in ordered]
    seen = [[i for i in row if i != -100] for batch in batches for row in batch["labels"].tolist()]
    assert seen == wanted
    assert len(seen) == 18


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_learns_the_mean_over_its_tokens_however_it_is_cut(
    tmp_path: Path, family: Any, batches: list[dict[str, Any]]
) -> None:
    student = save_student(tmp_path / "student", family)
    learn(tmp_path / "whole", student, count=4, micro_batch_size=4, max_grad_norm=1e9)
    [first, *_] = batches
    assert first["training"]
    model, _ = build_student(family)
    model.load_state_dict(first["weights"])
    with torch.inference_mode():
        logits = model.eval()(**{k: first[k] for k in ("input_ids", "attention_mask", "decoder_input_ids")}).logits
    by_hand = cross_entropy(logits.flatten(0, 1), first["labels"].flatten())
    assert history(tmp_path / "whole")[0] == pytest.approx(by_hand.item(), rel=1e-4)  # and nothing is dropped
    learn(tmp_path / "cut", student, count=4, micro_batch_size=1, max_grad_norm=1e9)
    assert history(tmp_path / "cut") == pytest.approx(history(tmp_path / "whole"), rel=1e-4)
    assert history(tmp_path / "cut", "grad_norm") == pytest.approx(history(tmp_path / "whole", "grad_norm"), rel=1e-3)


def test_dropout_and_label_smoothing_are_those_that_are_asked_for(
    tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    student = save_student(tmp_path / "student", "bart", dropout=0.4, activation_dropout=0.4, init_std=0.5)
    names = ("dropout", "activation_dropout", "attention_dropout")
    learn(tmp_path / "smooth", student, count=4, trl={"label_smoothing_factor": 0.5})
    [batch] = batches
    assert [batch["rates"][name] for name in names] == [0, 0, 0]
    learn(tmp_path / "dropped", student, count=4, dropout=0.2)
    assert [batches[1]["rates"][name] for name in names] == [0.2, 0.2, 0.2]
    saved = json.loads((tmp_path / "dropped" / "out" / "config.json").read_text())
    assert [saved[name] for name in names] == [0, 0, 0]
    model, _ = build_student("bart")
    model.load_state_dict(batch["weights"])
    with torch.inference_mode():
        logits = model.eval()(**{k: batch[k] for k in ("input_ids", "attention_mask", "decoder_input_ids")}).logits
    smooth, plain = (
        cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), label_smoothing=rate).item() for rate in (0.5, 0)
    )
    assert history(tmp_path / "smooth") == [pytest.approx(smooth, rel=1e-4)]
    assert plain != pytest.approx(smooth, rel=0.005)


def test_freezing_and_rates_count_the_layers_of_encoder_and_decoder_apart() -> None:
    for family, shared, layer in (("t5", "shared", "block"), ("bart", "model.shared", "layers")):
        model, _ = build_student(family)
        config = TrainingConfig(learning_rate=1.0, layer_rates=LayerRates(decay=0.5))
        rate = {id(p): group["lr"] for group in parameter_groups(model, config) for p in group["params"]}
        for name, parameter in model.named_parameters():
            below = {f"encoder.{layer}.1.": 0, f"encoder.{layer}.0.": 1}
            below |= {f"decoder.{layer}.{2 - d}.": d for d in range(3)}
            expected = [d for part, d in below.items() if part in name]
            lowest = name == f"{shared}.weight" or "embed" in name
            assert rate[id(parameter)] == 0.5 ** (expected[0] if expected else 3 * lowest), name
        frozen = freeze(model, Freeze(embeddings=True, layers=2))
        learning = {name for name, p in model.named_parameters() if p.requires_grad}
        assert frozen == sum(p.numel() for n, p in model.named_parameters() if n not in learning)
        layers = {
            name.rpartition(f"{layer}.")[0] + name.rpartition(f"{layer}.")[2][0]
            for name in learning
            if f"{layer}." in name
        }
        assert {name[-8:] for name in layers} == {"decoder.2"[-8:]}
        assert not any("shared" in name or "embed" in name for name in learning)


def test_what_is_frozen_stays_and_the_rest_learns(tmp_path: Path) -> None:
    student = save_student(tmp_path / "student", "t5")
    outcome = learn(tmp_path, student, freeze=Freeze(embeddings=True, names=("^encoder",)))
    before, after = load_file(student / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("encoder") or name == "shared.weight"} == same
    assert outcome.counts["parameters_frozen"] == sum(before[name].numel() for name in same)


@pytest.mark.slow
def test_adapters_are_trained_under_checkpointing_and_merged(tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM

    student = save_student(tmp_path / "student", "t5")
    learn(tmp_path, student, lora=LoRA(rank=4), checkpointing=True, epochs=4)
    assert history(tmp_path)[-1] < history(tmp_path)[0]
    before, after = load_file(student / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert torch.equal(before["shared.weight"], after["shared.weight"])
    assert any("EncDecAttention" in name for name in changed)
    assert any(name.startswith("encoder") for name in changed)
    assert not any("norm" in name for name in changed)
    ids = torch.tensor([[5, 6, 7]])
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    with torch.inference_mode():
        merged = model(input_ids=ids, labels=ids).loss
        unmerged = build_student("t5")[0].eval()(input_ids=ids, labels=ids).loss
    assert merged != unmerged


@pytest.mark.slow
def test_the_held_out_loss_is_the_mean_of_the_rows_and_the_best_weights_stay(tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM

    from stages.training.early_stopping import hold_out
    from stages.training.sft import encode_pairs

    student = save_student(tmp_path / "student", "bart")
    stopping = EarlyStopping(every=2, patience=1, share=0.25)
    outcome = learn(tmp_path, student, epochs=40, learning_rate=2e-2, schedule="constant", early_stopping=stopping)
    losses = history(tmp_path, "eval_loss")
    assert outcome.counts["best_step"] == 2 * (1 + losses.index(min(losses)))
    assert outcome.counts["optimiser_steps"] == outcome.counts["best_step"] + 2 < 90, "it stopped early"
    context = Context(seed=3, convention="think_answer", work=tmp_path, prefill=PREFILL)
    pairs = encode_pairs(student, list(read_rows(tmp_path / "data" / ROWS_NAME)), 4096, context, {})
    _, held = hold_out(pairs, stopping, 3)
    assert outcome.counts["held_out"] == len(held) == 3
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval()
    found = []
    with torch.inference_mode():
        for item in held:
            split = item.completion_mask.index(1)
            ids, labels = (torch.tensor([part]) for part in (item.input_ids[:split], item.input_ids[split:]))
            found.append(model(input_ids=ids, labels=labels).loss.item())
    assert (
        outcome.metrics["held_out_loss"].value == pytest.approx(sum(found) / 3, rel=1e-4) == pytest.approx(min(losses))
    )


def test_what_cannot_be_learned_ends_in_one_line(tmp_path: Path) -> None:
    nowhere = save_student(tmp_path / "nowhere", "t5", decoder_start_token_id=None)
    with pytest.raises(ValueError, match=r"config\.json has no decoder_start_token_id"):
        learn(tmp_path / "a", nowhere)
    apart = save_student(tmp_path / "apart", "t5")
    file = apart / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "decoder_start_token_id": 7}))
    with pytest.raises(
        ValueError, match=r"starts from token 1001 in config\.json and from 7 in generation_config\.json"
    ):
        learn(tmp_path / "b", apart)
    short = save_student(tmp_path / "short", "bart", max_position_embeddings=16)
    with pytest.raises(
        ValueError, match=r"max_length: a prompt or completion has \d+ tokens, and the model 16 positions"
    ):
        learn(tmp_path / "c", short)
    with pytest.raises(ValueError, match="there is no row to train on"):
        learn(tmp_path / "d", short, max_length=8)
    with pytest.raises(ValueError, match=r"mtp: it is made for causal models, .* has an encoder \(bart\)"):
        learn(tmp_path / "f", short, mtp=MTP())
    bad = {"learning_rate": 1e30, "max_grad_norm": 1e30, "warmup_ratio": 0, "weight_decay": 1e9}
    student = save_student(tmp_path / "student", "t5")
    with pytest.raises(ValueError, match="the held-out loss was never a number"):
        learn(tmp_path / "e", student, early_stopping=EarlyStopping(share=0.3), **bad)


def test_sft_refuses_a_model_with_an_encoder(tmp_path: Path) -> None:
    """transformers would load BART's decoder alone, and train that."""
    student = save_student(tmp_path / "student", "bart")
    with pytest.raises(
        ValueError, match=r"takes causal models only, .* has an encoder \(bart\); distillation trains it"
    ):
        learn(tmp_path, student, stage=COLD_START)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_completions_are_those_of_the_model_token_by_token(family: Any) -> None:
    """Of prompts of several lengths in one batch, from a decoder that is deeper than the encoder."""
    model, tokenizer = build_student(family)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_({"t5": 3, "bart": 20}[family])
    prompts = [[{"role": "user", "content": text}] for text in ("1+1=", "what is 12*3? think.", "hi")]
    groups = TransformersEngine(model, tokenizer, prefill=PREFILL).generate(
        prompts, Sampling(max_tokens=12, temperature=0)
    )
    assert len({tuple(completion.token_ids) for [completion] in groups}) == 3
    for prompt, [completion] in zip(prompts, groups, strict=True):
        ids = torch.tensor([prompt_ids(tokenizer, prompt, PREFILL)])
        written = [model.config.decoder_start_token_id]
        for token, logprob in zip(completion.token_ids, completion.logprobs, strict=True):
            with torch.inference_mode():
                logits = model.eval()(input_ids=ids, decoder_input_ids=torch.tensor([written])).logits[0, -1]
            assert token == logits.argmax()
            assert logprob == pytest.approx(logits.log_softmax(-1)[token].item(), abs=1e-3)
            written.append(token)


def test_sampling_asks_the_model_and_not_its_generation_config() -> None:
    model, tokenizer = build_student("bart", init_std=0.5)
    prompts = [[{"role": "user", "content": text}] for text in ("1+1=", "what is 12*3?", "hi")]
    sampling = Sampling(max_tokens=6, n=2, seed=5)
    plain = TransformersEngine(model, tokenizer).generate(prompts, sampling)
    assert any(not completion.finished for group in plain for completion in group), "EOS is not forced at the limit"
    asked = model.generation_config
    asked.update(num_beams=3, forced_bos_token_id=9, no_repeat_ngram_size=1, repetition_penalty=5.0, min_new_tokens=6)
    assert TransformersEngine(model, tokenizer).generate(prompts, sampling) == plain
    assert model.generation_config is asked
    assert asked.num_beams == 3


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_an_interrupted_student_ends_where_an_unbroken_one_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: Any
) -> None:
    from stages.training.progress import History

    student = save_student(tmp_path / "student", family)
    keys = {"epochs": 3, "dropout": 0.1, "micro_batch_size": 2}
    whole = learn(tmp_path / "unbroken", student, **keys)
    log = History.on_log

    def interrupt(self: Any, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
        log(self, args, state, *rest, **kwargs)
        if state.global_step == 5:
            raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(History, "on_log", interrupt)
        with pytest.raises(InterruptedError):
            learn(tmp_path / "broken", student, **keys)
    torch.rand(7)  # the state of the global generator must not matter
    resumed = learn(tmp_path / "broken", student, **keys)
    one, other = (load_file(tmp_path / name / "out" / "model.safetensors") for name in ("unbroken", "broken"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (resumed.counts, resumed.metrics) == (whole.counts, whole.metrics)
    assert history(tmp_path / "broken") == history(tmp_path / "unbroken")
    assert len(history(tmp_path / "broken")) == 9
