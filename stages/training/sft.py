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
from typing import TYPE_CHECKING, Any

from data.contract import model_contract
from data.records import Row
from data.template import CONVENTIONS
from stages.stage import Context, Metric, Outcome
from stages.training.early_stopping import evaluation_arguments
from stages.training.mtp import MTP, loss_name
from stages.training.options import CompletionConfig

if TYPE_CHECKING:
    from stages.training.encode import Encoded
    from stages.training.ewc import OldTask


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


def encode_pairs(
    model: Path,
    rows: Sequence[Row],
    max_length: int,
    context: Context,
    counts: dict[str, int],
    most: int | None = None,
) -> list[tuple[Row, Encoded]]:
    """The first `most` usable rows, each with its sequence by the tokenizer of `model`; what was used and what was not
    is added to `counts`.
    """
    from stages.training.encode import encode_rows
    from stages.training.models import load_tokenizer, visible_prefill

    tokenizer = load_tokenizer(model, context.prefill)
    prefill = visible_prefill(tokenizer, CONVENTIONS[context.convention].reasoning_open)
    encoded, found = encode_rows(rows, tokenizer, max_length, prefill, most)
    for reason, count in found.items():
        counts[reason] = counts.get(reason, 0) + count
    return encoded


def train_sft(
    config: CompletionConfig,
    ordered: Sequence[Encoded],
    model_path: Path,
    out: Path,
    context: Context,
    counts: dict[str, int],
    held: Sequence[Encoded] = (),
    old: OldTask | None = None,
) -> Outcome:
    """Learn the sequences in exactly this order, `batch_size` a step, and save the policy into `out`.

    `held` is what early stopping measures, `old` what elastic weight consolidation remembers. Raises ValueError where
    there is nothing to learn from, where no held-out loss was a number, and where `old` cannot be held on to.
    """
    began = time.monotonic()
    from trl import SFTConfig

    from stages.training.adapting import adapter, grow
    from stages.training.anchor import anchored
    from stages.training.arguments import trl_arguments
    from stages.training.groups import count_parameters, freeze
    from stages.training.models import load_policy, load_tokenizer, save_trained
    from stages.training.mtp_heads import attach, detach
    from stages.training.mtp_trainer import AheadTrainer
    from stages.training.patience import Patience
    from stages.training.resume import last_checkpoint
    from stages.training.trainers import SupervisedTrainer, callbacks

    if not ordered:
        raise ValueError("there is no row to train on; see the counts of unusable rows")
    steps = -(-len(ordered) // config.batch_size)
    tokenizer = load_tokenizer(model_path, context.prefill)
    checkpoint = last_checkpoint(context.work)
    measured: dict[str, Any] = {}
    stop: list[Any] = []
    if config.early_stopping is not None:
        measured = evaluation_arguments(config.early_stopping, steps)
        stop = [Patience(config.early_stopping.patience)]
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
        **measured,
    )
    model = load_policy(model_path, config)  # after the arguments: ZeRO-3 then shards the weights as it reads them
    freeze(model, config.freeze)
    grow(config.adapters, model, context.seed)
    anchor = anchored(model, arguments, old)  # before a checkpoint is resumed from: the start is `model_path`
    if config.mtp is not None:  # after what is frozen: the modules learn
        counts["mtp_parameters"] = attach(model, config.mtp, context.seed)
    trainer = (SupervisedTrainer if config.mtp is None else AheadTrainer)(
        model=model,
        args=arguments,
        train_dataset=_dataset(ordered),
        eval_dataset=_dataset(held) if held else None,
        processing_class=tokenizer,
        callbacks=[*callbacks(context), *stop],
        options=config,
        peft_config=adapter(config.adapters, model),
    )
    trainer.anchor = anchor
    counts |= count_parameters(trainer.model)
    ready = time.monotonic()
    trainer.train(resume_from_checkpoint=checkpoint)
    trained = time.monotonic()
    if held and trainer.state.best_global_step is None:
        raise ValueError("early_stopping: the held-out loss was never a number; lower learning_rate")
    if config.mtp is not None:
        detach(model)
    save_trained(trainer, tokenizer, out, context.work)
    learned = ordered[: trainer.state.global_step * config.batch_size]
    return Outcome(
        contract=model_contract(out, context.convention),
        metrics=loss_metrics(trainer.state, context, len(held), config.mtp),
        counts=counts | tallies(learned, trainer.state, len(held)),
        timings={"loading": ready - began, "training": trained - ready, "saving": time.monotonic() - trained},
    )


def _dataset(items: Sequence[Encoded]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [item.input_ids for item in items],
            "completion_mask": [item.completion_mask for item in items],
        }
    )


def tallies(learned: Sequence[Encoded], state: Any, held: int) -> dict[str, int]:
    """What was learned, in sequences, steps and tokens; with `held` sequences held out, the step that was kept."""
    counts = {
        "sequences": len(learned),
        "optimiser_steps": state.global_step,
        "tokens_learned": sum(sum(item.completion_mask) for item in learned),
        "tokens": sum(len(item.input_ids) for item in learned),
    }
    return counts | ({"held_out": held, "best_step": state.best_global_step} if held else {})


def loss_metrics(state: Any, context: Context, held: int, mtp: MTP | None = None) -> dict[str, Metric]:
    """Mean losses of the steps, and the lowest of what was held out."""
    from stages.training.progress import mean_of

    names = {"train_loss": "loss"}
    if mtp is not None:
        names |= {"main_loss": "main_loss"} | {f"mtp_loss_{k}": loss_name(k) for k in range(1, mtp.depth + 1)}
    # The trainer's own mean forgets what was learned before a kill; the history does not.
    history = context.work / "history.jsonl"
    found = {name: (mean_of(history, figure), state.global_step) for name, figure in names.items()}
    if held:
        found["held_out_loss"] = (state.best_metric, held)
    return {name: Metric(value=loss, n=n, low=loss, high=loss) for name, (loss, n) in found.items()}
