"""How large a checkpoint is, read off its files: the headers of safetensors, an index, or plain sizes."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}
"""Size of one weight by the dtype that config.json states."""


def weight_files(path: Path) -> list[Path]:
    """The files that hold weights. Raises ValueError naming a shard of the index that is not there."""
    for index in sorted(path.glob("*.index.json")):
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
        for shard in shards:
            if not (path / shard).is_file():
                raise ValueError(f"{path}: the shard {shard} of {index.name} is missing")
        if shards:
            return [path / shard for shard in shards]
    return sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))


def parameter_count(path: Path) -> int | None:
    """Number of weights of the checkpoint in `path`; None where its files do not tell. Raises ValueError."""
    size = BYTES.get(str(read_json(path / "config.json").get("dtype") or "float32"), 2)
    for index in sorted(path.glob("*.index.json")):
        total = read_json(index).get("metadata", {}).get("total_size")
        if isinstance(total, int | float):
            return int(total) // size
    files = weight_files(path)
    if not files:
        return None
    return sum(sum(sizes(f).values()) if f.suffix == ".safetensors" else f.stat().st_size // size for f in files)


def sizes(file: Path) -> dict[str, int]:
    """Numbers in each tensor of safetensors, by the header: 8 bytes of length, then JSON. Raises ValueError."""
    try:
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        return {name: prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError):
        raise ValueError(f"{file}: not safetensors: its header cannot be read") from None


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file, {} where there is none. Raises ValueError for what is no JSON object."""
    if not file.is_file():
        return {}
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error})") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{file}: expected an object, got {type(tree).__name__}")
    return tree
