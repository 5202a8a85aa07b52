"""What the memory of a training step depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.architecture import Architecture
from pipeline.sharding import NOT_SHARDED, Sharding

Precision = Literal["fp32", "autocast", "half"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Everything that the memory of a training step depends on."""

    sizes: Architecture
    trainable: int
    """Numbers that learn: all, those not frozen, or the adapters."""
    adapters: int = 0
    """Numbers in adapters, which come on top of the model's own."""
    ahead: int = 0
    """Modules of multi-token prediction, which come on top too."""
    sharding: Sharding = NOT_SHARDED
    processes: int = 1
    mixed: bool = False
    """Whether launch.mixed_precision is bf16 or fp16."""
    checkpointing: bool = False
    sequences: int = 1
    """In one forward pass of one process."""
    length: int = 1024
    """Positions of the longest of them."""
    eager: bool = False
    """Attention that holds its whole matrix of probabilities."""
    head: bool = True
    """Language-model head; a preference model has a scalar instead."""
    reference: bool = False
    """Whether a second copy of what learns is kept as the KL reference."""
    reference_below: bool = False
    """Whether that copy is the whole model below adapters, which cannot be switched off."""
    whole: bool = False
    """Whether each process holds the whole model, since something about the step cannot be shared out."""
    recomputes: bool = True
    """Whether gradient checkpointing works with it."""
    anchored: bool = False
    """Whether elastic weight consolidation keeps the start of what learns, and its Fisher information."""
    scorer: int = 0
    """Numbers in a preference model that scores beside the training."""
    on_cpu: bool = False

    @property
    def precision(self) -> Precision:
        """What activations are computed in, and whether the weights are cast for it."""
        if not self.mixed:
            return "fp32"
        return "half" if self.sharding.engine in ("deepspeed", "fsdp") else "autocast"

    @property
    def masked(self) -> bool:
        """Whether there is padding, and with it a mask of positions x positions."""
        return self.sequences > 1

    @property
    def width(self) -> int:
        """Bytes of a number in a matrix product."""
        return 2 if self.mixed else 4

    @property
    def tokens(self) -> int:
        """Positions in one forward pass, padding included."""
        return self.sequences * self.length

    @property
    def weights(self) -> int:
        """Numbers in the model, adapters and modules included."""
        return self.sizes.parameters + self.adapters + self.ahead * module_numbers(self.sizes)


def module_numbers(sizes: Architecture) -> int:
    """Numbers in one module of multi-token prediction: a layer, a projection from twice its width, three norms."""
    return sizes.layer + 2 * sizes.hidden**2 + 3 * sizes.hidden
