"""configs/cross-domain.yaml: medicine and finance mixed by weight with mathematics, measured by domain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from data import sources
from pipeline.config import load
from pipeline.graph import build
from stages import STAGES
from tests.chains import ROOT, artifact, run

CONFIG = ROOT / "configs" / "cross-domain.yaml"


def record(run_dir: Path, step: str) -> dict[str, Any]:
    return json.loads((artifact(run_dir, step) / "record.json").read_text())


def test_the_control_differs_in_its_mix_alone() -> None:
    nodes = {node.name: node for node in build(load(CONFIG), STAGES, CONFIG)}
    fusion, control = nodes["fusion"], nodes["maths_only"]
    assert fusion.inputs == control.inputs
    assert {**fusion.identity(), "phases": None} == {**control.identity(), "phases": None}
    mixes = [node.identity()["phases"][0] for node in (fusion, control)]
    assert [set(mix["weights"]) for mix in mixes] == [{"medicine", "finance", "math"}, {"math"}]
    assert mixes[0]["rows"] == mixes[1]["rows"]


def test_nothing_that_is_measured_is_trained_on() -> None:
    config = load(CONFIG)

    def asked(name: str) -> set[str]:
        rows = sources.load(config.data[name], Path(config.base_dir), config.seed, config.convention).rows
        return {row["prompt"][-1]["content"] for row in rows}

    trained = asked("mathematics") | asked("applied")
    measured = asked("held_out") | asked("held_out_applied")
    assert len(measured) == 600
    assert not trained & measured


@pytest.mark.slow
def test_a_small_version_runs_and_reports_each_domain(tmp_path: Path) -> None:
    short: dict[str, Any] = {"epochs": 1, "batch_size": 20}
    small = {
        "extends": str(CONFIG),
        "name": "small",
        "data": {
            "mathematics": {"rows": 80},
            "applied": {"rows": 120},
            "held_out": {"rows": 8},
            "held_out_applied": {"rows": 16},
        },
        "evaluate": {"max_tokens": 40},
        "models": {"base": {"evaluate": False}},
        "steps": [
            {
                "name": "fusion",
                **short,
                "phases": [{"name": "fusion", "weights": {"medicine": 2, "finance": 2, "math": 1}, "rows": 80}],
            },
            {"name": "maths_only", **short, "phases": [{"name": "maths_only", "weights": {"math": 1}, "rows": 80}]},
        ],
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    run(tmp_path / "small.yaml", tmp_path / "run")
    counts = {name: record(tmp_path / "run", name)["counts"] for name in ("fusion", "maths_only")}
    assert [counts["fusion"][f"rows in fusion: {domain}"] for domain in ("medicine", "finance", "math")] == [32, 32, 16]
    assert counts["maths_only"]["rows in maths_only: math"] == 80
    for name in ("fusion", "maths_only"):
        metrics = record(tmp_path / "run", f"evaluate.{name}")["metrics"]
        found = [metrics[f"accuracy.{domain}"]["n"] for domain in ("medicine", "finance", "math")]
        assert sum(found) == 24
        assert found[2] == 8
