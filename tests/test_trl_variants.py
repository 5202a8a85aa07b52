"""Every variant of the loss reaches TRL and gives the gradient of stock TRL that is told the same in its own words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tiny_grpo import config, furthest, train
from tests.tiny_model import one_thread  # noqa: F401

PLAIN: dict[str, Any] = {"loss_type": "grpo", "epsilon": 0.2, "epsilon_high": None, "beta": 0.0}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "clip-higher": ({"epsilon_high": 0.6}, {"epsilon_high": 0.6}),
    "narrow clipping": ({"epsilon": 0.05}, {"epsilon": 0.05}),
    "overlong masking": ({"mask_truncated": True}, {"mask_truncated_completions": True}),
    "DAPO": ({"loss_type": "dapo"}, {"loss_type": "dapo"}),
    "BNPO": ({"loss_type": "bnpo"}, {"loss_type": "bnpo"}),
    "Dr. GRPO": (
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
    ),
    "batch scaling": ({"scale_rewards": "batch"}, {"scale_rewards": "batch"}),
    "GSPO": ({"importance_sampling": "sequence"}, {"importance_sampling_level": "sequence"}),
    "CISPO": ({"loss_type": "cispo"}, {"loss_type": "cispo", "epsilon_high": 5.0}),
    "CISPO, another cap": (
        {"loss_type": "cispo", "epsilon_high": 1.1},
        {"loss_type": "cispo", "epsilon_high": 1.1},
    ),
    "KL": ({"beta": 0.3}, {"beta": 0.3}),
    "through trl": ({"trl": {"delta": 1.05}}, {"delta": 1.05}),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train(tmp_path_factory.mktemp("plain"), config(), PLAIN)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_that_of_stock_trl(tmp_path: Path, plain: Any, name: str) -> None:
    ours, theirs = VARIANTS[name]
    stock, _ = train(tmp_path, config(), {**PLAIN, **theirs})
    mine, _ = train(tmp_path, config(**ours))
    assert furthest(mine, stock) < 1e-5  # advantages and the head are single precision
    assert furthest(stock, plain) > 1e-4
