"""A preference model on an encoder-only checkpoint, whose tokenizer has neither a chat template nor EOS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.artifact import ROWS_NAME, Artifact, Kind
from data.records import write_rows
from rewards.preference import Preference
from rewards.reward import Sample
from stages.preference_model import PREFERENCE_MODEL, PreferenceModelConfig, answer_ids
from stages.stage import Context, Placement
from stages.training.models import DROPOUT, load_scoring_tokenizer, set_dropout
from tests.tiny_model import one_thread

__all__ = ["one_thread"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "how", "are", "you", "fine", "thanks", "go", "away", "today"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    settings = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertForMaskedLM(settings).save_pretrained(folder)
    BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}).save_pretrained(folder)
    return folder


def pair(number: int) -> dict[str, Any]:
    question = "how are you" + " today" * (number % 5)
    said = {"chosen": "<think>\ngo\n</think>\n<answer>\nfine thanks\n</answer>", "rejected": "go away"}
    return {
        "id": f"p{number}",
        "prompt": [{"role": "user", "content": question}],
        "domain": "general",
        "language": "en",
        **{side: [{"role": "assistant", "content": text}] for side, text in said.items()},
    }


def test_an_encoder_learns_preferences_and_scores_them(bert: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / ROWS_NAME, [pair(n) for n in range(20)])
    out, work = tmp_path / "out", tmp_path / "work"
    out.mkdir()
    work.mkdir()
    context = Context(seed=1, convention="think_answer", work=work, placement=Placement(threads=1))
    inputs = {
        "init": [Artifact(kind=Kind.MODEL, path=bert, fingerprint="b", name="bert")],
        "data": [Artifact(kind=Kind.DATASET, path=tmp_path, fingerprint="d", name="pairs")],
    }
    config = PreferenceModelConfig(learning_rate=3e-3, batch_size=8, epochs=4, dropout=0.1)
    outcome = PREFERENCE_MODEL.run(config, inputs, out, context)
    assert outcome.metrics["pair_accuracy"].value == 1.0
    assert outcome.counts["rows_used"] == 20
    assert (outcome.contract.eos, outcome.contract.chat_template, outcome.contract.pad) == (None, None, "[PAD]")
    reward = Preference(model=str(out), device="cpu")
    kind, curt = (
        reward(Sample(prompt="how are you", completion=f"<think>go</think><answer>{text}</answer>"))
        for text in ("fine thanks", "go away")
    )
    assert kind is not None
    assert curt is not None
    assert kind > 0.5 > curt


def test_what_is_learned_is_what_is_scored(bert: Path) -> None:
    """The encoder's own special tokens around prompt and answer, the reasoning left out."""
    tokenizer = load_scoring_tokenizer(bert)
    row = pair(0)
    ids = answer_ids(tokenizer, row, row["chosen"][0]["content"], "think_answer")
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "how", "are", "you", "fine", "thanks", "[SEP]"]


def test_every_dropout_of_an_encoder_is_set() -> None:
    from transformers import BartConfig, BertConfig, GPT2Config, Qwen2Config, T5Config

    found = set()
    for settings in (BartConfig(), BertConfig(), GPT2Config(), Qwen2Config(), T5Config()):
        set_dropout(settings, 0.25)
        mine = {name for name in DROPOUT if getattr(settings, name, None) is not None}
        assert mine
        assert all(getattr(settings, name) == 0.25 for name in mine)
        found |= mine
    assert found == set(DROPOUT) - {"hidden_dropout"}


def test_eos_stands_in_for_a_missing_pad_token(bert: Path, tmp_path: Path) -> None:
    tokenizer = load_scoring_tokenizer(bert)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "neither")
    with pytest.raises(ValueError, match="the tokenizer has neither a pad nor an EOS token"):
        load_scoring_tokenizer(tmp_path / "neither")
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(tmp_path / "eos")
    assert load_scoring_tokenizer(tmp_path / "eos").pad_token == "[SEP]"


def test_a_roberta_reads_no_further_than_its_positions_go(bert: Path) -> None:
    """Its table of positions has two rows that no token takes, and a tokenizer that knows no limit does not help."""
    from transformers import BertTokenizer, RobertaConfig, RobertaForSequenceClassification

    from rewards import classifier

    tokenizer = BertTokenizer.from_pretrained(bert)
    tokenizer.model_max_length = 10**9
    settings = RobertaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=18,
        pad_token_id=0,
        num_labels=1,
    )
    model = RobertaForSequenceClassification(settings).eval()
    assert classifier.longest(model, tokenizer, 512) == 17
    assert classifier.longest(model, tokenizer, 9) == 9
    assert classifier.logits(model, tokenizer, ["how are you " * 30], 512).shape == (1, 1)
