"""The size of a checkpoint is read off its files, and a file that is broken is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.weights import parameter_count, read_json, weight_files

ROOT = Path(__file__).resolve().parent.parent


def test_the_header_of_safetensors_tells() -> None:
    from safetensors import safe_open

    base = ROOT / "data" / "tiny" / "base"
    with safe_open(base / "model.safetensors", "numpy") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    assert parameter_count(base) == sum(rows * (columns[0] if columns else 1) for rows, *columns in shapes)


def test_an_index_and_plain_files_tell(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"dtype": "bfloat16"}')
    assert parameter_count(tmp_path) is None
    (tmp_path / "pytorch_model.bin").write_bytes(b"0" * 10)
    assert parameter_count(tmp_path) == 5
    index = {"metadata": {"total_size": 14_000_000_000.0}, "weight_map": {}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert parameter_count(tmp_path) == 7_000_000_000, "the index is enough: shards may not be fetched yet"
    assert weight_files(tmp_path) == [tmp_path / "pytorch_model.bin"]


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02\x00\x00\x00\x00\x00\x00\x00[]", b"\x08" + b"\x00" * 7])
def test_a_header_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="not safetensors: its header cannot be read"):
        parameter_count(tmp_path)


def test_json_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    assert read_json(file) == {}
    for text, message in (("{", "not JSON"), ("[]", "expected an object, got list")):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_json(file)
