"""configs/tiny-zero.yaml: R1-Zero's verified answers as the base's cold start, then rounds of the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.records import Row, read_rows
from data.template import CONVENTIONS
from pipeline.config import load
from pipeline.graph import build
from pipeline.step import Role
from stages import STAGES
from tests.chains import ROOT, artifact, entries, kill_when, run

CONFIG = ROOT / "configs" / "tiny-zero.yaml"


def test_nothing_but_the_base_s_own_verified_answers_is_learned_from() -> None:
    nodes = {node.name: node for node in build(load(CONFIG), STAGES, CONFIG)}
    sources = {source for node in nodes.values() for source in node.sources}
    given = {name: node for name, node in nodes.items() if node.role is Role.PREPARATION}
    assert given.keys() <= sources
    assert all(node.config.model_dump()["spec"]["split"] in ("rl", "test") for node in given.values())
    for node in nodes.values():
        if node.stage.name == "cold_start":
            assert all(nodes[source].stage.name == "rejection_sampling" for source in node.inputs["data"])
    assert nodes["zero"].inputs["init"] == ("base",)
    assert "program" not in nodes, "unit tests are the reward `correctness`, where a row has them"


def small(folder: Path) -> Path:
    sampling = {"rows": 40, "keep_fraction": 1.0}
    tuning = {"batch_size": 4, "epochs": 1}
    config = {
        "extends": str(CONFIG),
        "name": "small",
        "data": {"problems": {"rows": 40}, "more_problems": {"rows": 40}, "held_out": {"rows": 20}},
        "models": {"base": {"evaluate": False}},
        "launch": {"checkpoint_steps": 2},
        "steps": [
            {"name": "zero", "steps": 2, "prompts_per_step": 6, "evaluate": False},
            {"name": "zero_samples", **sampling},
            {"name": "cold_start", "evaluate": False, **tuning},
            {"name": "loop", "rounds": 2, "steps": [{"name": "sample", **sampling}, {"name": "tune", **tuning}]},
        ],
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(config))
    return folder / "small.yaml"


def record(run_dir: Path, step: str) -> dict[str, Any]:
    return json.loads((artifact(run_dir, step) / "record.json").read_text())


def kept(run_dir: Path, step: str) -> list[Row]:
    return list(read_rows(artifact(run_dir, step) / "rows.jsonl"))


@pytest.mark.slow
@pytest.mark.pair
def test_a_small_version_hands_on_from_round_to_round_and_resumes_in_the_middle(tmp_path: Path) -> None:
    config, whole, broken = small(tmp_path), tmp_path / "whole", tmp_path / "broken"
    summary, _ = run(config, whole)
    for step, sampled in (("zero_samples", "zero"), ("sample-1", "cold_start"), ("sample-2", "tune-1")):
        rows = kept(whole, step)
        assert rows
        assert {row["provenance"]["step"] for row in rows} == {sampled}
        assert {row["provenance"]["checkpoint"] for row in rows} == {record(whole, sampled)["fingerprint"]}
        assert all(row["provenance"]["scores"]["correctness"] == 1 for row in rows)
        for row in rows:
            found = CONVENTIONS["think_answer"].parse(row["completion"][-1]["content"])
            assert found.well_formed
            assert row.get("tests") or found.answer.strip() == row["answer"].strip()
    for number in (1, 2):
        samples = ["zero_samples", "sample-1", "sample-2"][: number + 1]
        inputs = record(whole, f"tune-{number}")["recipe"]["inputs"]
        assert [source["name"] for source in inputs["data"]] == samples
        assert [source["name"] for source in inputs["init"]] == ["base"]
        assert record(whole, f"tune-{number}")["counts"]["rows_used"] == sum(len(kept(whole, name)) for name in samples)
        assert "accuracy" in entries(summary)[f"tune-{number}"]["metrics"]

    shutil.copytree(whole, broken)
    for step in ("sample-2", "tune-2", "evaluate.tune-2"):
        shutil.rmtree(artifact(broken, step))
    finished = {path.name: path.stat().st_mtime_ns for path in (broken / "artifacts").iterdir()}
    kill_when(config, broken, lambda: any((broken / "work").glob("tune-2-*/trainer/checkpoint-4/complete")))
    assert not list((broken / "artifacts").glob("tune-2-*"))
    resumed, said = run(config, broken)
    assert {
        path.name: path.stat().st_mtime_ns for path in (broken / "artifacts").iterdir() if path.name in finished
    } == (finished)
    assert "sample-2: done" not in said, "the kill came after it"
    for step in ("sample-2", "tune-2"):
        name = "rows.jsonl" if step == "sample-2" else "model.safetensors"
        assert (artifact(broken, step) / name).read_bytes() == (artifact(whole, step) / name).read_bytes()
    assert entries(resumed)["tune-2"]["metrics"] == entries(summary)["tune-2"]["metrics"]
