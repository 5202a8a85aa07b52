"""Work cut into shards whose results survive a kill: a shard's file is whole or absent, and never made twice."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from data.records import Row, read_json_lines, write_rows

WAIT_SECONDS = 0.5


def finished(directory: Path, shard: int) -> bool:
    """Whether the file of a shard is there."""
    return _place(directory, shard).exists()


def resume_shards(directory: Path, count: int, make: Callable[[int], list[Row]]) -> Iterator[list[Row]]:
    """Results of shards 0 to count - 1 in order: read where they are finished, made and kept where they are not.

    Where a training step samples first, its first rank does so for all; the others wait for its files.
    """
    first = os.environ.get("RANK", "0") == "0"
    directory.mkdir(parents=True, exist_ok=True)
    for shard in range(count):
        while not first and not finished(directory, shard):
            time.sleep(WAIT_SECONDS)
        if not finished(directory, shard):
            write_rows(_place(directory, shard), make(shard))
        yield [row for _, row in read_json_lines(_place(directory, shard))]


def _place(directory: Path, shard: int) -> Path:
    return directory / f"{shard:05d}.jsonl"
