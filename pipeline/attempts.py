"""How long a step took in all: a killed attempt cannot say how long it lived, the files that it wrote can."""

from __future__ import annotations

import json
import time
from pathlib import Path

from pipeline.atomic import write_text

NAME = "attempts.json"


def begin(work: Path) -> float:
    """Seconds that earlier attempts in `work` spent; notes that another one begins.

    A killed attempt lasted until it last wrote there, as far as anybody can tell.
    """
    note = work / NAME
    before = 0.0
    try:
        earlier = json.loads(note.read_text(encoding="utf-8"))
        last = max(file.stat().st_mtime for file in work.rglob("*"))
        before = earlier["before"] + max(0.0, last - earlier["began"])
    except FileNotFoundError:
        pass
    write_text(note, json.dumps({"before": before, "began": time.time()}))
    return float(before)


def end(work: Path) -> None:
    """Sign of life of an attempt that ends without a result but could say so."""
    (work / NAME).touch()
