"""Whether the weights in a checkpoint's directory are whole, seen from their headers: half a copy or download is not.

Reads a few kilobytes of each file and no tensor. The format is that of safetensors: eight bytes with the length of
a JSON header, the header with each tensor's offsets, the data.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_LONGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library."""


def check_weights(directory: Path, where: str = "") -> None:
    """Raise ValueError, one line, for a file of weights that is cut off, unreadable or missing from its index."""
    prefix = f"{where}: " if where else ""
    for index in sorted(directory.glob("*.safetensors.index.json")):
        shards = _json(index.read_bytes(), f"{prefix}{index}").get("weight_map")
        if not isinstance(shards, dict):
            raise ValueError(f"{prefix}{index}: no index of weights, it has no weight_map")
        for shard in sorted(set(map(str, shards.values()))):
            if not (directory / shard).is_file():
                raise ValueError(f"{prefix}{directory / shard} is missing, {index.name} lists it")
    for file in sorted(directory.glob("*.safetensors")):
        expected, found = _length(file, prefix), file.stat().st_size
        if expected != found:
            raise ValueError(f"{prefix}{file} is damaged: {found} bytes, its header speaks of {expected}")


def _length(file: Path, prefix: str) -> int:
    """Bytes that the file should have."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        if not 2 <= size <= min(_LONGEST_HEADER, file.stat().st_size - 8):
            raise ValueError(f"{prefix}{file} is damaged: its header is cut off, or it is no safetensors file")
        header = _json(opened.read(size), f"{prefix}{file} is damaged: its header")
    try:
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return 8 + size + int(max(ends, default=0))
    except (KeyError, TypeError, IndexError, ValueError):
        raise ValueError(f"{prefix}{file} is damaged: its header does not say where the tensors are") from None


def _json(content: bytes, what: str) -> dict[str, Any]:
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict):
        raise ValueError(f"{what} is not a JSON object")
    return tree
