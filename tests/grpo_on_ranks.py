"""What test_grpo_on_ranks.py runs on each rank: `python -m tests.grpo_on_ranks FOLDER`, under torchrun."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from stages.ranks import leave
from stages.stage import Context
from stages.training.curriculum import CurriculumConfig
from stages.training.dynamic_sampling import DynamicSampling
from stages.training.kl import KLTier
from stages.training.options import ReinforcementConfig
from stages.training.progress import History
from stages.training.sentries import SentryConfig
from stages.training.watch import SentryStop, Watch
from tests.tiny_grpo import config, reward, train

TIERS = (KLTier(domains=("math",), beta=0.2, target=0.03), KLTier(domains=("code",), beta=0.0))
EVERYTHING: dict[str, Any] = {
    "beta": 0.1,
    "kl_tiers": TIERS,
    "prompts_per_step": 8,
    "updates_per_generation": 1,
    "steps": 4,
}


def tiers() -> ReinforcementConfig:
    """Layered KL with a controller; nothing that depends on the number of ranks."""
    return config(**EVERYTHING)


def without_kl() -> ReinforcementConfig:
    """No KL: rows without advantage have no gradient, and are shared evenly by the ranks. Learning is slow, so that
    what one step rounds does not grow in the next."""
    return config(prompts_per_step=8, updates_per_generation=1, steps=4, learning_rate=1e-4)


def resampled() -> ReinforcementConfig:
    """Dynamic sampling on top."""
    return config(**EVERYTHING, dynamic_sampling=DynamicSampling(max_rounds=8))


def with_curriculum() -> ReinforcementConfig:
    """And a curriculum."""
    return config(
        **EVERYTHING, dynamic_sampling=DynamicSampling(max_rounds=8), curriculum=CurriculumConfig(open_tiers=3)
    )


def summary(trainer: Any, gradients: list[dict[str, Any]]) -> dict[str, Any]:
    """All that must be equal on every rank."""
    timed = ("step_time", "train_runtime")
    return {
        "gradients": [{n: float(g.norm()) for n, g in step.items()} for step in gradients],
        "kl": trainer.kl.state() if trainer.kl else None,
        "curriculum": trainer.curriculum.state() if trainer.curriculum else None,
        "log": [{k: v for k, v in line.items() if k not in timed} for line in trainer.state.log_history[:-1]],
    }


def now_and_then(prompts: Any, completion_ids: Any, **columns: Any) -> list[float]:
    """Nothing to learn from in every second call; half of the second rank's programs run for ever."""
    if os.environ["RANK"] == "1":
        columns["log_metric"]("status/mine/timeout", 0.5)
    now_and_then.calls += 1  # type: ignore[attr-defined]
    paid = reward(prompts, completion_ids, **columns)
    return paid if now_and_then.calls % 2 else [1.0 for _ in paid]  # type: ignore[attr-defined]


def stopped(folder: Path) -> str:
    """What the stop of a sentry says; only the first rank reads the figures."""
    context = Context(seed=1, convention="none", work=folder, name="rl")
    settings = {"zero_variance": SentryConfig(action="stop", window=2)}
    callbacks = [History(folder / "history.jsonl"), Watch(settings, context)]
    try:
        train(folder, without_kl(), processes=2, paid=lambda prompts, **_: [1.0] * len(prompts), callbacks=callbacks)
    except SentryStop as stop:
        return str(stop)
    return ""


now_and_then.calls = 0  # type: ignore[attr-defined]


def main() -> None:
    import torch

    from tests.test_prompt_trainer import Recorded

    torch.set_num_threads(1)
    folder, rank = Path(sys.argv[1]), os.environ["RANK"]
    found: dict[str, Any] = {}
    gradients, trainer = train(folder, without_kl(), processes=2, paid=now_and_then)
    found["now_and_then"] = summary(trainer, gradients)
    for make in (tiers, without_kl, resampled, with_curriculum):
        gradients, trainer = train(folder, make(), processes=2, paid=Recorded())
        found[make.__name__] = summary(trainer, gradients)
    found["stopped"] = stopped(folder)
    (folder / f"rank{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    leave()


if __name__ == "__main__":
    main()
