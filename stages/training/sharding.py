"""Whether the model is shared out as `launch` asks, and the whole of it on each rank for a while under FSDP2.

Sampling takes as many passes as it likes. A sharded pass gathers its weights from all ranks, so ranks that decode
different numbers of tokens would wait for each other forever. ZeRO-3's gathering is TRL's
`unwrap_model_for_generation`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def check_sharding(accelerator: Any) -> None:
    """Raise ValueError where several ranks were started to share a model out and accelerate does not do that."""
    asked = {"DEEPSPEED": "ACCELERATE_USE_DEEPSPEED", "FSDP": "ACCELERATE_USE_FSDP"}
    for kind, variable in asked.items():
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        if several and os.environ.get(variable) == "true" and accelerator.distributed_type != kind:
            raise ValueError(
                f"launch asks for {kind}, and accelerate would train with {accelerator.distributed_type.value} on "
                f"{accelerator.device.type}: take another accelerate_config"
            )


@contextmanager
def whole_model(model: Any, accelerator: Any) -> Iterator[None]:
    """Gather the weights of every FSDP2 module below `model` and keep them; nothing happens to other models."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None or plugin.fsdp_version != 2:
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.set_reshard_after_forward(plugin.reshard_after_forward, recurse=False)
            module.reshard()
