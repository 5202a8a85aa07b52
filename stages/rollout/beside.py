"""What lies beside the weights of a checkpoint and belongs to the model: a prefix, or bottleneck adapters.

Each lies in a folder with a name of its own: transformers looks for adapters beside the weights by itself. What cannot
put it on must refuse it: without it the model is another one, and works.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.rollout.prefix import has_prefix, is_prefixed, save_prefix, with_prefix

BOTTLENECK = "bottleneck"
"""Folder of a checkpoint with bottleneck adapters (stages/rollout/bottleneck.py)."""

BESIDE: Mapping[str, str] = {"prefix_tuning": "a prefix (prefix_tuning)", "bottleneck": "bottleneck adapters"}
"""Keys of a training step to what a checkpoint of it has beside its weights, in words."""


def beside(checkpoint: Path) -> str | None:
    """The key of `BESIDE` by which a checkpoint is more than its weights, if it is."""
    if has_prefix(checkpoint):
        return "prefix_tuning"
    return "bottleneck" if (checkpoint / BOTTLENECK / "config.json").is_file() else None


def refuse_beside(checkpoint: Path, what: str) -> None:
    """Raise ValueError where the weights of a checkpoint are not the whole model; `what` says in a participle what
    cannot be done with it."""
    if (kind := beside(checkpoint)) is not None:
        raise ValueError(f"{checkpoint}: a model with {BESIDE[kind]} cannot be {what}")


def with_beside(model: Any, checkpoint: Path) -> Any:
    """`model`, loaded from the weights of `checkpoint`, with what lies beside them, if something does.

    Raises ValueError for adapters that are not those of the model.
    """
    if beside(checkpoint) == "bottleneck":
        from stages.rollout.bottleneck import load_bottleneck

        load_bottleneck(model, checkpoint)
    return with_prefix(model, checkpoint)


def without_beside(model: Any, checkpoint: Path) -> Any:
    """The plain model, of whose extras those that are no part of the weights have been written into `checkpoint`."""
    from stages.rollout.bottleneck import has_adapters, save_bottleneck, take_off

    if is_prefixed(model):
        save_prefix(model, checkpoint)
        return model.get_base_model()
    if has_adapters(model):
        save_bottleneck(model, checkpoint)
        take_off(model)
    return model
