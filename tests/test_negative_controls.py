"""configs/negative-controls.yaml: one start, three policies that differ in their rewards alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipeline.config import load
from pipeline.graph import build
from stages import STAGES
from tests.chains import ROOT, artifact, entries, run

CONFIG = ROOT / "configs" / "negative-controls.yaml"
POLICIES = ("reasoning_rl", "random_rl", "format_rl")


def test_the_controls_differ_from_the_real_run_in_their_rewards_alone() -> None:
    nodes = {node.name: node for node in build(load(CONFIG), STAGES, CONFIG)}
    found = [nodes[name] for name in POLICIES]
    assert len({node.seed for node in found}) == 1
    assert [node.inputs for node in found] == [found[0].inputs] * 3
    assert [{**node.identity(), "rewards": None} for node in found] == [{**found[0].identity(), "rewards": None}] * 3
    assert [[spec["name"] for spec in node.identity()["rewards"]] for node in found] == [
        ["correctness", "completeness", "format", "language"],
        ["random"],
        ["format"],
    ]


@pytest.mark.slow
def test_a_small_version_runs_from_one_start(tmp_path: Path) -> None:
    short = {"steps": 2, "prompts_per_step": 6}
    small = {
        "extends": str(CONFIG),
        "name": "small",
        "data": {
            "chains": {"rows": 160},
            "reasoning": {"rows": 120},
            "general": {"rows": 60},
            "problems": {"rows": 40},
            "held_out": {"rows": 20},
        },
        "models": {"base": {"evaluate": False}},
        "launch": {"threads": 1},
        "steps": [
            {
                "name": "sft_mix",
                "phases": [
                    {"name": "reasoning", "weights": {"math": 6, "code": 2, "science": 1}, "rows": 32},
                    {"name": "general", "weights": {"general": 5, "safety": 2}, "rows": 32},
                ],
            },
            *({"name": name, **short} for name in POLICIES),
        ],
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    summary, _ = run(tmp_path / "small.yaml", tmp_path / "run")
    assert all("accuracy" in entries(summary)[name]["metrics"] for name in ("sft_mix", *POLICIES))
    parents = set()
    for name in POLICIES:
        record = json.loads((artifact(tmp_path / "run", name) / "record.json").read_text())
        parents.add(tuple(record["parents"]))
        history = [
            json.loads(line)
            for line in (artifact(tmp_path / "run", name) / "history.jsonl").read_text().splitlines()
            if '"reward"' in line
        ]
        assert len(history) == 2
        if name == "random_rl":
            assert all(0.2 < line["reward"] < 0.8 and "score/correctness" not in line for line in history)
        if name == "format_rl":
            assert all(line["reward"] == pytest.approx(line["score/format"]) for line in history)
    assert len(parents) == 1
