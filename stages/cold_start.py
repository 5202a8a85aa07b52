"""Cold start: supervised fine-tuning on a few thousand reviewed long chains in the output convention.

DeepSeek-R1 (arXiv 2501.12948v2) trains 2 to 3 epochs at a cosine-decayed 5e-5. The loss is on the completion only,
and its last label is EOS.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from data.artifact import Kind
from data.template import CONVENTIONS
from stages.inputs import rows_of
from stages.stage import Context, Input, Inputs, Outcome, Stage
from stages.training.arguments import supervised_preflight
from stages.training.early_stopping import hold_out
from stages.training.options import CompletionConfig, check_supervised


class ColdStartConfig(CompletionConfig):
    """`cold_start` in a configuration."""

    learning_rate: float = Field(5e-5, gt=0)
    epochs: float = Field(2.0, gt=0)
    rows: int | None = Field(None, ge=1)
    """Learn from the first so many usable rows; None takes all."""
    well_formed_only: bool = True
    """Leave out chains that do not follow the convention: they would teach its opposite."""


def run(config: ColdStartConfig, inputs: Inputs, out: Path, context: Context) -> Outcome:
    """Fine-tune `init` on the chains of `data`."""
    from stages.training.sft import encode_pairs, repeat, train_sft

    convention = CONVENTIONS[context.convention]
    counts: dict[str, int] = {}
    rows = []
    for row in rows_of(inputs["data"]):
        completion = row.get("completion")
        if config.well_formed_only and completion and not convention.parse(completion[-1]["content"]).well_formed:
            reason = f"unusable: not in the convention {convention.name}"
            counts[reason] = counts.get(reason, 0) + 1
        else:
            rows.append(row)
    model = inputs["init"][0].path
    pairs = encode_pairs(model, rows, config.max_length, context, counts, most=config.rows)
    pairs, held = hold_out(pairs, config.early_stopping, context.seed)
    sequence = repeat([item for _, item in pairs], config.epochs, config.batch_size, context.seed)
    return train_sft(config, sequence, model, out, context, counts, held)


COLD_START = Stage(
    name="cold_start",
    version=1,
    summary="SFT on reviewed long chains in the output convention",
    config=ColdStartConfig,
    needs={"init": Input(kind=Kind.MODEL), "data": Input(kind=Kind.DATASET, many=True)},
    makes=Kind.MODEL,
    run=run,
    check=check_supervised,
    preflight=supervised_preflight,
)
