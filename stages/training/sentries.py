"""Sentries: what is watched in a reinforcement run, within which bounds, and what to tell when it leaves them.

The bounds are the healthy ranges that axolotl publishes for GRPO (docs/training_stability.qmd) where it has one;
docs/sentries.md gives the source of each.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator

from stages.scoring import VERIFIERS
from stages.stage import StageConfig
from stages.training.sentry_rules import Band, Bounds, Drift, Hacking, Line, Rule

ALL = "all"
"""Key of `sentries` for every sentry that is not named itself."""


class SentryConfig(StageConfig):
    """One entry of `sentries`; None takes the sentry's own value."""

    action: Literal["warn", "stop", "off"] = "warn"
    window: int | None = Field(None, ge=1)
    low: float | None = None
    high: float | None = None

    @field_validator("action", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads the word off as false


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentry:
    """One thing that is watched."""

    bounds: Bounds
    rule: Callable[[Bounds], Rule]
    means: str
    """What the finding usually means."""
    remedy: str


Settings = Mapping[str, SentryConfig]


def figure(*names: str) -> Callable[[Line], float | None]:
    """The first of these figures that a line has."""
    return lambda line: next((line[name] for name in names if name in line), None)


def largest(family: str, statuses: tuple[str, ...] = ()) -> Callable[[Line], float | None]:
    """The largest share over the rewards of `family/NAME`, or of the sum of `family/NAME/STATUS` over `statuses`.

    Only what happened is logged: 0 where nothing of the kind stands in the line of a step that sampled.
    """

    def read(line: Line) -> float | None:
        if "completions/mean_length" not in line:
            return None
        shares: dict[str, float] = {}
        for key, share in line.items():
            head, _, name = key.partition("/")
            if statuses:
                name, _, status = name.rpartition("/")
            if head == family and (not statuses or status in statuses):
                shares[name] = shares.get(name, 0.0) + share
        return max(shares.values(), default=0.0)

    return read


def verified(line: Line) -> float | None:
    """The largest mean of a verifier."""
    return max((line[f"score/{name}"] for name in VERIFIERS if f"score/{name}" in line), default=None)


def _band(what: str, read: Callable[[Line], float | None]) -> Callable[[Bounds], Rule]:
    return lambda bounds: Band(read, what, bounds)


SENTRIES: Mapping[str, Sentry] = {
    "verifier_errors": Sentry(
        bounds=Bounds(window=5, high=0.01),
        rule=_band("share of completions that a reward could not judge", largest("unjudged")),
        means="a gold cannot be read, or a reward gives NaN or loses its sandbox or endpoint: these train nothing",
        remedy="look at status/NAME/STATUS in history.jsonl and try the reward with r1 score",
    ),
    "verifier_timeouts": Sentry(
        bounds=Bounds(window=5, high=0.1),
        rule=_band(
            "share of completions whose check was cut off", largest("status", ("timeout", "out_of_memory", "killed"))
        ),
        means="programs run for ever, or the limits of the sandbox are too tight for honest ones",
        remedy="compare with the timeouts of the gold programs; raise timeout or memory_mb of the reward",
    ),
    "zero_variance": Sentry(
        bounds=Bounds(window=10, high=0.8),
        rule=_band("share of groups with equal rewards", figure("frac_reward_zero_std")),
        means="most prompts are too easy or too hard, or the reward cannot tell completions apart: no gradient",
        remedy="use a curriculum or other prompts, more num_generations, or a finer reward",
    ),
    "no_success": Sentry(
        bounds=Bounds(window=20, low=0.001),
        rule=_band("share of right answers in training", verified),
        means="the verifier never fires: the tags or the answer do not reach it, or the task is out of reach",
        remedy="score a completion that you know to be right with r1 score; start from a cold start",
    ),
    "truncation": Sentry(
        bounds=Bounds(window=10, high=0.3),
        rule=_band("share of completions at the token limit", figure("completions/clipped_ratio")),
        means="the limit is too low, the policy does not write its EOS, or length is being rewarded",
        remedy="raise max_completion_tokens, or add the reward overlong",
    ),
    "entropy": Sentry(
        bounds=Bounds(window=10, low=0.01, high=1.0),
        rule=_band("entropy in nats a token", figure("entropy")),
        means="low: the policy has collapsed onto few completions; high: it is falling apart or has not converged",
        remedy="lower learning_rate; against a collapse raise beta or epsilon_high",
    ),
    "kl": Sentry(
        bounds=Bounds(window=10, high=0.5),
        rule=_band("KL to the reference in nats a token", figure("kl")),
        means="the policy has left the reference far behind",
        remedy="lower learning_rate, raise beta, or set reference_reset_steps",
    ),
    "sampler_gap": Sentry(
        bounds=Bounds(window=5, high=0.1),
        rule=_band(
            "mean difference of log-probability between sampler and trainer",
            figure("sampler_gap", "sampling/sampling_logp_difference/mean"),
        ),
        means="the sampler has stale weights or other numerics, so that training is off-policy without knowing",
        remedy="check the weight sync and the precision of the engine",
    ),
    "length_drift": Sentry(
        bounds=Bounds(window=10, low=0.5, high=2.0),
        rule=lambda bounds: Drift(figure("completions/mean_length"), "tokens of a completion", bounds),
        means="the reward pays for length or for its absence, unless held-out accuracy rises with it",
        remedy="look at the probe and at some completions; add the reward length, overlong or repetition",
    ),
    "reward_hacking": Sentry(
        bounds=Bounds(window=2, high=3.0),
        rule=Hacking,
        means="the policy has found what pays without being right",
        remedy="gate the other rewards on the verifier, and go back to a checkpoint before the fall",
    ),
}
"""Name to sentry, in the order in which they are told."""


def check_sentries(settings: Settings) -> None:
    """Raise ValueError, one line, for a name or a bound that no sentry has, or an empty range."""
    for name, setting in settings.items():
        if name == ALL:
            if setting.window is not None or setting.low is not None or setting.high is not None:
                raise ValueError(f"{ALL}: sets the action only; a window or a bound belongs to one sentry")
            continue
        if name not in SENTRIES:
            near = difflib.get_close_matches(name, [*SENTRIES, ALL], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join([*SENTRIES, ALL])}"
            raise ValueError(f"unknown sentry {name!r}{hint}")
        own = SENTRIES[name].bounds
        for side in ("low", "high"):
            if getattr(setting, side) is not None and getattr(own, side) is None:
                raise ValueError(f"{name}: has no bound {side!r}")
        bounds = bounds_of(name, setting)
        if bounds.low is not None and bounds.high is not None and bounds.low > bounds.high:
            raise ValueError(f"{name}: low = {bounds.low:g} is above high = {bounds.high:g}")


def bounds_of(name: str, setting: SentryConfig) -> Bounds:
    """The sentry's own bounds, with those of the configuration over them."""
    own = SENTRIES[name].bounds
    return Bounds(
        window=own.window if setting.window is None else setting.window,
        low=own.low if setting.low is None else setting.low,
        high=own.high if setting.high is None else setting.high,
    )


def setting_of(name: str, settings: Settings) -> SentryConfig:
    """What the configuration says of a sentry."""
    return settings.get(name) or settings.get(ALL) or SentryConfig()
