"""Trainer checkpoints that survive a kill: only one that was written to its end is resumed from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

COMPLETE = "complete"
"""Marker written into a trainer checkpoint after everything else."""


def last_checkpoint(work: Path) -> str | None:
    """Path of the newest whole trainer checkpoint below `work`, or None; the first rank removes half-written ones."""
    found = sorted((work / "trainer").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    whole = [path for path in found if (path / COMPLETE).exists()]
    if os.environ.get("RANK", "0") == "0":
        for path in set(found) - set(whole):
            shutil.rmtree(path)
    return str(whole[-1]) if whole else None


class MarkComplete(TrainerCallback):
    """Writes the marker once every rank has saved its part: optimiser shards, random state."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()
