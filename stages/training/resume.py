"""Trainer checkpoints that survive a kill: only one that was written to its end is resumed from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

COMPLETE = "complete"
"""Marker written into a trainer checkpoint after everything else; its text is `sharding()`."""


def sharding() -> str:
    """How the ranks share out the optimiser's state; "" where each has all of it, which any number of ranks can read.

    From what `accelerate launch` tells its ranks.
    """
    told = os.environ
    if told.get("ACCELERATE_USE_DEEPSPEED") == "true":
        kind = f"DeepSpeed ZeRO-{stage}" if (stage := told.get("ACCELERATE_DEEPSPEED_ZERO_STAGE")) else "DeepSpeed"
    elif told.get("ACCELERATE_USE_FSDP") == "true":
        kind = "FSDP"
    else:
        return ""
    return f"{kind} on {told.get('WORLD_SIZE', '1')} ranks"


def last_checkpoint(work: Path) -> str | None:
    """Path of the newest whole trainer checkpoint below `work`, or None; the first rank removes half-written ones.

    Raises ValueError where it is sharded in another way than these ranks are: it would be resumed from in part.
    """
    found = sorted((work / "trainer").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    whole = [path for path in found if (path / COMPLETE).exists()]
    if os.environ.get("RANK", "0") == "0":
        for path in set(found) - set(whole):
            shutil.rmtree(path)
    if not whole:
        return None
    before, now = (whole[-1] / COMPLETE).read_text(encoding="utf-8"), sharding()
    if before != now:
        raise ValueError(
            f"the step was begun with {before or 'an unsharded optimiser'}, and now has {now or 'an unsharded one'}: "
            f"go on with the same `launch`, or delete {work} and begin it anew"
        )
    return str(whole[-1])


class MarkComplete(TrainerCallback):
    """Writes the marker once every rank has saved its part: optimiser shards, random state."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            marker = Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE
            marker.write_text(sharding(), encoding="utf-8")
