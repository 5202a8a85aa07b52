"""What accelerators can do, from their makers' data sheets: dense arithmetic, without sparsity."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.messages import nearest

GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One accelerator."""

    name: str
    memory: float
    """GiB."""
    half: float
    """FLOP/s of dense matrix products in bf16."""
    single: float
    """FLOP/s in fp32."""
    bandwidth: float
    """Bytes per second between memory and processor."""
    overhead: float = 1.5
    """GiB that the driver, cuBLAS and NCCL take before the first tensor."""
    dispatch: float = 0.5e-3
    """Seconds that Python takes for one layer of one decoding step, whatever its size."""


def _gpu(name: str, memory: float, half: float, single: float, bandwidth: float) -> Gpu:
    return Gpu(name=name, memory=memory, half=half * 1e12, single=single * 1e12, bandwidth=bandwidth * 1e12)


GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("a100-40gb", 40, 312, 19.5, 1.555),
        _gpu("a100", 80, 312, 19.5, 2.039),
        _gpu("h100", 80, 989, 67, 3.35),
        _gpu("h20", 96, 148, 44, 4.0),
        _gpu("h200", 141, 989, 67, 4.8),
        _gpu("b200", 180, 2250, 80, 8.0),
        _gpu("l40s", 48, 362, 91.6, 0.864),
        _gpu("rtx4090", 24, 165, 82.6, 1.008),
        Gpu(name="cpu", memory=16, half=5e10, single=5e10, bandwidth=2e10, overhead=0.5, dispatch=0.2e-3),
    )
}
"""By the name that `--gpu` takes. `cpu` is one process on about two cores."""


def gpu_named(name: str, memory: float | None = None) -> Gpu:
    """The accelerator `name`, with `memory` GiB instead of its own if that is given. Raises ValueError."""
    if name not in GPUS:
        raise ValueError(f"--gpu: unknown accelerator {name!r}{nearest(name, GPUS)}")
    if memory is None:
        return GPUS[name]
    if memory <= 0:
        raise ValueError(f"--gpu-memory: expected GiB above 0, got {memory:g}")
    return replace(GPUS[name], memory=memory)
