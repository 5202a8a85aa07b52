"""What adapters mean for a plan and for a launch: how many numbers they are, and what they do not go with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.architecture import Architecture
from pipeline.config import RunConfig
from pipeline.sharding import of_launch
from pipeline.step import Node
from stages.rollout.beside import BESIDE, beside
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
            case PrefixTuning():
                name = "prefix_tuning cannot be trained beside"
            case Bottleneck():
                name = "bottleneck cannot be trained beside"
            case _:
                name = f"{'lora.dora' if isinstance(kind, LoRA) else 'ia3'} cannot be merged into"
        yield f"{name} a model that is shared out ({way.label}); train on copies, or with lora"


def given_beside(config: RunConfig) -> dict[str, str]:
    """Given models on this disk that are more than their weights, and the key of `BESIDE` by which they are."""
    base_dir = Path(config.base_dir)
    found = {
        name: beside(base_dir / Path(source.path).expanduser()) for name, source in config.models.items() if source.path
    }
    return {name: kind for name, kind in found.items() if kind is not None}


def check_beside(nodes: Sequence[Node], given: Mapping[str, str]) -> None:
    """Raise ValueError where a step goes on from what lies beside weights, or samples it with an engine that cannot.

    `given` is what `given_beside` finds, or empty where the disk is not looked at.
    """
    for fault in beside_faults(nodes, given):
        raise ValueError(fault)


def beside_faults(nodes: Sequence[Node], given: Mapping[str, str]) -> Iterator[str]:
    """What `check_beside` raises, one line a fault."""
    made = {node.name: kind for node in nodes for kind in BESIDE if getattr(node.config, kind, None) is not None}
    made |= given
    for node in nodes:
        for name, sources in node.inputs.items():
            if not (found := made.keys() & set(sources)):
                continue
            kind = made[min(found)]
            model = f"{node.where}.{name}_from: {min(found)} has {BESIDE[kind]}"
            sampler = node.config if name == "init" else getattr(node.config, name, None)
            if name == "init" and isinstance(node.config, TrainingConfig):
                part = "which is no part" if kind == "prefix_tuning" else "which are no part"
                yield f"{model}, {part} of its weights: no step can train it further"
            elif (engine := getattr(sampler, "engine", "transformers")) != "transformers":
                yield f"{model}, which engine: {engine} cannot sample; take engine: transformers"
