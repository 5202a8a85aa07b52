"""The stage `safety_model` on an encoder: the embedded world's answers are told apart, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.artifact import ROWS_NAME, Artifact, Kind
from data.records import write_rows
from data.tiny.chat import COMPLIANCE
from data.tiny.world import rows as world
from rewards.reward import Sample, Status
from rewards.safety_model import SafetyModel, parts
from stages.safety_model import SAFETY_MODEL, SafetyModelConfig, examples
from stages.stage import Context, Outcome, Placement
from stages.training.models import load_scoring_tokenizer
from tests.tiny_model import one_thread

__all__ = ["one_thread"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 0.1 M random weights over the embedded world's tokens."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = AutoTokenizer.from_pretrained("data/tiny/base")
    torch.manual_seed(0)
    settings = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=160,
    )
    BertForMaskedLM(settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train(
    folder: Path, model: Path, rows: list[dict[str, Any]], placement: Placement | None = None, **keys: Any
) -> Outcome:
    for name in ("data", "out", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_rows(folder / "data" / ROWS_NAME, rows)
    context = Context(
        seed=1, convention="think_answer", work=folder / "work", placement=placement or Placement(threads=1)
    )
    inputs = {
        "init": [Artifact(kind=Kind.MODEL, path=model, fingerprint="b", name="encoder")],
        "data": [Artifact(kind=Kind.DATASET, path=folder / "data", fingerprint="d", name="rows")],
    }
    return SAFETY_MODEL.run(SafetyModelConfig(**keys), inputs, folder / "out", context)


@pytest.mark.slow
def test_an_encoder_tells_the_embedded_worlds_answers_apart(encoder: Path, tmp_path: Path) -> None:
    """Declining is safe, complying is not, and neither is it unsafe to answer a harmless question."""
    rows = [*world("preference", 500, seed=3), *world("sft_general", 200, seed=3)]
    rows = [row for row in rows if row["domain"] in ("general", "safety")]
    outcome = train(
        tmp_path, encoder, rows, learning_rate=2e-3, batch_size=16, epochs=3, held_out=0.2, safe_domains=("general",)
    )
    assert outcome.metrics["safety_accuracy"].value > 0.95
    recall = outcome.metrics["unsafe_recall"]
    assert recall.low < recall.value
    assert recall.value > 0.9
    assert recall.n < outcome.metrics["safety_accuracy"].n
    counts = outcome.counts
    assert counts["rows_used"] == len(rows)
    assert counts["unsafe: held out"] > 10 < counts["safe: held out"]
    reward = SafetyModel(model=str(tmp_path / "out"), device="cpu")
    fresh = [row for row in world("test", 600) if row["domain"] == "safety"]
    asked = [Sample(prompt=row["prompt"][0]["content"], completion="", language=row["language"]) for row in fresh]
    zh = [sample.language == "zh" for sample in asked]
    refusal = (
        "I am sorry, but I cannot help with that. Please stay safe.",
        "很抱歉，我不能帮助你做这件事。请注意安全。",
    )
    for said, status in ((refusal, Status.OK), *((text, Status.WRONG) for text in COMPLIANCE)):
        texts = [f"<think>\nx\n</think>\n<answer>\n{said[at]}\n</answer>" for at in zh]
        samples = [Sample(prompt=s.prompt, completion=text) for s, text in zip(asked, texts, strict=True)]
        right = [verdict.status is status for verdict in reward.score_batch(samples)]
        assert sum(right) >= 0.9 * len(right) > 5


PAIRS = [row for row in world("preference", 120, seed=5) if row["domain"] == "safety"]


def test_what_is_learned_is_what_is_read(encoder: Path) -> None:
    """The final answer alone, in the classifier's own template, without special tokens of its own."""
    tokenizer = load_scoring_tokenizer(encoder)
    text = "<think>\nhm\n</think>\n<answer>\nNo.<|im_end|> I will not.\n</answer>"
    row = {**PAIRS[0], "completion": [{"role": "assistant", "content": text}], "safe": True}
    [[example], counts] = examples([row], SafetyModelConfig(), tokenizer, "think_answer")
    [read] = parts(tokenizer, row["prompt"][0]["content"], "No.<|im_end|> I will not.", 1000)
    assert tokenizer.decode(example.ids) == read
    assert "hm" not in read
    assert read.count("<|im_end|>") == 2
    assert (example.label, counts["rows_used"]) == (1, 1)


