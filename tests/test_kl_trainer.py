"""The layered KL inside the trainer: the gradient it gives, what it skips, what it logs, how it is steered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stages.training.kl import KLTier
from tests.tiny_grpo import config, furthest, train
from tests.tiny_model import one_thread  # noqa: F401

pytestmark = pytest.mark.slow

LOSSES: list[dict[str, Any]] = [
    {"loss_type": "grpo"},
    {"loss_type": "dapo"},
    {"loss_type": "bnpo"},
    {"loss_type": "dr_grpo", "scale_rewards": "none"},
    {"loss_type": "cispo"},
    {"importance_sampling": "sequence"},
    {"mask_truncated": True},
    {"trl": {"use_bias_correction_kl": True}},
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: ",".join(map(str, loss.values())))
def test_equal_coefficients_are_the_single_one_of_stock_trl(tmp_path: Path, loss: dict[str, Any]) -> None:
    tiers = (KLTier(domains=("math",), beta=0.3), KLTier(difficulty=(1, 9), beta=0.3))
    stock, _ = train(tmp_path, config(beta=0.3, **loss), stock={})
    ours, trainer = train(tmp_path, config(beta=0.3, kl_tiers=tiers, **loss))
    assert furthest(ours, stock) < 1e-5
    without, _ = train(tmp_path, config(beta=0.0, **loss), stock={})
    assert furthest(without, stock) > 1e-3
    assert trainer.beta == 0.3


def first_gradient(folder: Path, math: float, rest: float) -> dict[str, torch.Tensor]:
    found, _ = train(folder, config(beta=rest, kl_tiers=(KLTier(domains=("math",), beta=math),), steps=1))
    return found[0]


def test_each_tier_pulls_with_its_own_coefficient(tmp_path: Path) -> None:
    both, math, rest = (first_gradient(tmp_path, *betas) for betas in ((0.4, 0.1), (0.4, 0.0), (0.0, 0.1)))
    none = train(tmp_path, config(steps=1))[0][0]
    stronger = first_gradient(tmp_path, 0.8, 0.1)
    for name, gradient in none.items():
        torch.testing.assert_close(both[name] - gradient, (math[name] - gradient) + (rest[name] - gradient))
        torch.testing.assert_close(stronger[name] - both[name], math[name] - gradient)
    assert max(float((both[n] - math[n]).abs().max()) for n in none) > 1e-4


def test_only_rows_with_neither_advantage_nor_kl_are_skipped(tmp_path: Path) -> None:
    """The prompts 0, 4 and 8 have no advantage; they are one of math, code and logic each."""
    tiers = (KLTier(domains=("math", "code"), beta=0.0),)
    keys: dict[str, Any] = {"beta": 0.3, "prompts_per_step": 12, "updates_per_generation": 1, "steps": 1}
    ours, trainer = train(tmp_path, config(kl_tiers=tiers, **keys))
    whole, _ = train(tmp_path, config(kl_tiers=tiers, skip_without_gradient=False, **keys))
    assert furthest(ours, whole) < 1e-5
    assert trainer.state.log_history[0]["skipped_micro_batches"] == pytest.approx(2 / 12)
    _, trainer = train(tmp_path, config(kl_tiers=(KLTier(domains=("math",), beta=0.1),), **keys))
    assert trainer.state.log_history[0]["skipped_micro_batches"] == 0


def test_kl_is_logged_by_tier_over_its_tokens(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"beta": 0.3, "prompts_per_step": 12, "updates_per_generation": 1, "micro_batch_size": 48}
    _, trainer = train(tmp_path, config(kl_tiers=(KLTier(name="everything", beta=0.2),), **keys))
    for line in trainer.state.log_history[:2]:
        assert line["kl_tiers/everything/kl"] == pytest.approx(line["kl"]) != 0
        assert line["kl_tiers/everything/beta"] == 0.2
        assert line["kl_tiers/rest/beta"] == 0.3
        assert "kl_tiers/rest/kl" not in line
    _, trainer = train(tmp_path, config(kl_tiers=(KLTier(domains=("math",), beta=0.2),), **keys))
    for line in trainer.state.log_history[:2]:
        low, high = sorted((line["kl_tiers/math/kl"], line["kl_tiers/rest/kl"]))
        assert low < line["kl"] < high


def test_a_tier_is_steered_by_the_kl_that_it_logs(tmp_path: Path) -> None:
    tiers = (KLTier(domains=("math",), beta=0.2, target=0.03), KLTier(domains=("code",), beta=0.1, target=100))
    _, trainer = train(tmp_path, config(beta=0.05, kl_tiers=tiers, steps=4))
    beta = {"math": 0.2, "code": 0.1, "rest": 0.05}
    target = {"math": 0.03, "code": 100}
    for line in trainer.state.log_history[:4]:
        for label, value in beta.items():
            assert line[f"kl_tiers/{label}/beta"] == pytest.approx(value)
            if label in target and f"kl_tiers/{label}/kl" in line:
                error = (line[f"kl_tiers/{label}/kl"] - target[label]) / target[label]
                beta[label] *= 1 + 0.1 * max(-0.2, min(0.2, error))
    assert beta["math"] != 0.2
    assert beta["code"] == pytest.approx(0.1 * 0.98**4)
