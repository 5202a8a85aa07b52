"""Early stopping ends at the same step and keeps the same weights wherever a model is shared out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.chains import artifact, run

STEP = {
    "name": "sft",
    "stage": "cold_start",
    "init_from": "base",
    "data_from": "chains",
    "learning_rate": 5e-4,
    "schedule": "constant",
    "epochs": 16,
    "batch_size": 8,
    "early_stopping": {"every": 4, "patience": 1, "share": 0.25},
}


def stopped(folder: Path, name: str, **launch: Any) -> tuple[dict[str, Any], dict[int, float], dict[str, Any]]:
    """Counts, held-out losses by optimiser step, and weights of one run."""
    tree = {
        "models": {"base": {"path": str(Path("data/tiny/base").resolve()), "evaluate": False}},
        "data": {"chains": {"source": "tiny", "split": "cold_start", "rows": 32}},
        "launch": {"threads": 1, "timeout": 600, **launch},
        "steps": [STEP],
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(tree))
    run(file, folder / name)
    made = artifact(folder / name, "sft")
    lines = [json.loads(line) for line in (made / "history.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}
    return json.loads((made / "record.json").read_text())["counts"], losses, load_file(made / "model.safetensors")


@pytest.mark.slow
@pytest.mark.pair
def test_it_ends_at_the_same_step_wherever_a_model_is_shared_out(tmp_path: Path) -> None:
    counts, losses, weights = stopped(tmp_path, "one")
    assert counts["best_step"] == counts["optimiser_steps"] - 4 < 44
    placements: dict[str, dict[str, Any]] = {"zero3": {"zero": 3}, "fsdp2": {"accelerate_config": "fsdp2"}}
    for name, placement in placements.items():
        shared = stopped(tmp_path, name, processes=2, **placement)
        assert shared[0] == counts, name
        assert shared[1] == pytest.approx(losses, rel=1e-4), name
        assert shared[2].keys() == weights.keys()
        for key, tensor in weights.items():
            torch.testing.assert_close(shared[2][key], tensor, rtol=1e-2, atol=1e-4)
