"""Against over-fitting: what dropout (Srivastava et al. 2014) and weight decay (Loshchilov and Hutter 2019, arXiv
1711.05101) do to the loss of rows that are not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def losses(folder: Path, **keys: Any) -> tuple[float, float]:
    """Loss of what is held out at the last step, and mean loss of training, 24 rows 40 times over from nothing."""
    config = ColdStartConfig(
        learning_rate=3e-3,
        epochs=40,
        batch_size=8,
        schedule="constant",
        early_stopping=EarlyStopping(every=STEPS, share=0.25),
        **keys,
    )
    outcome = stopping.learn(folder, config=config)
    assert outcome.counts["best_step"] == outcome.counts["optimiser_steps"] == STEPS
    return outcome.metrics["held_out_loss"].value, outcome.metrics["train_loss"].value


@pytest.mark.slow
def test_24_rows_40_times_over_leave_a_lower_held_out_loss_with_dropout_or_decay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learned from nothing: without either, what is trained on has the lower loss, and what is not the higher one."""
    monkeypatch.setattr(stopping, "BASE", untrained(tmp_path / "base"))
    plain_held, plain_trained = losses(tmp_path / "plain")
    held, trained = losses(tmp_path / "dropout", dropout=0.3)
    assert held < 0.92 * plain_held
    assert plain_trained < 0.9 * trained
    held, trained = losses(tmp_path / "decay", weight_decay=3.0)
    assert held < 0.94 * plain_held
    assert plain_trained < 0.94 * trained
    saved = load_policy(tmp_path / "dropout" / "out").config
    assert (saved.attn_pdrop, saved.resid_pdrop, saved.embd_pdrop) == (0, 0, 0)
