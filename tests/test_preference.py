"""The preference reward with a tiny real classifier."""

from __future__ import annotations

from pathlib import Path

import pytest

from rewards.preference import Preference
from rewards.reward import Sample, Status


def sample(answer: str, thought: str = "x") -> Sample:
    return Sample(prompt="How are you?", completion=f"<think>{thought}</think><answer>{answer}</answer>")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-layer classifier over bytes, random but seeded."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForSequenceClassification

    path = tmp_path_factory.mktemp("classifier")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate([*alphabet, "<eos>"])}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<eos>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(alphabet) + 1, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, num_labels=1, pad_token_id=len(alphabet),
    )  # fmt: skip
    tokenizer.save_pretrained(path)
    Qwen2ForSequenceClassification(config).save_pretrained(path)
    config.num_labels = 3
    tokenizer.save_pretrained(path / "three")
    Qwen2ForSequenceClassification(config).save_pretrained(path / "three")
    return path


def test_only_the_final_answer_is_scored_and_batches_do_not_matter(checkpoint: Path) -> None:
    samples = [sample("fine, thanks"), sample("a much longer answer than the other " * 3), sample("ok", "long " * 50)]
    together = Preference(model=str(checkpoint), device="cpu").score_batch(samples)
    alone = [Preference(model=str(checkpoint), device="cpu", batch_size=1)(s) for s in samples]
    scores = [verdict.score for verdict in together]
    assert scores == pytest.approx(alone, abs=1e-5)
    assert all(0.0 < score < 1.0 for score in scores if score is not None)
    assert Preference(model=str(checkpoint), device="cpu")(sample("ok", "short")) == pytest.approx(scores[2], abs=1e-6)
    assert scores[0] != pytest.approx(scores[1], abs=1e-6)


def test_raw_scores_and_long_answers(checkpoint: Path) -> None:
    raw = Preference(model=str(checkpoint), device="cpu", squash="none")(sample("ok"))
    squashed = Preference(model=str(checkpoint), device="cpu")(sample("ok"))
    assert raw is not None
    assert squashed == pytest.approx(1 / (1 + 2.718281828459045**-raw), abs=1e-5)
    assert Preference(model=str(checkpoint), device="cpu", max_length=16)(sample("x" * 500)) is not None


def test_no_answer_is_the_worst_answer(checkpoint: Path) -> None:
    reward = Preference(model=str(checkpoint), device="cpu")
    verdicts = reward.score_batch([Sample(prompt="p", completion="<think>never ends"), sample("ok")])
    assert (verdicts[0].score, verdicts[0].status) == (0.0, Status.WRONG)
    assert verdicts[1].score is not None
    assert Preference(model="x", squash="none", floor=-3.0)(Sample(prompt="p", completion="")) == -3.0


def test_a_checkpoint_that_cannot_serve_is_one_clear_line(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot load"):
        Preference(model=str(tmp_path))(sample("ok"))
    with pytest.raises(ValueError, match="has 3 labels"):
        Preference(model=str(checkpoint / "three"), device="cpu")(sample("ok"))
