"""Putting on what learns beside a model: peft's configuration of it, or our own modules. Imports peft when called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.adapters import nearest
from stages.training.adapter_options import IA3, AnyAdapters, Bottleneck, LoRA, PrefixTuning

if TYPE_CHECKING:
    from torch import nn


def adapter(kind: AnyAdapters | None, model: nn.Module, task: str = "CAUSAL_LM") -> Any:
    """peft's configuration of `kind` for `model`, or None for full fine-tuning and for what peft does not know.

    Raises ValueError for a target module that the model does not have: peft leaves out one that stands beside others.
    """
    from peft import IA3Config, LoraConfig, PrefixTuningConfig

    match kind:
        case LoRA(target_modules=targets):
            if not isinstance(targets, str):
                _refuse_unknown(model, "lora.target_modules", targets)
            return LoraConfig(
                r=kind.rank,
                lora_alpha=kind.alpha,
                lora_dropout=kind.dropout,
                target_modules=targets if isinstance(targets, str) else list(targets),
                use_dora=kind.dora,
                use_rslora=kind.rslora,
                task_type=task,
            )
        case IA3():
            _refuse_unknown(model, "ia3.target_modules", kind.target_modules)
            places, inputs = list(kind.target_modules), list(kind.feedforward_modules)
            return IA3Config(target_modules=places, feedforward_modules=inputs, task_type=task)
        case PrefixTuning():
            return PrefixTuningConfig(num_virtual_tokens=kind.tokens, init_weights="zero", task_type=task)
    return None


def grow(kind: AnyAdapters | None, model: Any, seed: int) -> None:
    """Put what peft does not know on `model`, drawn from `seed`, and let nothing else of it learn; of other kinds
    nothing is done.

    Raises ValueError for an architecture that cannot have it.
    """
    if isinstance(kind, Bottleneck):
        from stages.rollout.bottleneck import put_on

        model.requires_grad_(False)
        put_on(model, kind.size, kind.placement, seed)


def _refuse_unknown(model: nn.Module, key: str, targets: tuple[str, ...]) -> None:
    """A target is a module's whole name or its end behind a dot, as peft matches a list."""
    names = [name for name, _ in model.named_modules() if name]
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in names):
            # What carries weights of its own, by the last part of its name: that is what one may have meant.
            last = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if _is_layer(module)}
            raise ValueError(f"{key}: the model has no module {target!r}{nearest(target, last)}")


def _is_layer(module: nn.Module) -> bool:
    return type(module).__name__ in ("Linear", "Conv1D", "Embedding")  # Conv1D: how GPT-2 calls its linear layers
