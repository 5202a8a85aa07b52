"""A trainer's weights under the names of a transformers checkpoint, whole and with adapters merged, for an engine."""

from __future__ import annotations

from collections.abc import Iterator
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
        model.unmerge_adapter()
        for parameter, data in before:
            parameter.data = data


def _plain(name: str) -> str:
    name = name.removeprefix("base_model.model.").replace(".base_layer", "")
    return name.replace(".modules_to_save.default", "")


def _adapter_s(name: str, model: Any) -> bool:
    return model.prefix in name or "original_module" in name
