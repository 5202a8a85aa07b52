"""A rank leaves its process group when it has done its part, and not where it fails."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from data.artifact import Artifact, Kind
from pipeline import worker
from stages.stage import Context
from tests.toy_stages import TOY, TrainConfig


def meet(config: TrainConfig, inputs: Any, out: Path, context: Context) -> Any:
    """A stage that makes a process group, as accelerate does, and works in it or fails."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    dist.barrier()
    return TOY["toy_judge"].run(config, inputs, out, context)


def perform(folder: Path, monkeypatch: pytest.MonkeyPatch, **keys: Any) -> int:
    """The exit code of a worker that runs `meet`."""
    init = folder / "init"
    for path in (init, folder / "work", folder / "out"):
        path.mkdir(parents=True)
    config = TrainConfig(steps=1, **keys)
    context = Context(seed=1, convention="none", work=folder / "work", name="toy")
    inputs = {"init": [Artifact(kind=Kind.MODEL, path=init, fingerprint="f", name="init")], "data": []}
    stage = replace(TOY["toy_judge"], run=meet)
    request = worker.request_json(stage, config, inputs, folder / "out", context)
    (folder / "request.json").write_text(json.dumps(request))
    monkeypatch.setattr(worker, "die_with_parent", lambda: None)
    return worker.main(folder / "request.json")


def test_a_rank_leaves_its_group_when_it_has_done_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert perform(tmp_path, monkeypatch) == 0
    assert not dist.is_initialized()


def test_a_rank_that_fails_does_not_wait_for_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert perform(tmp_path, monkeypatch, fail="bug") == 1
    try:
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()
