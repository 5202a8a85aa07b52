"""Multi-token prediction: how many tokens further ahead supervised training predicts, and what it cannot go with.

The modules are those of DeepSeek-V3 (arXiv 2412.19437, section 2.2), after Gloeckle et al. 2024 (arXiv 2404.19737).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from stages.stage import Placement, StageConfig

CONTRARY = frozenset(
    {
        "packing",
        "padding_free",
        "loss_type",
        "label_smoothing_factor",
        "average_tokens_across_devices",
        "use_liger_kernel",
        "activation_offloading",
        "torch_compile",
    }
)
"""Arguments of TRL's under which a token ahead would belong to another row, or the losses would not add up."""

SHARDING = ("accelerate_config", "deepspeed")
"""Files of a placement that may share the model out."""


class MTP(StageConfig):
    """`mtp` of a step that learns completions."""

    depth: int = Field(1, ge=1, le=16)
    """Modules; the k-th predicts the token k places behind the next one. DeepSeek-V3: 1."""
    weight: float = Field(0.1, ge=0)
    """Weight of the mean of their losses, beside that of the next token (equation 25). DeepSeek-V3: 0.3, then 0.1."""


def loss_name(k: int) -> str:
    """Figure of module k in history.jsonl."""
    return f"mtp/loss_{k}"


def refuse_adapters(mtp: MTP | None, adapters: object) -> None:
    """Raise ValueError for modules next to adapters: what would learn beside them is a whole layer each."""
    if mtp is not None and adapters is not None:
        raise ValueError("mtp trains whole layers beside the model, and goes with full fine-tuning; leave adapters out")


def refuse_sharding(mtp: MTP | None, placement: Placement) -> None:
    """Raise ValueError where the model may be shared out: every process holds the modules whole."""
    if mtp is not None and (files := [key for key in SHARDING if key in placement.extra]):
        raise ValueError(
            f"mtp takes processes that each hold the model; leave launch.{files[0]} (and launch.zero) out, or mtp"
        )


def refuse_contrary(mtp: MTP | None, trl: Mapping[str, Any]) -> None:
    """Raise ValueError for an argument of TRL's that changes what the losses are sums of."""
    if mtp is not None and (contrary := sorted(CONTRARY.intersection(trl))):
        raise ValueError(f"trl.{contrary[0]} contradicts mtp; leave one of them out")
