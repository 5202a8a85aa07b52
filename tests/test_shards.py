"""Shards are made once: by the first rank, and never again."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from stages.rollout import shards
from stages.rollout.shards import finished, resume_shards


def test_what_is_there_is_read_and_the_rest_is_made(tmp_path: Path) -> None:
    made: list[int] = []

    def make(shard: int) -> list[dict[str, Any]]:
        made.append(shard)
        return [{"shard": shard}]

    assert list(resume_shards(tmp_path, 2, make)) == [[{"shard": 0}], [{"shard": 1}]]
    assert list(resume_shards(tmp_path, 3, make)) == [[{"shard": 0}], [{"shard": 1}], [{"shard": 2}]]
    assert made == [0, 1, 2]


def test_other_ranks_wait_for_what_the_first_one_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "WAIT_SECONDS", 0.01)
    monkeypatch.setenv("RANK", "1")
    seen: list[Any] = []

    def never(shard: int) -> list[dict[str, Any]]:
        raise AssertionError("this rank was to wait")

    other = threading.Thread(target=lambda: seen.extend(resume_shards(tmp_path, 2, never)))
    other.start()
    other.join(0.1)
    assert other.is_alive()
    monkeypatch.setenv("RANK", "0")
    list(resume_shards(tmp_path, 2, lambda shard: [{"shard": shard}]))
    other.join(10)
    assert seen == [[{"shard": 0}], [{"shard": 1}]]
    assert finished(tmp_path, 1)
