"""Signs of life of the ranks of a step: small files from which whoever started them can tell who stopped where."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

FOLDER = "launch"
"""Below the work directory of a step: what the launcher and the ranks leave for each other."""

BEAT_SECONDS = 1.0

_lock = threading.Lock()
_note: dict[str, Any] = {"optimiser_step": None, "beat": 0, "ended": False}


def begin(work: Path) -> None:
    """From now on this rank shows that it lives; does nothing where there is one process."""
    if rank := os.environ.get("RANK"):
        _write(work, rank)
        threading.Thread(target=_beat, args=(work, rank), daemon=True).start()


def tell(work: Path, optimiser_step: int) -> None:
    """Note that this rank has finished an optimiser step; does nothing where there is one process."""
    if rank := os.environ.get("RANK"):
        _write(work, rank, optimiser_step=optimiser_step)


def end(work: Path) -> None:
    """Note that this rank has done its part, well or not, and is not to be waited for."""
    if rank := os.environ.get("RANK"):
        _write(work, rank, ended=True)


def leave() -> None:
    """Leave the process group, where there is one, once this rank has done its part well.

    A group that is still there when the interpreter ends takes it down at times ("terminate called without an active
    exception"): Gloo's threads free tensors, for which they need an interpreter (pytorch/pytorch 190489). A rank that
    fails does not call this: the others, in the middle of a collective, would never answer.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def told(folder: Path) -> Mapping[int, Mapping[str, Any]]:
    """Rank to its last note below the launch folder of a step: host, pid, optimiser_step (None before training),
    `beat`, which keeps growing while it lives, and whether it has `ended`."""
    notes: dict[int, Mapping[str, Any]] = {}
    for file in folder.glob("rank-*.json"):
        with suppress(OSError, ValueError):  # a shared file system may lose a file for a moment while it is replaced
            notes[int(file.stem.removeprefix("rank-"))] = json.loads(file.read_text(encoding="utf-8"))
    return notes


def _beat(work: Path, rank: str) -> None:
    while True:
        time.sleep(BEAT_SECONDS)
        with suppress(OSError):  # a disk that is away for a moment must not make this rank look dead for good
            _write(work, rank)


def _write(work: Path, rank: str, **changes: Any) -> None:
    with _lock:
        _note.update(changes, beat=_note["beat"] + 1, host=socket.gethostname(), pid=os.getpid())
        folder = work / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"rank-{rank}.json"
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(_note), encoding="utf-8")
        partial.replace(file)
