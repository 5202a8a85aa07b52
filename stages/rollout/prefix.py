"""A checkpoint with a prefix: learned keys and values before every sequence (Li and Liang 2021, arXiv 2101.00190).

The folder PREFIX of a checkpoint holds it as peft saves it, and the weights beside it are those of the model below.
What loads a checkpoint goes by stages/rollout/beside.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

PREFIX = "prefix"
"""Folder of a checkpoint. Of a name of its own: transformers looks for adapters beside the weights by itself."""


def has_prefix(checkpoint: Path) -> bool:
    """Whether the weights of a checkpoint are not the whole model."""
    return (checkpoint / PREFIX / "adapter_config.json").is_file()


def refuse_windows(settings: Any) -> None:
    """Raise ValueError for the configuration of a model that would forget a prefix."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=settings).layers):
        raise ValueError(f"prefix_tuning: {settings.model_type} has layers that forget (a sliding window); take lora")


def with_prefix(model: Any, checkpoint: Path) -> Any:
    """`model`, loaded from the weights of `checkpoint`, under the prefix that lies beside them, if one does."""
    if not has_prefix(checkpoint):
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(checkpoint / PREFIX))


def is_prefixed(model: Any) -> bool:
    """Whether a model is one of transformers under a prefix."""
    return getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False) is True


def save_prefix(model: Any, checkpoint: Path) -> None:
    """Write the prefix of `model` into its folder of `checkpoint`; the weights below are somebody else's business."""
    settings = model.active_peft_config
    settings.base_model_name_or_path = ""  # it lies beside its base, wherever that is moved
    # Of the prefixes that a trainer holds, a reference is none of the checkpoint's.
    model.save_pretrained(str(checkpoint / PREFIX), selected_adapters=[model.active_adapter])
    (checkpoint / PREFIX / "README.md").unlink(missing_ok=True)


def prefix_length(model: Any) -> int:
    """Positions before the first token; 0 for a model without a prefix."""
    return int(model.active_peft_config.num_virtual_tokens) if is_prefixed(model) else 0


def put_prefix(model: Any, cache: Any, rows: int) -> None:
    """Fill an empty key-value `cache` with the prefix, if `model` has one, for so many sequences."""
    if is_prefixed(model):
        for at, layer in enumerate(model.get_prompt(rows).layers):
            cache.update(layer.keys, layer.values, at)
