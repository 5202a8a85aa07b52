"""The canary: after each weight sync, the sampler must give fixed tokens the probabilities that the trainer gives them.

A sampler with old weights, a wrong precision or a wrong template still writes fluent text, and training on it goes
wrong in silence. Here the two are compared on tokens that never change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stages.rollout.engine import Engine

MATTERS = 1e-6
"""Mean change of log-probability below which an update cannot be told from rounding."""


class SamplerMismatch(RuntimeError):
    """The sampler and the trainer give the same tokens different probabilities."""


class Canary:
    """Compares an engine with the trainer's model on fixed sequences of token ids."""

    def __init__(self, sequences: Sequence[Sequence[int]], tolerance: float = 0.05) -> None:
        """`tolerance`: the largest allowed mean absolute gap of log-probability a token (two precisions of one model
        differ by 0.01 to 0.02). Raises ValueError without a sequence of at least two tokens.
        """
        self.sequences = [list(sequence) for sequence in sequences if len(sequence) > 1]
        if not self.sequences:
            raise ValueError("a canary needs at least one sequence of two tokens or more")
        self.tolerance = tolerance
        self._before: list[float] | None = None

    def check(self, engine: Engine, model: Any, when: str) -> float:
        """Call after `engine.sync(model)`; returns the mean gap of the replica that is furthest off. `when` names the
        moment ("step 12").

        Raises SamplerMismatch if a gap exceeds the tolerance, or if the engine is much closer to what the trainer
        said at the last check than to what it says now: then it holds the old weights, however small the update.
        """
        ours = _trainer_scores(model, self.sequences)
        before, self._before = self._before, ours
        return max(self._compare(sampler, model, ours, before, when) for sampler in engine.replicas())

    def _compare(self, engine: Engine, model: Any, ours: list[float], before: list[float] | None, when: str) -> float:
        theirs = [score for scores in engine.score(self.sequences) for score in scores]
        gap, trainer = _gap(ours, theirs), type(model).__name__
        name = getattr(engine, "name", type(engine).__name__)
        if before is not None and _gap(ours, before) > MATTERS and _gap(theirs, before) < 0.5 * gap:
            raise SamplerMismatch(
                f"{when}: the sampler ({name}) still holds the weights of the last check: its "
                f"log-probabilities are {_gap(theirs, before):.2g} away from what the trainer ({trainer}) said "
                f"then, and {gap:.2g} from what it says now; the weight sync did not arrive"
            )
        if gap > self.tolerance:
            at = max(range(len(ours)), key=lambda i: abs(ours[i] - theirs[i]))
            raise SamplerMismatch(
                f"{when}: the sampler ({name}) and the trainer ({trainer}) part by {gap:.3g} a token on "
                f"the canary's {len(ours)} tokens, {self.tolerance:g} is allowed; worst: sampler {theirs[at]:.4g}, "
                f"trainer {ours[at]:.4g}; look at weight sync, precision and chat template"
            )
        return gap


def _gap(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return sum(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / len(ours)


def _trainer_scores(model: Any, sequences: Sequence[Sequence[int]]) -> list[float]:
    import torch

    from stages.rollout.transformers_engine import evaluating, token_logprobs

    with evaluating(model), torch.inference_mode():
        return [score for sequence in sequences for score in token_logprobs(model, sequence)]
