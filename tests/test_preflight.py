"""The sandbox is tried before a run that may need it, and only then."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import rewards.sandbox
from pipeline.config import load
from pipeline.graph import build
from pipeline.plan import Plan
from pipeline.runner import Options, run
from tests.toy_project import project, toy_row
from tests.toy_stages import TOY

TESTS = {"kind": "function", "entry_point": "add", "asserts": ["assert add(1, 2) == 3"]}


def scoring(*specs: dict[str, Any]) -> dict[str, Any]:
    """The toy stages, of which toy_train scores with `specs`."""
    return {**TOY, "toy_train": replace(TOY["toy_train"], mix=lambda config, wired: specs)}


def rows(folder: Path, **extra: Any) -> Path:
    file = project(folder, sandbox="weak")
    (folder / "rows.jsonl").write_text("".join(json.dumps(toy_row(n) | extra) + "\n" for n in range(6)))
    return file


def go(file: Path, table: dict[str, Any], **options: Any) -> Plan:
    config = load(file)
    return run(config, build(config, table, file), file.parent / "run", Options(**options), say=lambda line: None)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Modes that were tried; a self-test of a sandbox that holds."""
    modes: list[str] = []

    def self_test(mode: str) -> list[tuple[str, bool, str]]:
        modes.append(mode)
        return [("starts", True, "")]

    monkeypatch.setattr(rewards.sandbox, "self_test", self_test)
    return modes


def test_tried_once_and_not_when_nothing_is_to_be_made(tmp_path: Path, tried: list[str]) -> None:
    file = rows(tmp_path, tests=TESTS)
    go(file, scoring({"name": "correctness"}, {"name": "format"}))
    assert tried == ["weak"]
    go(file, scoring({"name": "correctness"}))
    assert tried == ["weak"]
    go(file, scoring({"name": "correctness"}), only="rows", force=True)
    assert tried == ["weak"], "preparing data runs no programs"


def test_not_tried_without_tests_or_without_a_reward_that_runs_them(tmp_path: Path, tried: list[str]) -> None:
    go(rows(tmp_path / "a"), scoring({"name": "correctness"}))
    go(rows(tmp_path / "b", tests=None), scoring({"name": "program"}))
    go(rows(tmp_path / "c", tests=TESTS), scoring({"name": "accuracy"}))
    go(rows(tmp_path / "d", tests=TESTS), TOY)
    assert tried == []


def test_a_reward_may_choose_another_mode_than_the_run(tmp_path: Path, tried: list[str]) -> None:
    go(rows(tmp_path, tests=TESTS), scoring({"name": "program", "sandbox": "bubblewrap"}))
    assert tried == ["bubblewrap"]


def test_data_that_a_step_will_make_counts_by_what_it_is_made_of(tmp_path: Path, tried: list[str]) -> None:
    steps = [
        {"name": "keep", "stage": "toy_sample", "init_from": "base", "data_from": "rows"},
        {"name": "second", "stage": "toy_train", "init_from": "base", "data_from": "keep"},
    ]
    file = rows(tmp_path, tests=TESTS)
    text = project(tmp_path, sandbox="weak", steps=steps, evaluate=None).read_text()
    file = rows(tmp_path, tests=TESTS)
    file.write_text(text)
    go(file, scoring({"name": "correctness"}))
    assert tried == ["weak"]


def test_a_sandbox_that_does_not_hold_stops_the_run_before_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [("starts", True, ""), ("network refused", False, "DONE")]
    monkeypatch.setattr(rewards.sandbox, "self_test", lambda mode: lines)
    with pytest.raises(ValueError, match=r"^sandbox: weak does not hold here: network refused: DONE$"):
        go(rows(tmp_path, tests=TESTS), scoring({"name": "correctness"}))
    made = {path.name.rpartition("-")[0] for path in (tmp_path / "run" / "artifacts").glob("*")}
    assert made == {"rows", "held_out"}


def test_weak_says_what_it_leaves_open(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With the real self-test."""
    go(rows(tmp_path, tests=TESTS), scoring({"name": "correctness"}))
    assert "sandbox: weak: programs share this machine's process table" in caplog.text
