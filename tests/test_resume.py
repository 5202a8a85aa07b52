"""Which trainer checkpoint a step goes on from."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.training.resume import COMPLETE, last_checkpoint, sharding

TOLD = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DEEPSPEED_ZERO_STAGE", "ACCELERATE_USE_FSDP", "WORLD_SIZE", "RANK")
ZERO3 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TOLD:
        monkeypatch.delenv(name, raising=False)


def tell(monkeypatch: pytest.MonkeyPatch, **told: str) -> None:
    for name in TOLD:
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)


def checkpoint(work: Path, step: int, mark: str | None) -> Path:
    folder = work / "trainer" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    if mark is not None:
        (folder / COMPLETE).write_text(mark)
    return folder


def test_only_the_first_rank_removes_what_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, half = checkpoint(tmp_path, 2, ""), checkpoint(tmp_path, 4, None)
    tell(monkeypatch, RANK="1", WORLD_SIZE="2")
    assert last_checkpoint(tmp_path) == str(whole)
    assert half.exists()
    tell(monkeypatch, RANK="0", WORLD_SIZE="2")
    assert last_checkpoint(tmp_path) == str(whole)
    assert not half.exists()


def test_how_ranks_share_the_optimiser(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sharding() == ""
    tell(monkeypatch, WORLD_SIZE="4")
    assert sharding() == "", "plain data parallelism"
    tell(monkeypatch, WORLD_SIZE="4", **ZERO3)
    assert sharding() == "DeepSpeed ZeRO-3 on 4 ranks"
    tell(monkeypatch, ACCELERATE_USE_DEEPSPEED="true")
    assert sharding() == "DeepSpeed on 1 ranks"
    tell(monkeypatch, ACCELERATE_USE_FSDP="true", WORLD_SIZE="2")
    assert sharding() == "FSDP on 2 ranks"


@pytest.mark.parametrize(
    ("mark", "now", "told"),
    [
        ("DeepSpeed ZeRO-3 on 2 ranks", {}, "begun with DeepSpeed ZeRO-3 on 2 ranks, and now has an unsharded one"),
        (
            "",
            {"WORLD_SIZE": "2", **ZERO3},
            "with an unsharded optimiser, and now has DeepSpeed ZeRO-3 on 2 ranks",
        ),
        ("DeepSpeed ZeRO-3 on 2 ranks", {"WORLD_SIZE": "4", **ZERO3}, "and now has DeepSpeed ZeRO-3 on 4 ranks"),
    ],
)
def test_shards_of_another_launch_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str, now: dict[str, str], told: str
) -> None:
    checkpoint(tmp_path, 2, mark)
    tell(monkeypatch, **now)
    with pytest.raises(ValueError) as caught:
        last_checkpoint(tmp_path)
    assert told in str(caught.value)
    assert f"or delete {tmp_path} and begin it anew" in str(caught.value)


def test_the_same_launch_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = checkpoint(tmp_path, 2, "FSDP on 2 ranks")
    tell(monkeypatch, ACCELERATE_USE_FSDP="true", WORLD_SIZE="2")
    assert last_checkpoint(tmp_path) == str(found)
