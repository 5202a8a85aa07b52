"""What adapters mean for a plan and for a launch: how many numbers they are, and what they do not go with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.architecture import Architecture
from pipeline.sharding import of_launch
from pipeline.step import Node
from stages.training.adapter_options import IA3, AnyAdapters, LoRA
from stages.training.options import TrainingConfig


def adapter_numbers(sizes: Architecture, kind: AnyAdapters | None) -> int:
    """Numbers that `kind` adds to a model, at its default places."""
    match kind:
        case LoRA():
            return sizes.adapted * kind.rank + (sizes.outputs if kind.dora else 0)
        case IA3():
            return sizes.layers * (2 * sizes.keys + sizes.ffn)
    return 0


def refused(node: Node, base_dir: Path) -> Iterator[str]:
    """Why the adapters of a step cannot be trained as its `launch` says."""
    config = node.config
    if not isinstance(config, TrainingConfig) or (kind := config.adapters) is None:
        return
    if isinstance(kind, LoRA) and not kind.dora:
        return
    way = of_launch(node.launch, base_dir)
    if way.engine in ("deepspeed", "fsdp"):
        name = "lora.dora" if isinstance(kind, LoRA) else "ia3"
        yield f"{name} cannot be merged into a model that is shared out ({way.label}); train on copies, or with lora"
