"""Reasoning RL: GRPO on problems whose answers rules can check.

The seed recipe: five candidates a question, 70 % rules (correctness 40, completeness 30, format 30) and 30 % language
consistency; a wrong answer earns nothing for its format or its derivation.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from data.artifact import Kind
from stages.checkable import checkable
from stages.inputs import rows_of, wired
from stages.scoring import complete
from stages.stage import Context, Input, Inputs, Outcome, Stage
from stages.training.arguments import reinforcement_preflight
from stages.training.options import ReinforcementConfig, RewardSpec, check_reinforcement


class ReasoningRLConfig(ReinforcementConfig):
    """`reasoning_rl` in a configuration."""


def mix(config: ReasoningRLConfig, wired: Collection[str]) -> Sequence[RewardSpec]:
    """Stage.mix: the recipe's rules unless the configuration has its own."""
    import rewards

    return config.rewards or rewards.DEFAULT


def run(config: ReasoningRLConfig, inputs: Inputs, out: Path, context: Context) -> Outcome:
    """Train `init` by GRPO on the prompts of `data`."""
    import rewards
    from stages.training.grpo import train_grpo

    counts: dict[str, int] = {}
    specs = complete(mix(config, wired(inputs)), None, context, "reasoning_rl")
    rows = checkable(list(rows_of(inputs["data"])), specs, counts, verified=True)
    counts["rows_used"] = len(rows)
    return train_grpo(config, rows, rewards.build(specs), inputs["init"][0].path, out, context, counts)


REASONING_RL = Stage(
    name="reasoning_rl",
    version=1,
    summary="GRPO with rule-based rewards",
    config=ReasoningRLConfig,
    needs={"init": Input(kind=Kind.MODEL), "data": Input(kind=Kind.DATASET, many=True)},
    makes=Kind.MODEL,
    run=run,
    mix=mix,
    check=check_reinforcement,
    preflight=reinforcement_preflight,
)
