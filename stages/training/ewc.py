"""Elastic weight consolidation: what a step is told of an old task so as not to forget it.

Kirkpatrick et al. 2017, arXiv 1612.00796, equation 3: to the loss comes weight / 2 * sum_i F_i (theta_i - theta*_i)^2,
with theta* the weights that the step starts from and F the diagonal of the Fisher information there. The computing is
in anchor.py.
"""

from __future__ import annotations

import os
import random
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from data.records import is_text
from stages.inputs import check_together, rows_of
from stages.stage import Context, Inputs, Placement, StageConfig, unset
from stages.training.options import CompletionConfig, check_supervised

if TYPE_CHECKING:
    from stages.training.encode import Encoded

SHARDED = ("DEEPSPEED", "FSDP", "MEGATRON_LM")
"""Values of `distributed_type` in a file of `accelerate config` under which no process holds whole gradients."""
NO_SHARDING = "ewc needs whole gradients on each process: leave out {}, or ewc"


class EWC(StageConfig):
    """`ewc` of a step: weights that the old task depends on are held near their values, the more it does the more."""

    weight: float = Field(1000.0, gt=0)
    """Lambda. F is in squared nats per learned token, and small where the old task is fitted well."""
    rows: int = Field(256, ge=1)
    """The most sequences of `remember_from` that the Fisher information is estimated on, drawn by the seed."""


class RememberingConfig(CompletionConfig):
    """Base of the configurations of stages that can hold on to an old task."""

    ewc: EWC | None = Field(None, exclude_if=unset)
    """Elastic weight consolidation of what `remember_from` teaches; None lets every weight go where it will."""

    @model_validator(mode="after")
    def _whole_weights_change(self) -> Self:
        if self.ewc is not None and self.adapters is not None:
            raise ValueError("ewc holds the weights of the model, which adapters do not change; leave one of them out")
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class OldTask:
    """What the trainer is handed."""

    weight: float
    sequences: list[Encoded]


def check_remembering(config: RememberingConfig, wired: Collection[str], placement: Placement) -> None:
    """Stage.check: there is an old task where one is to be remembered, and gradients are whole and unscaled."""
    check_supervised(config, wired, placement)
    check_together("ewc", config.ewc is not None, "remember", wired)
    if config.ewc is None:
        return
    if placement.mixed_precision == "fp16":
        raise ValueError("ewc needs gradients that are not scaled: take launch.mixed_precision: bf16, or leave out ewc")
    for key in ("deepspeed", "accelerate_config"):
        if (file := placement.extra.get(key)) and (key == "deepspeed" or _shards(Path(file))):
            raise ValueError(NO_SHARDING.format(f"launch.{key} ({Path(file).stem})"))


def _shards(file: Path) -> bool:
    """Whether a file of `accelerate config` shares a model out; one that is not there is reported by its own check."""
    import yaml

    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(tree, dict) and tree.get("distributed_type") in SHARDED


def refuse_sharding(arguments: Any) -> None:
    """Raise ValueError where a trainer's `arguments` share its model out after all, by a key of `trl:` say."""
    for kind in ("deepspeed", "fsdp"):
        if getattr(arguments, kind) or os.environ.get(f"ACCELERATE_USE_{kind.upper()}") == "true":
            raise ValueError(NO_SHARDING.format(kind))


def old_task(config: RememberingConfig, inputs: Inputs, context: Context, counts: dict[str, int]) -> OldTask | None:
    """The sequences that `ewc` learns from: completions of `remember_from`, and its raw text in blocks.

    Raises ValueError where none of them can be used.
    """
    if config.ewc is None:
        return None
    from stages.training.pretraining import documents, pack
    from stages.training.sft import encode_pairs

    model = inputs["init"][0].path
    rows = list(rows_of(inputs["remember"]))
    asked = [row for row in rows if not is_text(row)]
    texts = [ids for _, ids in documents([row for row in rows if is_text(row)], model, context)]
    found = [item for _, item in encode_pairs(model, asked, config.max_length, context, {})]
    found += pack(texts, config.max_length, context.seed)
    if not found:
        raise ValueError(f"remember_from: none of {len(rows)} rows has a completion or fits {config.max_length} tokens")
    random.Random(f"{context.seed}/ewc").shuffle(found)
    kept = found[: config.ewc.rows]
    counts["sequences remembered"] = len(kept)
    return OldTask(weight=config.ewc.weight, sequences=kept)
