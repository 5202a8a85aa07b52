"""Where several ranks train, sharing the model out or not, its reference is replaced and comes back after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chains import on_two_ranks
from tests.reference_on_ranks import RESET, kinds
from tests.tiny_model import save_checkpoint


@pytest.mark.slow
@pytest.mark.pair
@pytest.mark.parametrize("way", ["zero3", "fsdp2", "multi_gpu"])
def test_a_reference_on_several_ranks_is_reset_and_resumed(tmp_path: Path, way: str) -> None:
    for kind in kinds(way != "multi_gpu"):
        save_checkpoint(tmp_path / kind / "base")
    config = f"configs/accelerate/{way}.yaml"
    launch = ["accelerate.commands.launch", "--config_file", config, "--num_processes", "2", "--main_process_port", "0"]
    found, other = on_two_ranks(launch, "tests.reference_on_ranks", tmp_path)
    for kind in kinds(way != "multi_gpu"):
        whole, resumed = found[kind]
        # Right after the reset the policy is its own reference, and then it leaves it.
        assert whole["kl"][RESET] == pytest.approx(0, abs=1e-6), kind
        assert min(whole["kl"][RESET - 1], whole["kl"][RESET + 1]) > 1e-3, kind
        assert resumed["kl"] == whole["kl"], kind
        assert resumed["reference"] == whole["reference"], kind
        assert any(norm > 0 for _, norm in whole["reference"].values()), kind
        assert other[kind][0]["reference"] == {}, "one copy is enough"
