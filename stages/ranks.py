"""Signs of life of the ranks of a step: small files from which whoever started them can tell who stopped where."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = "launch"
"""Below the work directory of a step: what the launcher and the ranks leave for each other."""


def tell(work: Path, optimiser_step: int) -> None:
    """Note that this rank has finished an optimiser step; does nothing where there is one process."""
    if "RANK" not in os.environ:
        return
    folder = work / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"rank-{os.environ['RANK']}.json"
    note = {"optimiser_step": optimiser_step, "host": socket.gethostname(), "pid": os.getpid()}
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(note), encoding="utf-8")
    partial.replace(file)


def told(folder: Path) -> Mapping[int, Mapping[str, Any]]:
    """Rank to its last note below the launch folder of a step."""
    files = folder.glob("rank-*.json")
    return {int(file.stem.removeprefix("rank-")): json.loads(file.read_text(encoding="utf-8")) for file in files}
