"""Continued pre-training: the language-model objective on raw text of a domain, before fine-tuning on its tasks.

Gururangan et al. 2020, "Don't stop pretraining" (arXiv 2004.10964), section 3. Documents are joined by EOS and cut
into blocks; every token is learned. What it makes has the tokenizer and the chat template that it started with.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

from pydantic import Field

from data.artifact import Kind
from stages.inputs import rows_of
from stages.stage import Context, Input, Inputs, Outcome, Stage
from stages.training.arguments import supervised_preflight
from stages.training.early_stopping import hold_out
from stages.training.encode import Encoded
from stages.training.ewc import RememberingConfig, check_remembering, old_task
from stages.training.pretraining import documents, pack


class ContinuedPretrainingConfig(RememberingConfig):
    """`continued_pretraining` in a configuration. `max_length` is the size of a block; no document is too long."""

    learning_rate: float = Field(1e-5, gt=0)
    rows: int | None = Field(None, ge=1)
    """Learn from the first so many documents; None takes all."""


def run(config: ContinuedPretrainingConfig, inputs: Inputs, out: Path, context: Context) -> Outcome:
    """Train `init` on the documents of `data`.

    Raises ValueError where early stopping has but one text.
    """
    from stages.training.sft import repeat, train_sft

    model = inputs["init"][0].path
    found = documents(list(islice(rows_of(inputs["data"]), config.rows)), model, context)
    counts = {"documents": len(found)}
    if config.early_stopping is not None and len({row["text"] for row, _ in found}) < 2:
        raise ValueError("early_stopping: one text is too few to train and to hold some out")
    # Whole documents are held out, and two of the same text together.
    pairs = [({"prompt": row["text"]}, Encoded(ids, [1] * len(ids))) for row, ids in found]
    pairs, held = hold_out(pairs, config.early_stopping, context.seed)
    blocks = pack([item.input_ids for _, item in pairs], config.max_length, context.seed)
    counts["blocks"] = len(blocks)
    sequence = repeat(blocks, config.epochs, config.batch_size, context.seed)
    measured = pack([item.input_ids for item in held], config.max_length, context.seed)
    old = old_task(config, inputs, context, counts)
    outcome = train_sft(config, sequence, model, out, context, counts, measured, old)
    # Text teaches no layout of answers: the convention stays what it was.
    kept = replace(outcome.contract, convention=inputs["init"][0].contract.convention)
    return replace(outcome, contract=kept)


CONTINUED_PRETRAINING = Stage(
    name="continued_pretraining",
    version=1,
    summary="the language-model objective on raw text of a domain",
    config=ContinuedPretrainingConfig,
    needs={
        "init": Input(kind=Kind.MODEL),
        "data": Input(kind=Kind.DATASET, many=True, texts="only"),
        "remember": Input(kind=Kind.DATASET, many=True, optional=True, texts="also"),
    },
    makes=Kind.MODEL,
    run=run,
    check=check_remembering,
    preflight=supervised_preflight,
)