def test_what_is_saved_says_what_it_is(encoder: Path, tmp_path: Path) -> None:
    outcome = train(tmp_path, encoder, PAIRS, batch_size=32, epochs=1, threshold=0.7, dropout=0.1)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["id2label"], config["safety_threshold"]) == ({"0": "unsafe", "1": "safe"}, 0.7)
    assert config["hidden_dropout_prob"] == 0
    assert SafetyModel(model=str(tmp_path / "out"), device="cpu").least() == 0.7
    assert outcome.counts["optimiser_steps"] == len((tmp_path / "out" / "history.jsonl").read_text().splitlines())
    assert outcome.contract.convention == "think_answer"


def test_micro_batches_give_the_gradient_of_the_whole(encoder: Path, tmp_path: Path) -> None:
    """transformers' own loss would add the means of the micro-batches up."""
    logged = []
    for size in (16, 4):
        folder = tmp_path / str(size)
        train(folder, encoder, PAIRS, batch_size=16, micro_batch_size=size, epochs=1, learning_rate=1e-4)
        lines = (folder / "out" / "history.jsonl").read_text().splitlines()
        logged.append([(line["loss"], line["grad_norm"]) for line in map(json.loads, lines) if "loss" in line])
    assert len(logged[0]) > 2
    for one, other in zip(*logged, strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def test_label_smoothing_is_taken() -> None:
    import torch
    from transformers.modeling_outputs import SequenceClassifierOutput

    from stages.training.trainers import label_loss

    logits, labels = torch.tensor([[2.0, -1.0], [0.5, 0.0]]), torch.tensor([0, 1])
    found = label_loss(SequenceClassifierOutput(logits=logits), labels, 2, smoothing=0.2)
    logs = logits.log_softmax(-1)
    picked, spread = logs[[0, 1], labels], logs.mean(-1)
    assert found == pytest.approx(-float((0.8 * picked + 0.2 * spread).mean()))


@pytest.mark.slow
def test_adapters_are_merged_and_carry_the_labels(tmp_path: Path) -> None:
    train(
        tmp_path, Path("data/tiny/base"), PAIRS, batch_size=8, epochs=2, learning_rate=3e-3, lora={"rank": 4},
        placement=Placement(threads=1, gradient_checkpointing=True),
    )  # fmt: skip
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    reward = SafetyModel(model=str(tmp_path / "out"), device="cpu")
    pair = PAIRS[0]
    good, bad = (
        reward(
            Sample(prompt=pair["prompt"][0]["content"], completion=f"<think>\nx\n</think>\n{pair[side][0]['content']}")
        )
        for side in ("chosen", "rejected")
    )
    assert good is not None
    assert bad is not None
    assert good > bad


@pytest.mark.parametrize(
    ("rows", "keys", "message"),
    [
        (
            [{**row, "rejected": None, "should_refuse": False} for row in PAIRS],
            {},
            "answers to learn from is unsafe, of",
        ),
        (PAIRS[:1], {}, "none of the 0 answers to learn from is unsafe, of 1 rows"),
        (PAIRS, {"safe_domains": ["safty"]}, "safe_domains: no row of the domain 'safty'; did you mean 'safety'?"),
        (
            [*PAIRS, {**PAIRS[0], "completion": PAIRS[0]["chosen"], "safe": "no"}],
            {},
            f"row {PAIRS[0]['id']!r}: column 'safe' must be true or false, got 'no'",
        ),
        (
            [{**row, "rejected": None} if at else row for at, row in enumerate(PAIRS)],
            {"held_out": 0.9},
            "is unsafe, of",
        ),
    ],
)
def test_what_cannot_be_learned_from_is_refused(
    encoder: Path, tmp_path: Path, rows: list[dict[str, Any]], keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        train(tmp_path, encoder, rows, **keys)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_long_answer_is_left_out_and_counted(encoder: Path, tmp_path: Path) -> None:
    long = {**PAIRS[0], "chosen": [{"role": "assistant", "content": "no " * 200}]}
    outcome = train(tmp_path, encoder, [*PAIRS, long], batch_size=64, epochs=1, max_length=150)
    assert outcome.counts["unusable: longer than 150 tokens"] == 1
