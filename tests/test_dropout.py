"""Dropout (Srivastava et al. 2014) against over-fitting: what it does to the loss of rows that are not trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data.artifact import Artifact, Kind
from stages.cold_start import ColdStartConfig
from stages.training.early_stopping import EarlyStopping
from stages.training.models import load_policy, load_tokenizer
from tests import test_early_stopping as stopping
from tests.tiny_model import one_thread  # noqa: F401

STEPS = 120


def untrained(folder: Path) -> Artifact:
    """A random GPT-2, which has dropout on embeddings, attention and residuals."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = load_tokenizer(stopping.BASE.path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(tokenizer),
                n_embd=64,
                n_layer=2,
                n_head=4,
                n_positions=256,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Artifact(kind=Kind.MODEL, path=folder, fingerprint="untrained", name="untrained")


@pytest.mark.slow
def test_24_rows_40_times_over_leave_a_lower_held_out_loss_with_dropout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learned from nothing: without dropout what is trained on has the lower loss, and what is not the higher one."""
    monkeypatch.setattr(stopping, "BASE", untrained(tmp_path / "base"))
    held_out, trained = {}, {}
    for rate in (0.0, 0.3):
        config = ColdStartConfig(
            learning_rate=3e-3,
            epochs=40,
            batch_size=8,
            schedule="constant",
            dropout=rate,
            early_stopping=EarlyStopping(every=STEPS, share=0.25),
        )
        outcome = stopping.learn(tmp_path / str(rate), config=config)
        assert outcome.counts["best_step"] == outcome.counts["optimiser_steps"] == STEPS
        held_out[rate] = outcome.metrics["held_out_loss"].value
        trained[rate] = outcome.metrics["train_loss"].value
    assert held_out[0.3] < 0.92 * held_out[0.0]
    assert trained[0.0] < 0.9 * trained[0.3]
    saved = load_policy(tmp_path / "0.3" / "out").config
    assert (saved.attn_pdrop, saved.resid_pdrop, saved.embd_pdrop) == (0, 0, 0)
