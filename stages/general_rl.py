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
from stages.inputs import rows_of, wired
from stages.scoring import complete
from stages.stage import Context, Input, Inputs, Outcome, Stage
from stages.training.arguments import reinforcement_preflight
from stages.training.options import ReinforcementConfig, RewardSpec, check_reinforcement

CHECKED_DOMAINS = ("math", "code", "science", "logic")
"""Domains whose rows rules score in the default mix."""


class GeneralRLConfig(ReinforcementConfig):
    """`general_rl` in a configuration. Without `rewards`: the recipe's rules on reasoning domains, the preference
    model (and refusal where it is due) on the others.
    """


def default_rewards() -> list[dict[str, Any]]:
    """The seed's routing: its rule mix where rules apply, preference elsewhere."""
    import rewards

    rules = [{**spec, "domains": list(CHECKED_DOMAINS)} for spec in rewards.DEFAULT]
    return [*rules, {"name": "preference", "weight": 1.0, "domains": ["general"]}, {"name": "safety", "weight": 1.0}]


def mix(config: GeneralRLConfig, wired: Collection[str]) -> Sequence[RewardSpec]:
    """Stage.mix: the seed's routing unless the configuration has its own."""
    return config.rewards or default_rewards()


def run(config: GeneralRLConfig, inputs: Inputs, out: Path, context: Context) -> Outcome:
    """Train `init` by GRPO on the prompts of `data`, with the preference model of `preference`.

    Raises ValueError where a reward needs a preference model and none is wired.
    """
    import rewards
    from stages.training.grpo import train_grpo

    model = next((str(artifact.path) for artifact in inputs.get("preference", ())), None)
    specs = complete(mix(config, wired(inputs)), model, context, "general_rl")
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
    },
    makes=Kind.MODEL,
    run=run,
    mix=mix,
    check=check_reinforcement,
    preflight=reinforcement_preflight,
)
