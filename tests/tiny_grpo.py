"""GRPO on a model of a few thousand weights in double precision, ours and stock TRL on the same completions."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.training.options import ReinforcementConfig
from tests.tiny_model import build_model, build_tokenizer, save_checkpoint

GROUP = 4
DOMAINS = ("math", "code", "logic")
ROWS = [
    {
        "id": str(i),
        "prompt": [{"role": "user", "content": f"problem {'x' * (i % 3)}{i}"}],
        "domain": DOMAINS[i % 3],
        "language": "en",
        "difficulty": i // 4,
    }
    for i in range(12)
]


def reward(prompts: Any, completion_ids: Any, **_: Any) -> list[float]:
    """0, 0.5 or 1 by the tokens, and more for the first of a group; the prompts 0, 4 and 8 are always paid alike."""
    paid = []
    for i, (prompt, ids) in enumerate(zip(prompts, completion_ids, strict=True)):
        alike = int(prompt[0]["content"].split()[1].strip("x")) % 4 == 0
        paid.append(0.5 if alike else sum(ids) % 3 / 2 + (0.25 if i % GROUP == 0 else 0))
    return paid


def fixed(ids: tuple[int, ...], number: int, limit: int) -> list[int]:
    """The completion `number` to a prompt: up to `limit` tokens, three in four of them ended by EOS."""
    chance = random.Random(f"{ids} {number}")
    if number == GROUP - 1:
        return [chance.randrange(2, 40) for _ in range(limit)]
    return [*(chance.randrange(2, 40) for _ in range(chance.randrange(1, limit))), 0]


def build(
    folder: Path,
    config: ReinforcementConfig,
    stock: Mapping[str, Any] | None = None,
    *,
    sampled: bool = False,
    drift: float = 0.02,
    callbacks: Any = (),
    paid: Any = reward,
    processes: int = 1,
) -> Any:
    """A trainer. With `stock`, stock TRL with these arguments of GRPOConfig over those that `config` gives. `drift`
    moves the policy away from its reference before the first step, 0 leaves it as single precision; `sampled` takes
    completions from the policy instead of fixed ones."""
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from stages.stage import Context, Placement
    from stages.training.adapting import adapter, grow
    from stages.training.arguments import trl_arguments
    from stages.training.grpo import grpo_arguments, prompt_columns
    from stages.training.grpo_trainer import ReasoningTrainer
    from stages.training.kl import tier_numbers
    from stages.training.kl_trainer import KL_TIER
    from stages.training.models import load_policy

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "base").exists():
        save_checkpoint(folder / "base")
    context = Context(
        seed=1, convention="none", work=folder, placement=Placement(processes=processes, checkpoint_steps=2)
    )

    class Fixed:
        def _generate_single_turn(self, prompt_ids: Any, *_: Any) -> Any:
            limit = config.max_completion_tokens
            return [fixed(tuple(ids), i % GROUP, limit) for i, ids in enumerate(prompt_ids)], None

    kind: Any = ReasoningTrainer if stock is None else GRPOTrainer
    if not sampled:
        kind = type("Fixed" + kind.__name__, (Fixed, kind), {})
    given = grpo_arguments(config, context) | {"save_total_limit": None} | dict(stock or {})
    arguments = trl_arguments(GRPOConfig, config, context, steps=config.steps, batch_size=config.update_batch, **given)
    columns = prompt_columns(ROWS)
    if config.kl_tiers:
        columns[KL_TIER] = tier_numbers(config.kl_tiers, ROWS)
    model = load_policy(folder / "base")
    if drift:
        model = model.double()  # in single precision, the order of sums hides small gradients
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            for parameter in model.parameters():
                parameter.add_(drift * torch.randn_like(parameter))
    grow(config.adapters, model, context.seed)
    trainer = kind(
        model=model,
        reward_funcs=[paid],
        args=arguments,
        train_dataset=Dataset.from_dict(columns),
        processing_class=build_tokenizer(),
        callbacks=list(callbacks),
        peft_config=adapter(config.adapters, model),
        **({"options": config} if stock is None else {}),
    )
    trainer.generation_config.eos_token_id = build_model().generation_config.eos_token_id
    return trainer


def train(*args: Any, resume: str | None = None, **keys: Any) -> tuple[list[dict[str, Any]], Any]:
    """(gradients of each optimiser step, trainer) of a trainer that `build` makes of the other arguments."""
    trainer = build(*args, **keys)
    found: list[dict[str, Any]] = []

    def keep(*_: Any, **__: Any) -> None:
        found.append({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})

    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(keep)
    trainer.train(resume_from_checkpoint=resume)
    return found, trainer


def config(**keys: Any) -> ReinforcementConfig:
    """Six prompts a round in micro-batches of four; learning so fast that the second update of a round is clipped."""
    defaults = {
        "learning_rate": 0.1,
        "steps": 2,
        "prompts_per_step": 6,
        "num_generations": GROUP,
        "updates_per_generation": 2,
        "micro_batch_size": 4,
        "max_completion_tokens": 10,
        "max_grad_norm": 1e9,
        "warmup_ratio": 0,
        "beta": 0.0,
    }
    return ReinforcementConfig(**{**defaults, **keys})


def furthest(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> float:
    """Greatest relative difference of a gradient, over the steps of two runs."""
    assert len(one) == len(other) > 0
    worst = 0.0
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        total = sum(float(g.norm()) ** 2 for g in right.values()) ** 0.5
        assert total > 1e-6
        worst = max(worst, *(float((left[n] - g).norm()) / total for n, g in right.items()))
    return worst
