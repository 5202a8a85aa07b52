"""What `r1 check` says of raw text: it comes through the tokenizer, and its blocks fit the model's positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.check_findings import Level
from tests.check_world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two steps that read text: one learns nothing else, the other has it among its rows and remembers it."""
    made = World(tmp_path)
    made.tree["data"]["notes"] = {"source": "text", "path": "notes.jsonl"}
    made.rows("notes", [{"text": f"Bed {n}: the fever is {n + 30}, and falls."} for n in range(6)])
    text: dict[str, Any] = {"init_from": "base", "batch_size": 4, "max_length": 64}
    made.tree["steps"] = [
        {"name": "domain", "stage": "continued_pretraining", "data_from": "notes", **text},
        {
            "name": "mix",
            "stage": "sft_mix",
            "data_from": "chains",
            "phases": [{"name": "p", "weights": {"math": 1}}],
            "pretraining": {"length": 32},
            "pretraining_from": "notes",
            "ewc": {},
            "remember_from": ["notes", "chains"],
            **text,
            "max_length": 256,
        },
    ]
    del made.tree["data"]["problems"]
    return made


def told(world: World) -> list[str]:
    return [f"{line.name}: {line.detail}" for line in world.check() if line.level is not Level.OK]


def test_sound_text_passes_every_check(world: World) -> None:
    lines = world.check()
    assert [line.detail for line in lines if line.level is not Level.OK] == []
    labels = next(line.detail for line in lines if line.name == "labels")
    assert labels.startswith("steps.mix: of row 'c0' the first")


def test_text_that_the_tokenizer_loses_is_named(world: World) -> None:
    world.rows("notes", [{"text": "fine"}, {"text": "lost: <|endoftext|> x"}])
    lines = told(world)
    assert any("its text changes in the tokenizer" in line and "'text/notes-1'" in line for line in lines), lines


def test_blocks_longer_than_the_model_are_named(world: World) -> None:
    world.step("domain", max_length=2048)
    world.step("mix", max_length=2048, pretraining={})
    lines = [line for line in told(world) if line.startswith("lengths")]
    said = "row 'a block of text' is longer than the 1024 positions of the model; set max_length to 1024"
    assert lines == [f"lengths: steps.domain: {said}", f"lengths: steps.mix: {said}"]
