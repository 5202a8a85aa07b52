"""Which parameters learn and how fast: partial freezing, layer-wise learning rates, weight decay."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stages.training.options import Freeze, TrainingConfig

if TYPE_CHECKING:
    from torch import nn

IA3_VECTOR = ".ia3_l."
"""In the names of vectors that peft stores as matrices; they start at 1, and decay would pull them to 0."""

_LAYER = re.compile(r"\.(?:layers|h|block|layer)\.(\d+)\.")
_EMBEDDING = re.compile(r"embed|wte|wpe|\.shared\.")
"""The last is how T5 and BART name what encoder, decoder and head share."""


def layer_of(name: str) -> int | None:
    """Index of the layer that a parameter belongs to; None for embeddings, final norm and head.

    Encoder and decoder each count from 0.
    """
    found = _LAYER.search(f".{name}")
    return int(found.group(1)) if found else None


def _stack_of(name: str) -> str:
    """What stands in front of the layer's number: layers of one model that share it lie on top of each other."""
    found = _LAYER.search(f".{name}")
    return f".{name}"[: found.start(1)] if found else ""


def _is_embedding(name: str) -> bool:
    return _EMBEDDING.search(f".{name}") is not None


def whole_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Shape of a parameter, also where ZeRO-3 has shared it out and left an empty one behind."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def count_parameters(model: nn.Module) -> dict[str, int]:
    """How many numbers learn and how many keep their value, adapters included; a tied matrix counts once."""
    sizes = [(p.requires_grad, math.prod(whole_shape(p))) for p in model.parameters()]
    return {
        "parameters_trained": sum(size for learns, size in sizes if learns),
        "parameters_frozen": sum(size for learns, size in sizes if not learns),
    }


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
        if hits or (config.embeddings and _is_embedding(name)) or (layer is not None and layer < config.layers):
            parameter.requires_grad_(False)
    if unmatched:
        raise ValueError(f"freeze.names: no parameter matches {sorted(unmatched)[0]!r}")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("freeze: every parameter of the model is frozen, nothing is left to learn")
    return sum(math.prod(whole_shape(p)) for p in model.parameters() if not p.requires_grad)


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Groups for AdamW: one per learning rate and decay setting.

    Layer-wise decay follows ULMFiT (Howard & Ruder 2018, section 3.2): the top layer and the head learn at the full
    rate, each layer below at `decay` times the one above it, the embeddings lowest of all. Encoder and decoder have a
    top layer each, for the decoder reads both: its own layers below, and the encoder's last. Raises ValueError for a
    pattern of `layer_rates.groups` that matches nothing that learns.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    rates = _explicit_rates([n for n, _ in named], config) or _falling_rates(model, config)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in named:
        rate = rates.get(name, config.learning_rate)
        vector = len(whole_shape(parameter)) == 1 or IA3_VECTOR in name
        regularised = 0.0 if vector else config.weight_decay
        group = groups.setdefault((rate, regularised), {"params": [], "lr": rate, "weight_decay": regularised})
        group["params"].append(parameter)
    return list(groups.values())


def _falling_rates(model: nn.Module, config: TrainingConfig) -> dict[str, float]:
    """Parameter name to its rate by layer-wise decay; nothing without one."""
    decay = config.layer_rates.decay if config.layer_rates else None
    if decay is None:
        return {}
    names = [n for n, _ in model.named_parameters()]
    depth: dict[str, int] = {}
    for name in names:
        depth[_stack_of(name)] = max(depth.get(_stack_of(name), 0), 1 + (layer_of(name) or 0))

    def below(name: str) -> int:
        layer = layer_of(name)
        if layer is None:
            return max(depth.values()) if _is_embedding(name) else 0
        return depth[_stack_of(name)] - 1 - layer

    return {name: config.learning_rate * decay ** below(name) for name in names}


def _explicit_rates(names: Sequence[str], config: TrainingConfig) -> dict[str, float]:
    """Parameter name to the rate of the first group that it belongs to."""
    groups = config.layer_rates.groups if config.layer_rates else ()
    rates: dict[str, float] = {}
    for group in groups:
        hits = [name for name in names if re.search(group.names, name)]
        if not hits:
            raise ValueError(f"layer_rates.groups: no parameter that learns matches {group.names!r}")
        for name in hits:
            rates.setdefault(name, group.rate)
    return rates
