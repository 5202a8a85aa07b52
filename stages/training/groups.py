"""Which parameters learn and how fast: partial freezing, layer-wise learning rates, weight decay."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from stages.training.options import Freeze, TrainingConfig

if TYPE_CHECKING:
    from torch import nn

_LAYER = re.compile(r"\.(?:layers|h|block|layer)\.(\d+)\.")


def layer_of(name: str) -> int | None:
    """Index of the decoder layer that a parameter belongs to; None for embeddings, final norm and head."""
    found = _LAYER.search(f".{name}")
    return int(found.group(1)) if found else None


def whole_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Shape of a parameter, also where ZeRO-3 has shared it out and left an empty one behind."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def freeze(model: nn.Module, config: Freeze) -> int:
    """Stop the named parameters from learning; returns how many numbers are frozen.

    Raises ValueError if a pattern matches nothing or nothing would be left to learn.
    """
    patterns = {pattern: re.compile(pattern) for pattern in config.names}
    unmatched = set(patterns)
    for name, parameter in model.named_parameters():
        layer = layer_of(name)
        hits = {pattern for pattern, regex in patterns.items() if regex.search(name)}
        unmatched -= hits
        embedding = config.embeddings and ("embed" in name or "wte" in name or "wpe" in name)
        if hits or embedding or (layer is not None and layer < config.layers):
            parameter.requires_grad_(False)
    if unmatched:
        raise ValueError(f"freeze.names: no parameter matches {sorted(unmatched)[0]!r}")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("freeze: every parameter of the model is frozen, nothing is left to learn")
    return sum(math.prod(whole_shape(p)) for p in model.parameters() if not p.requires_grad)


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Groups for AdamW: one per layer and decay setting.

    Layer-wise decay follows ULMFiT (Howard & Ruder 2018, section 3.2): the top layer and the head learn at the full
    rate, each layer below at `decay` times the one above it, the embeddings lowest of all.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    depth = 1 + max((layer_of(n) or 0 for n, _ in model.named_parameters()), default=0)
    decay = config.layer_rates.decay if config.layer_rates else 1.0
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in named:
        layer = layer_of(name)
        if layer is None:
            below = depth if ("embed" in name or "wte" in name or "wpe" in name) else 0
        else:
            below = depth - 1 - layer
        rate = config.learning_rate * decay**below
        regularised = config.weight_decay if len(whole_shape(parameter)) > 1 else 0.0
        group = groups.setdefault((rate, regularised), {"params": [], "lr": rate, "weight_decay": regularised})
        group["params"].append(parameter)
    return list(groups.values())
