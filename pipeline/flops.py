"""Arithmetic of a step.

A forward pass costs 2 FLOPs for each matrix parameter and token, and 4 for each query number and position attended to.
A backward pass costs twice that (Kaplan et al. 2020, arXiv 2001.08361, section 2.1), once where the weights are frozen.
"""

from __future__ import annotations

from pipeline.architecture import Architecture
from pipeline.setting import Setting
from pipeline.workload import Drawing, Training


def forward_flops(sizes: Architecture, length: float) -> float:
    """Per token, in a causal sequence of `length` tokens."""
    return 2.0 * sizes.matrices + 2.0 * sizes.layers * sizes.queries * length


def training_flops(work: Training, s: Setting) -> float:
    """Of all passes, recomputed ones included."""
    backward = 1 if s.adapters else 2
    count = 1 + backward + (1 if s.checkpointing else 0) + work.extra_forwards
    return work.tokens * (forward_flops(s.sizes, work.mean) + s.ahead * _module_flops(s.sizes, work.mean)) * count


def _module_flops(sizes: Architecture, length: float) -> float:
    """Per token, of a module of multi-token prediction: projection, layer, and the head once more."""
    matrices = sizes.layer_matrices + 2 * sizes.hidden**2 + sizes.embedding
    return 2.0 * matrices + 2.0 * sizes.queries * length


def sampling_flops(work: Drawing, sizes: Architecture) -> float:
    """Prompts are read once for each completion: at most, for groups share them."""
    return (work.tokens + work.sequences * work.prompt) * forward_flops(sizes, work.mean + work.prompt)
