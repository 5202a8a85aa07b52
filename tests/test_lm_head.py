"""Leaving positions without a label out of the head changes neither figures nor gradient."""

from __future__ import annotations

from pathlib import Path

import torch
from trl.trainer import utils

from stages.training.lm_head import labelled_positions_only
from stages.training.models import load_policy


def test_figures_and_gradient_are_those_of_all_positions(monkeypatch):
    model = load_policy(Path("data/tiny/base")).double()
    utils.add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    ids = torch.randint(0, 1000, (3, 12), generator=torch.Generator().manual_seed(0))
    labels = ids.masked_fill(torch.arange(12) < 7, -100)
    labels[1, 10:] = -100
    labels[2] = -100  # a completion that is masked whole
    rows = []

    def seen(hidden, *arguments):
        rows.append(len(hidden))
        return apply(hidden, *arguments)

    apply = utils._ChunkedLogProbFunction.apply
    monkeypatch.setattr(utils._ChunkedLogProbFunction, "apply", seen)

    def once():
        model.zero_grad()
        output = model(input_ids=ids, labels=labels, fused_lm_head=True)
        output.log_probs.sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        return output.log_probs.detach(), output.entropy.detach(), gradient

    everywhere = once()
    with labelled_positions_only():
        labelled = once()
    assert rows == [33, 8]
    for one, two in zip(everywhere, labelled, strict=True):
        torch.testing.assert_close(one, two)


def test_trl_s_own_choice_is_put_back():
    before = utils._use_triton
    with labelled_positions_only():
        assert utils._use_triton is not before
        assert utils._use_triton(torch.device("cpu"))
    assert utils._use_triton is before
