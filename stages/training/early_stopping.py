"""Early stopping: sequences that are held out of supervised training, and when their loss has said enough.

Prechelt 1998, "Early stopping - but when?", section 2.1: stop after so many measurements without a new lowest loss,
and keep the weights that had the lowest.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from data.records import Row, prompt_origin
from stages.stage import StageConfig

if TYPE_CHECKING:
    from stages.training.encode import Encoded

LOSS = "eval_loss"
"""The name that transformers gives to the loss of what is held out."""


class EarlyStopping(StageConfig):
    """`early_stopping` of a step that learns completions."""

    every: int = Field(25, ge=1)
    """Optimiser steps between measurements, each of which leaves a checkpoint; the last step is measured too."""
    patience: int = Field(3, ge=1)
    """Measurements in a row without a new lowest loss after which the step ends."""
    rows: int = Field(256, ge=1)
    """The most sequences that are held out."""
    share: float = Field(0.05, gt=0, le=0.5)
    """The most of the step's sequences that may be held out; one prompt's are held out together."""


def hold_out(
    pairs: Sequence[tuple[Row, Encoded]], config: EarlyStopping | None, seed: int
) -> tuple[list[tuple[Row, Encoded]], list[Encoded]]:
    """(what is trained on, what is held out): disjoint in their prompts, a function of the rows and the seed.

    Where every prompt has more sequences than may be held out, the one with the fewest is. Raises ValueError where
    there are fewer than two prompts.
    """
    if config is None:
        return list(pairs), []
    prompts = [prompt_origin(row) for row, _ in pairs]
    sizes = Counter(prompts)
    if len(sizes) < 2:
        raise ValueError(f"early_stopping: {len(sizes)} usable prompts are too few to train and to hold some out")
    order = list(sizes)
    random.Random(f"{seed}/early_stopping").shuffle(order)
    wanted = min(config.rows, int(config.share * len(pairs)))
    held: set[str] = set()
    count = 0
    for prompt in order:
        if count + sizes[prompt] <= wanted:
            held.add(prompt)
            count += sizes[prompt]
    held = held or {min(order, key=sizes.__getitem__)}
    trained = [pair for pair, prompt in zip(pairs, prompts, strict=True) if prompt not in held]
    return trained, [pair[1] for pair, prompt in zip(pairs, prompts, strict=True) if prompt in held]


def exhausted(log: Sequence[dict[str, Any]], patience: int) -> bool:
    """Whether the newest `patience` measurements of a trainer's log are all no better than the best before them.

    What is not a number is no better than anything.
    """
    losses = [line[LOSS] if math.isfinite(line[LOSS]) else math.inf for line in log if LOSS in line]
    return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= patience


def evaluation_arguments(config: EarlyStopping, steps: int) -> dict[str, Any]:
    """TRL's arguments that measure what is held out and keep the best checkpoint.

    The loss is a mean over sequences, each by itself: batches would make it depend on their make-up, and so on the
    number of processes.
    """
    every = min(config.every, steps)
    return {
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_steps": every,  # transformers loads the best of those that were saved
        "per_device_eval_batch_size": 1,
        "prediction_loss_only": True,
        "load_best_model_at_end": True,
        "metric_for_best_model": LOSS,
        "greater_is_better": False,
    }


CONTRARY = frozenset(evaluation_arguments(EarlyStopping(), 1)) | {
    "eval_on_start",
    "eval_delay",
    "max_steps",
    "num_train_epochs",
}
"""Arguments of TRL's under which early stopping would measure or keep something else."""
