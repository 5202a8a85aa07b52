"""What is shared out over the processes of a step, read from the files that `accelerate launch` is given.

ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054): stage 1 shares out the optimiser, 2 the gradients too, 3 the weights
too. FSDP2 with resharding shares out what stage 3 does, and keeps fp32 masters as its only copy of the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from pipeline.config import Launch
from pipeline.messages import shorten

BUCKET = 500_000_000
"""DeepSpeed's reduce_bucket_size where nothing is stated: numbers."""
LIVE = 1_000_000_000
"""DeepSpeed's stage3_max_live_parameters: gathered weights that stay until so many are there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharding:
    """How the states of a model lie on the processes."""

    engine: Literal["none", "ddp", "deepspeed", "fsdp"] = "none"
    stage: int = 0
    """Of ZeRO: 0 to 3."""
    offload_optimiser: bool = False
    """Optimiser states, masters and fp32 gradients lie in the memory of the host."""
    offload_weights: bool = False
    checkpointing: bool = False
    """The file turns on activation checkpointing itself."""
    bucket: int | None = BUCKET
    """Numbers in one communication buffer; None: hidden size squared, which is what "auto" comes to."""
    overlap: bool = False
    """Communication runs beside computation, from a second buffer."""

    @property
    def label(self) -> str:
        """For people."""
        if self.engine == "none":
            return "one process"
        if self.engine == "ddp":
            return "copies (DDP)"
        away = [name for name, on in (("optimiser", self.offload_optimiser), ("weights", self.offload_weights)) if on]
        name = "FSDP2" if self.engine == "fsdp" else f"ZeRO-{self.stage}"
        return f"{name}, {' and '.join(away)} on the host" if away else name


NOT_SHARDED = Sharding()
"""One process that holds everything."""


def of_launch(launch: Launch, base_dir: Path) -> Sharding:
    """What a step's `launch` comes to. Raises ValueError naming file and key."""
    extra = launch.placement(base_dir).extra
    if "accelerate_config" in extra:
        return read_accelerate(Path(extra["accelerate_config"]))
    if "deepspeed" in extra:
        return read_deepspeed(Path(extra["deepspeed"]))
    return Sharding(engine="ddp" if launch.processes > 1 else "none")


def read_accelerate(file: Path) -> Sharding:
    """Out of a file of `accelerate config`."""
    tree = _mapping(file, yaml.safe_load, yaml.YAMLError)
    kind = tree.get("distributed_type") or "NO"  # YAML reads a bare NO as false
    match str(kind).upper():
        case "DEEPSPEED":
            own = _section(tree, "deepspeed_config", file)
            if (named := named_deepspeed(file)) is not None:
                return read_deepspeed(named)
            stage = own.get("zero_stage", 2)
            return _zero(
                stage, own.get("offload_optimizer_device"), own.get("offload_param_device"), BUCKET, stage == 3, file
            )
        case "FSDP":
            own = _section(tree, "fsdp_config", file)
            offloaded = own.get("fsdp_offload_params") is True
            kept = own.get("fsdp_reshard_after_forward") in (False, "SHARD_GRAD_OP")
            return Sharding(
                engine="fsdp",
                stage=2 if kept else 3,
                offload_optimiser=offloaded,
                offload_weights=offloaded,
                checkpointing=own.get("fsdp_activation_checkpointing") is True,
            )
        case "NO":
            return NOT_SHARDED
        case name if name.startswith("MULTI_"):
            return Sharding(engine="ddp")
        case _:
            raise ValueError(
                f"{file}: distributed_type: {kind} has no plan; there is one for DEEPSPEED, FSDP, MULTI_GPU, NO"
            )


def named_deepspeed(file: Path) -> Path | None:
    """The DeepSpeed JSON file that a file of `accelerate config` names, from the folder of the latter; None without."""
    own = _section(_mapping(file, yaml.safe_load, yaml.YAMLError), "deepspeed_config", file)
    named = own.get("deepspeed_config_file")
    return None if named is None else file.parent / str(named)


def read_deepspeed(file: Path) -> Sharding:
    """Out of a DeepSpeed JSON file."""
    zero = _section(_mapping(file, json.loads, ValueError), "zero_optimization", file)
    stage = zero.get("stage", 0)
    bucket = zero.get("reduce_bucket_size", BUCKET)
    optimiser, weights = (_section(zero, key, file).get("device") for key in ("offload_optimizer", "offload_param"))
    overlap = zero.get("overlap_comm", stage == 3) is True
    return _zero(stage, optimiser, weights, None if bucket == "auto" else int(bucket), overlap, file)


def _zero(stage: Any, optimiser: Any, weights: Any, bucket: int | None, overlap: bool, file: Path) -> Sharding:
    if stage not in (0, 1, 2, 3) or isinstance(stage, bool):
        raise ValueError(f"{file}: the ZeRO stage is 0, 1, 2 or 3, got {shorten(stage)}")
    return Sharding(
        engine="deepspeed",
        stage=stage,
        offload_optimiser=optimiser not in (None, "none"),
        offload_weights=weights not in (None, "none"),
        bucket=bucket,
        overlap=overlap,
    )


def _mapping(file: Path, parse: Any, broken: type[Exception]) -> Mapping[str, Any]:
    try:
        tree = parse(file.read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(f"{file}: there is no such file") from None
    except broken:
        raise ValueError(f"{file}: cannot be read") from None
    if not isinstance(tree, Mapping):
        raise ValueError(f"{file}: expected keys and values")
    return tree


def _section(tree: Mapping[str, Any], key: str, file: Path) -> Mapping[str, Any]:
    section = tree.get(key) or {}
    if not isinstance(section, Mapping):
        raise ValueError(f"{file}: {key}: expected keys and values, got {shorten(section)}")
    return section
