"""TRL's arguments out of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trl import SFTConfig

from stages.stage import Context, Placement
from stages.training.arguments import accumulation, trl_arguments
from stages.training.options import SupervisedConfig


def made(tmp_path: Path, trl: dict[str, Any] | None = None, **placement: Any) -> Any:
    context = Context(seed=3, convention="none", work=tmp_path, placement=Placement(**placement))
    config = SupervisedConfig(learning_rate=1e-4, warmup_ratio=0.1, micro_batch_size=8, trl=trl or {})
    return trl_arguments(SFTConfig, config, context, steps=40, batch_size=24)


def test_checkpoints_come_as_often_as_the_launch_says(tmp_path: Path) -> None:
    assert made(tmp_path).save_steps == 25
    assert made(tmp_path, checkpoint_steps=2).save_steps == 2


def test_how_long_ranks_wait_for_each_other(tmp_path: Path) -> None:
    assert made(tmp_path, timeout=7).ddp_timeout == 7


def test_half_precision_with_a_scaled_loss_needs_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=r"launch.mixed_precision: fp16 needs a GPU; on a CPU there is bf16"):
        made(tmp_path, mixed_precision="fp16")
    assert made(tmp_path, mixed_precision="bf16").bf16


def test_ours_in_trl_s_words(tmp_path: Path) -> None:
    arguments = made(tmp_path)
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (8, 3)
    assert (arguments.max_steps, arguments.warmup_steps, arguments.seed) == (40, 4, 3)
    assert arguments.output_dir == str(tmp_path / "trainer")
    assert made(tmp_path, {"adam_beta2": 0.95}).adam_beta2 == 0.95


def test_a_batch_is_shared_by_processes_and_cut_to_fit(tmp_path: Path) -> None:
    assert accumulation(24, 32, 2) == (12, 1)
    assert accumulation(14, 4, 1) == (2, 7)
    with pytest.raises(ValueError, match="a batch of 9 sequences does not divide by 2 processes"):
        accumulation(9, 4, 2)


def test_names_that_trl_does_not_know_or_that_are_ours(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trl.adam_beta3 is no argument of SFTConfig; did you mean 'adam_beta"):
        made(tmp_path, {"adam_beta3": 1})
    with pytest.raises(ValueError, match=r"trl.output_dir is set by the pipeline"):
        made(tmp_path, {"output_dir": "x"})
