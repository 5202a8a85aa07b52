"""Sizes of decoders: the published numbers, what transformers builds, what a weight file holds."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from pipeline.architecture import KNOWN, known, read_config

DATA = Path(__file__).resolve().parent.parent / "data" / "tiny"
PUBLISHED = {
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen2.5-72B": 72_706_203_648,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
}
"""Numbers in the weight files of each repository."""


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_model_has_its_published_number_of_parameters(name: str) -> None:
    assert known(name).parameters == PUBLISHED[name]
    assert known(f"{name}-Instruct") == known(name)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_config_counts_what_transformers_builds(family: str, tied: bool, tmp_path: Path) -> None:
    import torch
    import transformers

    settings = transformers.AutoConfig.for_model(
        family,
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16 if family == "qwen3" else 12,
        intermediate_size=80,
        vocab_size=101,
        tie_word_embeddings=tied,
    )
    settings.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(settings)
    sizes = read_config(tmp_path)
    assert sizes.parameters == sum(p.numel() for p in model.parameters())
    assert sizes.matrices == sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    layers = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n]
    assert sizes.adapted == sum(sum(m.weight.shape) for m in layers)


@pytest.mark.parametrize("model", ["base", "student"])
def test_the_weight_file_has_the_last_word(model: str, tmp_path: Path) -> None:
    sizes = read_config(DATA / model)
    assert sizes.stored == sizes.parameters
    shutil.copy(DATA / model / "config.json", tmp_path)
    assert read_config(tmp_path).stored is None
    assert read_config(tmp_path).parameters == sizes.parameters
    header = json.dumps({"__metadata__": {}, "a": {"shape": [2, 3]}, "lm_head.weight": {"shape": [9]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert read_config(tmp_path).parameters == 6  # the head is tied: its copy does not count


def test_a_model_that_is_not_built_in() -> None:
    with pytest.raises(
        ValueError,
        match=r"^the sizes of Qwen/Qwen2.5-7 are not built in; did you mean 'Qwen/Qwen2.5-7B'\?; "
        r"give them with --model NAME=CONFIG.JSON$",
    ):
        known("Qwen/Qwen2.5-7")


BROKEN = [
    ({"model_type": "gpt2"}, "model_type: 'gpt2' has no plan; there is one for llama, mistral, qwen2, qwen3"),
    ({"hidden_size": None}, "hidden_size: expected a whole number above 0, got None"),
    ({"num_hidden_layers": 0}, "num_hidden_layers: expected a whole number above 0, got 0"),
    ({"vocab_size": "many"}, "vocab_size: expected a whole number above 0, got 'many'"),
    ({"intermediate_size": True}, "intermediate_size: expected a whole number above 0, got True"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN, ids=lambda value: str(value)[:30])
def test_a_config_that_cannot_be_planned(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    settings = json.loads((DATA / "base" / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError) as error:
        read_config(tmp_path)
    assert str(error.value) == f"{tmp_path / 'config.json'}: {message}"


@pytest.mark.parametrize("text", ["{", "[1, 2]"])
def test_a_config_that_is_none(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such file"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"cannot be read as JSON|has no plan"):
        read_config(tmp_path)


@pytest.mark.parametrize("content", [b"", b"abc", struct.pack("<Q", 10**12) + b"{}", struct.pack("<Q", 3) + b"abc"])
def test_a_weight_file_that_is_none(content: bytes, tmp_path: Path) -> None:
    shutil.copy(DATA / "base" / "config.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors: not safetensors: its header cannot be read"):
        read_config(tmp_path)
