"""The whole model on each rank for a while, where FSDP2 shares it out: sampling takes as many passes as it likes.

A sharded pass gathers its weights from all ranks, so ranks that decode different numbers of tokens would wait for each
other forever. ZeRO-3's gathering is TRL's `unwrap_model_for_generation`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
