"""What shares a model out is what `launch` asked for, or the step ends in one line."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from stages.training.arguments import shard_on_cpus
from stages.training.sharding import check_sharding

ASKED = {"FSDP": "ACCELERATE_USE_FSDP", "DEEPSPEED": "ACCELERATE_USE_DEEPSPEED"}


@pytest.fixture(autouse=True)
def _two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ASKED.values():
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")


def accelerator(kind: DistributedType) -> SimpleNamespace:
    return SimpleNamespace(distributed_type=kind, device=torch.device("cpu"))


@pytest.mark.parametrize("kind", ASKED)
def test_copies_in_place_of_shards_are_refused(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    check_sharding(accelerator(DistributedType.MULTI_CPU))
    monkeypatch.setenv(ASKED[kind], "true")
    check_sharding(accelerator(DistributedType(kind)))
    with pytest.raises(ValueError) as caught:
        check_sharding(accelerator(DistributedType.MULTI_CPU))
    assert str(caught.value) == (
        f"launch asks for {kind}, and accelerate would train with MULTI_CPU on cpu: take another accelerate_config"
    )
    monkeypatch.setenv("WORLD_SIZE", "1")
    check_sharding(accelerator(DistributedType.NO))


def test_ranks_on_cpus_may_share_a_model_out_with_fsdp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def kind_of(kind: DistributedType) -> DistributedType:
        arguments = SimpleNamespace(distributed_state=SimpleNamespace(distributed_type=kind))
        shard_on_cpus(arguments)
        return arguments.distributed_state.distributed_type

    assert kind_of(DistributedType.MULTI_CPU) is DistributedType.MULTI_CPU, "nobody asked for it"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert kind_of(DistributedType.MULTI_CPU) is DistributedType.MULTI_GPU, "accelerate makes FSDP of it"
    assert kind_of(DistributedType.NO) is DistributedType.NO, "one process"
