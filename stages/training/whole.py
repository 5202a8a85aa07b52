"""Whole parameters where ranks may share them out, one gathered at a time: read, written, copied onto one another.

Every rank calls each function with the same parameters, since gathering takes all of them. Plain data parallelism,
DeepSpeed ZeRO-3 and FSDP2 are told apart parameter by parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed
from torch.distributed.tensor import DTensor, distribute_tensor

Parameters = Mapping[str, Any]
"""Name to parameter."""


def whole_state(parameters: Parameters, *, keep: bool) -> dict[str, torch.Tensor]:
    """Copies of whole parameters on the CPU; none where this rank does not `keep` them."""
    state = {}
    for name, parameter in parameters.items():
        with _gathered([parameter]), torch.no_grad():
            whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
            if keep:
                state[name] = whole.detach().to("cpu", copy=True)
    return state


def restore(parameters: Parameters, state: Mapping[str, torch.Tensor] | None) -> None:
    """Inverse of `whole_state`; the `state` that counts is that of the first rank, and only there is one needed."""
    for name, parameter in parameters.items():
        with _gathered([parameter], writes=True), torch.no_grad():
            if _is_zero(parameter):  # what the first rank writes goes to the others
                if _first():
                    assert state is not None
                    parameter.copy_(state[name])
                continue
            whole = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
            if _first():
                assert state is not None
                whole.copy_(state[name])
            if distributed.is_initialized():
                distributed.broadcast(whole, 0)
            if isinstance(parameter, DTensor):
                whole = distribute_tensor(whole, parameter.device_mesh, parameter.placements)
            parameter.copy_(whole)


def copy_onto(sources: Parameters, targets: Parameters) -> None:
    """Give each of `targets` the value of the source of its name, shared out in the same way."""
    assert sources.keys() == targets.keys()
    for name, target in targets.items():
        with _gathered([sources[name], target], writes=True), torch.no_grad():
            if _first() or not _is_zero(target):
                target.copy_(sources[name])


@contextmanager
def _gathered(parameters: Iterable[Any], *, writes: bool = False) -> Iterator[None]:
    """Those that ZeRO-3 shares out are whole for a while; with `writes`, what the first rank makes of them stays."""
    shared = [parameter for parameter in parameters if _is_zero(parameter)]
    if not shared:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(shared, modifier_rank=0 if writes else None):
        yield


def _is_zero(parameter: Any) -> bool:
    return hasattr(parameter, "ds_id")


def _first() -> bool:
    return not distributed.is_initialized() or distributed.get_rank() == 0
