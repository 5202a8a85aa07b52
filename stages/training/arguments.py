"""Build TRL's own config objects out of ours; the one place where their argument names appear."""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Iterable
from dataclasses import fields
from datetime import timedelta
from typing import Any

from stages.rollout.options import engine_preflight
from stages.stage import Context
from stages.training.early_stopping import CONTRARY
from stages.training.mtp import refuse_contrary
from stages.training.options import CompletionConfig, ReinforcementConfig, TrainingConfig

RESERVED = ("output_dir", "save_strategy")
"""Arguments that the hand-off between steps depends on."""


def accumulation(batch_size: int, micro_batch_size: int, processes: int) -> tuple[int, int]:
    """(sequences per process and forward pass, gradient accumulation steps); their product over all processes is
    `batch_size`. Raises ValueError where that does not divide by the number of processes.
    """
    if batch_size % processes:
        raise ValueError(f"a batch of {batch_size} sequences does not divide by {processes} processes")
    share = batch_size // processes
    micro = max(size for size in range(1, min(micro_batch_size, share) + 1) if share % size == 0)
    return micro, share // micro


def trl_arguments(
    kind: type[Any], config: TrainingConfig, context: Context, *, steps: int, batch_size: int, **own: Any
) -> Any:
    """An instance of TRL's `kind` (SFTConfig, GRPOConfig, RewardConfig).

    `config.trl` wins over everything but what the hand-off depends on. Raises ValueError for a name in `trl:`
    that TRL does not have or that the pipeline sets itself.
    """
    import torch

    placement = context.placement
    join_ranks(placement.timeout)
    micro, accumulate = accumulation(batch_size, config.micro_batch_size, placement.processes)
    precision = placement.mixed_precision
    if precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("launch.mixed_precision: fp16 needs a GPU; on a CPU there is bf16")
    values: dict[str, Any] = {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulate,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.schedule,
        "warmup_steps": round(config.warmup_ratio * steps),
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "max_steps": steps,
        "logging_steps": 1,
        "disable_tqdm": True,
        "save_steps": placement.checkpoint_steps,
        "save_total_limit": 2,
        "ddp_timeout": placement.timeout,
        # Transformers would search each pass for weights that it left unused, and torch would warn that there are none.
        "ddp_find_unused_parameters": False,
        "report_to": "none",
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "gradient_checkpointing": placement.gradient_checkpointing,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "seed": context.seed,
        **own,
    }
    check_names(kind, config.trl)
    reserved = {"output_dir": str(context.work / "trainer"), "save_strategy": "steps"}
    made = kind(**{**values, **config.trl, **reserved})
    shard_on_cpus(made)
    return made


def join_ranks(seconds: int) -> None:
    """Bound how long this rank waits for another, in every group of ranks; does nothing where there is one process.

    transformers hands `ddp_timeout` on for GPUs only, and DeepSpeed makes groups of its own with torch's default. On
    CPUs accelerate would call the device of rank N "cpu:N", under which torch reads no optimiser state back.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    import torch
    from torch.distributed import distributed_c10d

    limit = timedelta(seconds=seconds)
    distributed_c10d.default_pg_timeout = limit
    distributed_c10d.default_pg_nccl_timeout = limit
    if not torch.cuda.is_available():
        os.environ.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo", timeout=limit)


def shard_on_cpus(arguments: Any) -> None:
    """Have accelerate share a model out with FSDP on CPUs too.

    By itself it does so for kinds of processes that have an accelerator, and on CPUs trains with plain data parallelism
    without a word. `check_sharding` sees to it that what was asked for is what trains.
    """
    import torch

    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and not torch.cuda.is_available():
        from accelerate.utils import DistributedType

        if arguments.distributed_state.distributed_type is DistributedType.MULTI_CPU:
            arguments.distributed_state.distributed_type = DistributedType.MULTI_GPU


def check_names(kind: type[Any], names: Iterable[str]) -> None:
    """Raise ValueError for a name that is no argument of TRL's `kind` or that the pipeline sets itself."""
    known = {field.name for field in fields(kind)}
    for name in names:
        if name not in known or name in RESERVED:
            near = difflib.get_close_matches(name, known.difference(RESERVED), n=1)
            why = "is set by the pipeline" if name in RESERVED else f"is no argument of {kind.__name__}"
            raise ValueError(f"trl.{name} {why}" + (f"; did you mean {near[0]!r}?" if near else ""))


def supervised_preflight(config: CompletionConfig) -> None:
    """Stage.preflight of the stages that SFTTrainer trains."""
    _preflight("SFTConfig", config)
    if config.early_stopping is not None and (contrary := sorted(CONTRARY.intersection(config.trl))):
        raise ValueError(f"trl.{contrary[0]} contradicts early_stopping; leave one of them out")
    refuse_contrary(config.mtp, config.trl)


def reinforcement_preflight(config: ReinforcementConfig) -> None:
    """Stage.preflight of the stages that GRPOTrainer trains."""
    engine_preflight(config)
    _preflight("GRPOConfig", config)


def preference_preflight(config: TrainingConfig) -> None:
    """Stage.preflight of the stage that RewardTrainer trains."""
    _preflight("RewardConfig", config)


def label_preflight(config: TrainingConfig) -> None:
    """Stage.preflight of the stage that transformers' own Trainer trains."""
    _preflight("TrainingArguments", config, "transformers")


def _preflight(kind: str, config: TrainingConfig, library: str = "trl") -> None:
    if config.trl:
        check_names(getattr(importlib.import_module(library), kind), config.trl)
