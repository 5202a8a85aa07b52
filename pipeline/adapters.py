"""What adapters mean for a plan and for a launch: how many numbers they are, and what they do not go with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.architecture import Architecture
from pipeline.sharding import of_launch
from pipeline.step import Node
from stages.rollout.beside import BESIDE
from stages.safety_model import SafetyModelConfig
from stages.training.adapter_options import IA3, AnyAdapters, Bottleneck, LoRA, PrefixTuning
from stages.training.options import TrainingConfig


def adapter_numbers(sizes: Architecture, kind: AnyAdapters | None) -> int:
    """Numbers that `kind` adds to a model, at its default places."""
    match kind:
        case LoRA():
            return sizes.adapted * kind.rank + (sizes.outputs if kind.dora else 0)
        case IA3():
            return sizes.layers * (2 * sizes.keys + sizes.ffn)
        case PrefixTuning():
            return kind.tokens * sizes.layers * 2 * sizes.keys
        case Bottleneck():
            places = sizes.layers * (2 if kind.placement == "both" else 1)
            return places * (2 * sizes.hidden * kind.size + kind.size + sizes.hidden)
    return 0


def unshared(config: TrainingConfig) -> bool:
    """Whether something about a step keeps its model from being shared out over processes."""
    kind = config.adapters
    plain = kind is None or (isinstance(kind, LoRA) and not kind.dora)
    beside = any(getattr(config, name, None) is not None for name in ("ewc", "mtp"))
    return not plain or beside or isinstance(config, SafetyModelConfig)


def refused(node: Node, base_dir: Path) -> Iterator[str]:
    """Why the adapters of a step cannot be trained as its `launch` says."""
    config = node.config
    if not isinstance(config, TrainingConfig) or (kind := config.adapters) is None:
        return
    if isinstance(kind, LoRA) and not kind.dora:
        return
    way = of_launch(node.launch, base_dir)
    if way.engine in ("deepspeed", "fsdp"):
        match kind:
            case PrefixTuning() | Bottleneck():
                key = "prefix_tuning" if isinstance(kind, PrefixTuning) else "bottleneck"
                name = f"{key} cannot be trained beside"
            case _:
                name = f"{'lora.dora' if isinstance(kind, LoRA) else 'ia3'} cannot be merged into"
        yield f"{name} a model that is shared out ({way.label}); train on copies, or with lora"


def check_beside(nodes: Sequence[Node]) -> None:
    """Raise ValueError where a step goes on from what lies beside weights, or samples it with an engine that cannot."""
    made = {node.name: kind for node in nodes for kind in BESIDE if getattr(node.config, kind, None) is not None}
    for node in nodes:
        for name, sources in node.inputs.items():
            if not (found := made.keys() & set(sources)):
                continue
            kind = made[min(found)]
            model = f"{node.where}.{name}_from: {min(found)} has {BESIDE[kind]}"
            sampler = node.config if name == "init" else getattr(node.config, name, None)
            if name == "init" and isinstance(node.config, TrainingConfig):
                part = "which is no part" if kind == "prefix_tuning" else "which are no part"
                raise ValueError(f"{model}, {part} of its weights: no step can train it further")
            if (engine := getattr(sampler, "engine", "transformers")) != "transformers":
                raise ValueError(f"{model}, which engine: {engine} cannot sample; take engine: transformers")
