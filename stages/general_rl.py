"""General RL: rules for the rows that rules can check, a preference model for the rest, routed per row.

In DeepSeek-R1 the preference reward joins only for the last 400 of 1,700 steps, since longer training against it
brought reward hacking; `schedule` on a reward says when it pays (rewards.build).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from data.artifact import Kind
from stages.checkable import checkable
from stages.inputs import path_of, rows_of, wired
from stages.scoring import complete
from stages.stage import Context, Input, Inputs, Outcome, Placement, Stage
from stages.training.arguments import reinforcement_preflight
from stages.training.options import ReinforcementConfig, RewardSpec, check_reinforcement

CHECKED_DOMAINS = ("math", "code", "science", "logic")
"""Domains whose rows rules score in the default mix."""


class GeneralRLConfig(ReinforcementConfig):
    """`general_rl` in a configuration. Without `rewards`: the recipe's rules on reasoning domains, the preference
    model (and refusal where it is due) on the others, and on all of them the safety model where one is wired.
    """


def default_rewards() -> list[dict[str, Any]]:
    """The seed's routing: its rule mix where rules apply, preference elsewhere."""
    import rewards

    rules = [{**spec, "domains": list(CHECKED_DOMAINS)} for spec in rewards.DEFAULT]
    return [*rules, {"name": "preference", "weight": 1.0, "domains": ["general"]}, {"name": "safety", "weight": 1.0}]


def mix(config: GeneralRLConfig, wired: Collection[str]) -> Sequence[RewardSpec]:
    """Stage.mix: the seed's routing, and the safety model where one is wired, unless the configuration has its own."""
    safety = [{"name": "safety_model", "weight": 1.0}] if "safety" in wired else []
    return config.rewards or [*default_rewards(), *safety]


def check(config: GeneralRLConfig, wired: Collection[str], placement: Placement) -> None:
    """Stage.check: batches are shared evenly, and a safety model that is wired has a reward that asks it."""
    check_reinforcement(config, wired, placement)
    if "safety" in wired and not any(spec.get("name") == "safety_model" for spec in mix(config, wired)):
        raise ValueError("rewards: safety_from is wired, and no reward asks it; add {name: safety_model}")


def run(config: GeneralRLConfig, inputs: Inputs, out: Path, context: Context) -> Outcome:
    """Train `init` by GRPO on the prompts of `data`, with the preference model of `preference` and the safety
    model of `safety`.

    Raises ValueError where a reward needs such a model and none is wired.
    """
    import rewards
    from stages.training.grpo import train_grpo

    models = path_of(inputs, "preference"), path_of(inputs, "safety")
    specs = complete(mix(config, wired(inputs)), models[0], context, "general_rl", models[1])
    counts: dict[str, int] = {}
    rows = checkable(list(rows_of(inputs["data"])), specs, counts, verified=False)
    counts["rows_used"] = len(rows)
    return train_grpo(config, rows, rewards.build(specs), inputs["init"][0].path, out, context, counts)


GENERAL_RL = Stage(
    name="general_rl",
    version=2,
    summary="GRPO with rules and a preference model, routed per row",
    config=GeneralRLConfig,
    needs={
        "init": Input(kind=Kind.MODEL),
        "data": Input(kind=Kind.DATASET, many=True),
        "preference": Input(kind=Kind.MODEL, optional=True, scorer=True),
        "safety": Input(kind=Kind.MODEL, optional=True, scorer=True, judges="safety"),
    },
    makes=Kind.MODEL,
    run=run,
    mix=mix,
    check=check,
    preflight=reinforcement_preflight,
)
