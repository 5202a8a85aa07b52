"""Two ranks agree on coefficients, replaced groups and open tiers, and make the gradient of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chains import on_two_ranks
from tests.grpo_on_ranks import summary, tiers, without_kl
from tests.tiny_grpo import train
from tests.tiny_model import one_thread  # noqa: F401


@pytest.mark.slow
@pytest.mark.pair
def test_two_ranks_agree_and_give_the_gradient_of_one(tmp_path: Path) -> None:
    alone = {}
    for make in (tiers, without_kl):
        gradients, trainer = train(tmp_path, make())
        alone[make.__name__] = summary(trainer, gradients)
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    first, second = on_two_ranks(torchrun, "tests.grpo_on_ranks", tmp_path)
    said = [rank.pop("stopped") for rank in (first, second)]
    assert said[0] == said[1], "all ranks stop, and none waits for another"
    assert said[0].startswith("sentry zero_variance, step 2: share of groups with equal rewards 1 over steps 1 to 2")
    for name, found in first.items():
        assert found["kl"] == second[name]["kl"], name
        assert found["curriculum"] == second[name]["curriculum"], name
        assert found["gradients"] == second[name]["gradients"], name
    assert first["tiers"]["kl"]["betas"] == pytest.approx(alone["tiers"]["kl"]["betas"])
    assert alone["tiers"]["kl"]["betas"]["math"] != 0.2
    for name, expected in alone.items():
        for ours, theirs in zip(first[name]["gradients"], expected["gradients"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-7), name
    # A step that is skipped whole leaves no gradient and no rank waiting; the next ones go on.
    norms = [sum(step.values()) for step in first["now_and_then"]["gradients"]]
    assert [norm > 0 for norm in norms] == [True, False, True, False]
    shares = [line["status/mine/timeout"] for line in first["now_and_then"]["log"]]
    assert shares == [0.25] * 4, "of all completions, not of those of ranks where it happened"
    for line in first["without_kl"]["log"]:
        alike = round(line["frac_reward_zero_std"] * 8)  # of eight groups, each of the size of a micro-batch
        assert line["skipped_micro_batches"] == (alike // 2) / 4
    for name in ("resampled", "with_curriculum"):
        assert replaced(first[name]["log"]) > 0
        assert all(line["dynamic_sampling/without_signal"] == 0 for line in first[name]["log"])


def replaced(log: list[dict[str, Any]]) -> float:
    return sum(line["dynamic_sampling/replaced"] for line in log)
