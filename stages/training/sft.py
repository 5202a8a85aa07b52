"""Supervised fine-tuning on an exact sequence of rows: TRL's SFTTrainer, fed with ids and a completion mask.

The order of the data is decided here and not by the trainer: what comes in is what is learned, phase after phase,
so that a resumed run sees the same batches as an unbroken one.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.contract import model_contract
from data.records import Row
from data.template import CONVENTIONS
from stages.stage import Context, Metric, Outcome
from stages.training.options import SupervisedConfig

if TYPE_CHECKING:
    from stages.training.encode import Encoded


def in_batches(items: Sequence[Encoded], batch_size: int, seed: int) -> list[Encoded]:
    """Shuffle, then gather sequences of like length into batches, in an order that is random again.

    Only whole windows of 32 batches are sorted, so that the length of a batch tells little about when it comes.
    """
    order = random.Random(seed)
    shuffled = list(items)
    order.shuffle(shuffled)
    batches: list[list[Encoded]] = []
    window = 32 * batch_size
    for start in range(0, len(shuffled), window):
        part = sorted(shuffled[start : start + window], key=lambda item: len(item.input_ids))
        cut = [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        order.shuffle(cut)
        batches += cut
    batches.sort(key=lambda batch: len(batch) < batch_size)  # a short batch comes last: every step but one is full
    return [item for batch in batches for item in batch]


def repeat(items: Sequence[Encoded], epochs: float, batch_size: int, seed: int) -> list[Encoded]:
    """The items `epochs` times, shuffled anew for each; a fraction of an epoch takes that share of them."""
    sequence: list[Encoded] = []
    for epoch in range(math.ceil(epochs)):
        share = min(1.0, epochs - epoch)
        part = in_batches(items, batch_size, seed * 1009 + epoch)
        sequence += part[: round(share * len(part))]
    return sequence


def repeat_order(count: int, epochs: float, seed: int) -> list[int]:
    """Indices of `count` items, shuffled anew for each epoch."""
    order: list[int] = []
    for epoch in range(math.ceil(epochs)):
        part = list(range(count))
        random.Random(seed * 1009 + epoch).shuffle(part)
        order += part[: round(min(1.0, epochs - epoch) * count)]
    return order


def encode_for(
    model: Path,
    rows: Sequence[Row],
    max_length: int,
    context: Context,
    counts: dict[str, int],
    most: int | None = None,
) -> list[Encoded]:
    """Encode the first `most` usable rows with the tokenizer of `model`, adding to `counts` what was used and what
    was not.
    """
    return [item for _, item in encode_pairs(model, rows, max_length, context, counts, most)]


def encode_pairs(
    model: Path,
    rows: Sequence[Row],
    max_length: int,
    context: Context,
    counts: dict[str, int],
    most: int | None = None,
) -> list[tuple[Row, Encoded]]:
    """Like `encode_for`, with the row of each sequence."""
    from stages.training.encode import encode_rows
    from stages.training.models import load_tokenizer, visible_prefill

    tokenizer = load_tokenizer(model, context.prefill)
    prefill = visible_prefill(tokenizer, CONVENTIONS[context.convention].reasoning_open)
    encoded, found = encode_rows(rows, tokenizer, max_length, prefill, most)
    for reason, count in found.items():
        counts[reason] = counts.get(reason, 0) + count
    return encoded


def train_sft(
    config: SupervisedConfig,
    ordered: Sequence[Encoded],
    model_path: Path,
    out: Path,
    context: Context,
    counts: dict[str, int],
) -> Outcome:
    """Learn the sequences in exactly this order, `batch_size` a step, and save the policy into `out`.

    Raises ValueError where there is nothing to learn from.
    """
    began = time.monotonic()
    from datasets import Dataset
    from trl import SFTConfig

    from stages.training.arguments import trl_arguments
    from stages.training.groups import freeze
    from stages.training.models import adapter, load_policy, load_tokenizer, save_trained
    from stages.training.progress import mean_of
    from stages.training.resume import last_checkpoint
    from stages.training.trainers import SupervisedTrainer, callbacks

    if not ordered:
        raise ValueError("there is no row to train on; see the counts of unusable rows")
    steps = -(-len(ordered) // config.batch_size)
    tokenizer = load_tokenizer(model_path, context.prefill)
    arguments = trl_arguments(
        SFTConfig,
        config,
        context,
        steps=steps,
        batch_size=config.batch_size,
        max_length=None,
        packing=False,
        completion_only_loss=True,
        train_sampling_strategy="sequential",
        dataset_num_proc=None,
    )
    model = load_policy(model_path, config)  # after the arguments: ZeRO-3 then shards the weights as it reads them
    counts["parameters_frozen"] = freeze(model, config.freeze)
    rows = {
        "input_ids": [item.input_ids for item in ordered],
        "completion_mask": [item.completion_mask for item in ordered],
    }
    trainer = SupervisedTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(rows),
        processing_class=tokenizer,
        callbacks=callbacks(context),
        options=config,
        peft_config=adapter(config.lora),
    )
    ready = time.monotonic()
    trainer.train(resume_from_checkpoint=last_checkpoint(context.work))
    trained = time.monotonic()
    save_trained(trainer, tokenizer, out, context.work)
    counts |= {
        "sequences": len(ordered),
        "optimiser_steps": steps,
        "tokens_learned": sum(sum(item.completion_mask) for item in ordered),
        "tokens": sum(len(item.input_ids) for item in ordered),
    }
    # The trainer's own mean forgets what was learned before a kill; the history does not.
    loss = mean_of(context.work / "history.jsonl", "loss")
    return Outcome(
        contract=model_contract(out, context.convention),
        metrics={"train_loss": Metric(value=loss, n=steps, low=loss, high=loss)},
        counts=counts,
        timings={"loading": ready - began, "training": trained - ready, "saving": time.monotonic() - trained},
    )
