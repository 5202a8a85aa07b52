"""A warning where the sampler cuts the policy's distribution and the trainer does not."""

from __future__ import annotations

from stages.training.options import ReinforcementConfig

OFF: dict[str, tuple[float | None, ...]] = {"top_p": (1, None), "top_k": (0, -1, None)}
"""Sampling option to the values that cut nothing."""


def truncation_warning(config: ReinforcementConfig) -> str | None:
    """One line where completions are drawn from a truncated distribution, or None.

    The trainer's log-probabilities are those of the whole distribution: ratios and KL are then not those of the
    distribution that was sampled.
    """
    set_ = {"top_p": config.top_p, **{name: config.trl[name] for name in OFF if name in config.trl}}
    cutting = [f"{name} = {value}" for name, value in set_.items() if value not in OFF[name]]
    if not cutting:
        return None
    return (
        f"{', '.join(cutting)} truncates what is sampled, while the trainer's log-probabilities are of the "
        "whole distribution; reinforcement learning wants top_p: 1 and no top_k"
    )
