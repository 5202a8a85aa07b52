"""A trainer's weights under the names of a transformers checkpoint, whole and with adapters merged, for an engine."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Weights = list[tuple[str, Any]]
"""Names and tensors. A tied matrix comes under each of its names: an engine that keeps two copies needs both."""


@contextmanager
def checkpoint_weights(model: Any) -> Iterator[Weights]:
    """The weights of a transformers or PEFT model, valid inside the context; sharded parameters must be gathered.

    Adapters are merged for the time, and taken out again by putting the old tensors back: subtracting what was added
    would leave rounding errors in weights that are frozen. Raises ValueError for adapters that cannot be merged.
    """
    if not hasattr(model, "peft_config"):
        from stages.rollout.bottleneck import has_adapters

        if has_adapters(model):
            raise ValueError("bottleneck adapters cannot be merged into the weights that a second engine samples with")
        yield list(model.state_dict().items())
        return
    if not hasattr(model.base_model, "merge_adapter"):
        kind = next(iter(model.peft_config.values())).peft_type.value
        raise ValueError(f"{kind} cannot be merged into the weights that a second engine samples with")
    before = [(parameter, parameter.data) for parameter in model.parameters()]
    model.merge_adapter(safe_merge=True)  # safe: into new tensors
    try:
        yield [(_plain(name), tensor) for name, tensor in model.state_dict().items() if not _adapter_s(name, model)]
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that dividing by what was multiplied is inexact: no result of it is kept
            model.unmerge_adapter()
        for parameter, data in before:
            parameter.data = data


def gathered_weights(model: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """The whole `state` of a transformers or PEFT model that is shared out, under the names of a checkpoint.

    Adapters are merged in the state, since the model itself has no whole weights to merge them into. A tied matrix
    comes once. Raises ValueError for adapters that cannot be merged.
    """
    merged = dict(state)
    tied = set(getattr(model, "all_tied_weights_keys", ()))
    if not hasattr(model, "peft_config"):
        return {name: tensor for name, tensor in merged.items() if name not in tied}
    if any(kind.peft_type.value != "LORA" or kind.use_dora for kind in model.peft_config.values()):
        raise ValueError("of adapters, plain LoRA alone is saved from a model that is shared out")
    for name, module in model.named_modules():
        for adapter in getattr(module, "active_adapters", ()) if hasattr(module, "lora_A") else ():
            key = f"{name}.base_layer.weight"
            weight = merged[key]
            merged[key] = (weight.float() + _lora_delta(module, name, adapter, state)).to(weight.dtype)
    tied = set(model.get_base_model().all_tied_weights_keys)
    plain = {_plain(name): tensor for name, tensor in merged.items() if not _adapter_s(name, model)}
    return {name: tensor for name, tensor in plain.items() if name not in tied}


def _lora_delta(module: Any, name: str, adapter: str, state: Mapping[str, Any]) -> Any:
    """What a LoRA layer adds to its weight."""
    if adapter in module.lora_A:
        down, up = (state[f"{name}.lora_{part}.{adapter}.weight"].float() for part in "AB")
        turned = module.fan_in_fan_out
    else:
        down, up = (state[f"{name}.lora_embedding_{part}.{adapter}"].float() for part in "AB")
        turned = True
    delta = module.scaling[adapter] * (up @ down)
    return delta.T if turned else delta


def _plain(name: str) -> str:
    name = name.removeprefix("base_model.model.").replace(".base_layer", "")
    return name.replace(".modules_to_save.default", "")


def _adapter_s(name: str, model: Any) -> bool:
    return model.prefix in name or "original_module" in name
