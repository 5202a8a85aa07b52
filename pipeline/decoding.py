"""Samplers on paper: what they hold, how many sequences they decode side by side, how fast."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.architecture import Architecture
from pipeline.flops import forward_flops
from pipeline.hardware import GIB, Gpu
from pipeline.setting import Setting
from pipeline.workload import Drawing

REACHED_BANDWIDTH = 0.6
"""Share of the memory bandwidth that decoding reaches."""
REACHED_PEAK = 0.4
"""Share of the peak that decoding reaches where arithmetic bounds it."""
VLLM_SEQUENCES = 256
"""The most sequences that vLLM decodes at once unless told otherwise."""
VLLM_DISPATCH = 0.05
"""Share of Python's dispatch that is left where CUDA graphs replay a step."""
DRAW_COPIES = 5
"""Tensors (sequences x vocabulary, fp32) that drawing one token holds at once: logits, their softmax, its sums."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoder:
    """One sampler: a process of transformers, or the accelerators that share one vLLM."""

    sizes: Architecture
    engine: str
    accelerators: int
    weights: float
    """Bytes of the weights on all of them."""
    cache: float
    """Bytes of keys and values of one position."""
    at_once: float
    """Sequences that it decodes side by side."""

    def tokens_per_second(self, work: Drawing, gpu: Gpu, mixed: bool) -> float:
        """Each step reads all weights and the cache so far, or is bound by arithmetic, or by Python's dispatch."""
        length = work.prompt + work.mean / 2
        read = self.weights + self.at_once * length * self.cache
        moved = read / (gpu.bandwidth * REACHED_BANDWIDTH * self.accelerators)
        peak = gpu.half if mixed else gpu.single
        computed = self.at_once * forward_flops(self.sizes, length) / (peak * REACHED_PEAK * self.accelerators)
        dispatched = gpu.dispatch * self.sizes.layers * (1.0 if self.engine == "transformers" else VLLM_DISPATCH)
        return self.at_once / max(moved, computed, dispatched)

    def working(self, work: Drawing) -> float:
        """Bytes beside weights and cache that transformers needs for a moment."""
        cache = self.at_once * work.width * self.cache
        growing = cache / self.sizes.layers  # a layer that outgrows its buffer is there twice for a moment
        repeated = growing * self.sizes.heads / self.sizes.kv_heads  # padding needs a mask: a key for every head
        drawing = 4.0 * DRAW_COPIES * self.at_once * self.sizes.vocabulary
        return max(growing, repeated, drawing)


def cache_bytes(sizes: Architecture, both: float) -> float:
    """Keys and values of one position; `both` is what one number of each takes together."""
    return sizes.layers * sizes.keys * both


def vllm(sizes: Architecture, work: Drawing, gpu: Gpu) -> Decoder:
    """vLLM holds half weights and fills the rest of its share, in which the driver counts, with keys and values."""
    weights, cache = 2.0 * sizes.parameters, cache_bytes(sizes, 4)
    room = (work.share * gpu.memory - gpu.overhead) * GIB * work.shards - weights
    most = min(VLLM_SEQUENCES, work.call, room / (cache * (work.prompt + work.mean)))
    return Decoder(
        sizes=sizes, engine=work.engine, accelerators=work.shards, weights=weights, cache=cache, at_once=max(1.0, most)
    )


def transformers(sizes: Architecture, work: Drawing, stored_bytes: int, trainer: Setting | None) -> Decoder:
    """A process of transformers; inside a trainer its weights and its precision are the trainer's."""
    both, width, processes = 2 * stored_bytes, stored_bytes, 1
    if trainer is not None:
        # Rotary positions are added in fp32 under autocast, and leave the keys in it.
        both = {"fp32": 8, "autocast": 6, "half": 4}[trainer.precision]
        width, processes = trainer.width, trainer.processes
    at_once = min(max(1.0, work.call / processes), max(1, work.batch_tokens // work.width))
    return Decoder(
        sizes=sizes,
        engine=work.engine,
        accelerators=1,
        weights=float(width * sizes.parameters),
        cache=cache_bytes(sizes, both),
        at_once=at_once,
    )
