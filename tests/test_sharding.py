"""What is shared out is read from the files of accelerate and DeepSpeed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import Launch
from pipeline.sharding import BUCKET, Sharding, of_launch, read_accelerate, read_deepspeed

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
EXPECTED = {
    "cpu": "copies (DDP)",
    "multi_gpu": "copies (DDP)",
    "zero2": "ZeRO-2",
    "zero3": "ZeRO-3",
    "zero3_offload": "ZeRO-3, optimiser and weights on the host",
    "fsdp2": "FSDP2",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_files_of_the_repository(name: str) -> None:
    assert read_accelerate(CONFIGS / "accelerate" / f"{name}.yaml").label == EXPECTED[name]


@pytest.mark.parametrize("name", ["zero2", "zero3", "zero3_offload"])
def test_the_deepspeed_files_of_the_repository(name: str) -> None:
    sharding = read_deepspeed(CONFIGS / "deepspeed" / f"{name}.json")
    assert sharding.label == EXPECTED[name]
    assert sharding.bucket is None
    assert sharding.overlap


def test_a_launch_without_a_file() -> None:
    assert of_launch(Launch(), Path()).label == "one process"
    assert of_launch(Launch(processes=2), Path()).engine == "ddp"


def test_a_launch_with_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("distributed_type: NO")
    (tmp_path / "d.json").write_text('{"zero_optimization": {"stage": 1, "reduce_bucket_size": 7}}')
    (tmp_path / "b.yaml").write_text("distributed_type: DEEPSPEED\ndeepspeed_config: {deepspeed_config_file: d.json}")
    one = Sharding(engine="deepspeed", stage=1, bucket=7)
    assert of_launch(Launch(accelerate_config="a.yaml"), tmp_path) == Sharding()
    assert of_launch(Launch(accelerate_config="b.yaml"), tmp_path) == one
    assert of_launch(Launch(deepspeed="d.json"), tmp_path) == one


def test_keys_that_change_what_is_shared_out(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(
        "distributed_type: FSDP\nfsdp_config:\n  {fsdp_reshard_after_forward: false, fsdp_offload_params: true, "
        "fsdp_activation_checkpointing: true}"
    )
    assert read_accelerate(file) == Sharding(
        engine="fsdp", stage=2, offload_optimiser=True, offload_weights=True, checkpointing=True
    )
    file.write_text("distributed_type: DEEPSPEED")
    assert read_accelerate(file) == Sharding(engine="deepspeed", stage=2, bucket=BUCKET)


BROKEN = [
    ("distributed_type: MEGATRON_LM", "distributed_type: MEGATRON_LM has no plan; there is one for DEEPSPEED, FSDP, "),
    ("distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stage: 4}", "the ZeRO stage is 0, 1, 2 or 3, got 4"),
    ("distributed_type: DEEPSPEED\ndeepspeed_config: [3]", "deepspeed_config: expected keys and values, got [3]"),
    ("distributed_type: FSDP\nfsdp_config: 2", "fsdp_config: expected keys and values, got 2"),
    ("- a", "expected keys and values"),
    ("a: [", "cannot be read"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_a_file_that_cannot_be_read(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    with pytest.raises(ValueError, match="there is no such file"):
        read_accelerate(file)
    file.write_text(text)
    with pytest.raises(ValueError) as error:
        read_accelerate(file)
    assert str(error.value).startswith(f"{file}: {message}")


def test_a_deepspeed_file_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "d.json"
    file.write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        read_deepspeed(file)
