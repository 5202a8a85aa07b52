"""Checkpoints that are only half there are refused before anything is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.checkpoint import open_checkpoint
from pipeline.whole_weights import check_weights
from tests.toy_project import ROOT, plan_of, project

BASE = ROOT / "data" / "tiny" / "base"
NAME = "model.safetensors"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def header(content: bytes) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(len(content).to_bytes(8, "little") + content) and None


def index(text: str) -> Callable[[Path], None]:
    return lambda file: file.with_name("model.safetensors.index.json").write_text(text) and None


def test_whole_weights_pass_and_so_does_a_folder_without_any(tmp_path: Path) -> None:
    check_weights(BASE)
    check_weights(tmp_path)
    header(b'{"__metadata__": {"format": "pt"}}')(tmp_path / NAME)
    check_weights(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "is damaged: .* bytes, its header speaks of"),
        (
            lambda file: file.write_bytes(file.read_bytes() + b"x") and None,
            "is damaged: .* bytes, its header speaks of",
        ),
        (lambda file: file.write_bytes(file.read_bytes()[:1000]) and None, "is damaged: its header is cut off"),
        (lambda file: file.write_bytes(b"") and None, "is damaged: its header is cut off"),
        (lambda file: file.write_text("version https://git-lfs.github.com/spec/v1") and None, "its header is cut off"),
        (header(b"not json"), "is damaged: its header is not a JSON object"),
        (header(b'{"a": {"data_offsets": 5}}'), "does not say where the tensors are"),
        (index("[]"), "index.json is not a JSON object"),
        (index("{}"), "it has no weight_map"),
        (index(json.dumps({"weight_map": {"a": "model-2.safetensors"}})), r"model-2.safetensors is missing"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(BASE, folder)
    damage(folder / NAME)
    with pytest.raises(ValueError, match=message) as caught:
        check_weights(folder, "models.base.path")
    assert str(caught.value).startswith(f"models.base.path: {folder}/model")
    with pytest.raises(ValueError, match=message):
        open_checkpoint(folder)


def test_a_run_refuses_half_a_model(tmp_path: Path) -> None:
    from pipeline.config import load
    from pipeline.given import HashCache, model_fingerprint

    file = project(tmp_path)
    header(b"not json")(tmp_path / "model" / NAME)
    plan_of(file)  # reading a configuration opens no weights
    config = load(file)
    with pytest.raises(ValueError, match=r"models.base.path: .*is damaged"):
        model_fingerprint(config.models["base"], tmp_path, "base", HashCache(tmp_path / "hashes.json"))
