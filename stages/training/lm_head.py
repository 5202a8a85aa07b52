"""Project through the language-model head only what is learned.

TRL's fused head scores the positions that have a label where it compiles kernels, and every position elsewhere, since
a count that changes with each batch would make a compiler start anew. On a CPU nothing is compiled: prompts and
padding, about half of a batch, would be projected onto the whole vocabulary for nothing. The gradient is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from trl.trainer import utils


@contextmanager
def labelled_positions_only() -> Iterator[None]:
    """Inside, TRL's fused head leaves positions without a label out on a CPU too."""
    compiles = utils._use_triton

    def leaves_out(device: torch.device) -> bool:
        return device.type == "cpu" or compiles(device)

    utils._use_triton = leaves_out
    try:
        yield
    finally:
        utils._use_triton = compiles
