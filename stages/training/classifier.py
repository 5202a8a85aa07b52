"""What the stages that train a sequence classifier share: the split, the training, the logits of what is held out."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field

from data.template import CONVENTIONS
from stages.stage import Context
from stages.training.options import SupervisedConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Item = TypeVar("Item")


class ClassifierConfig(SupervisedConfig):
    """Base of the configurations of stages that train a classifier."""

    held_out: float = Field(0.1, gt=0, lt=1)
    """Share of the prompts whose rows are kept back to measure the figures."""


def split_by_prompt(
    items: Sequence[Item], prompt: Callable[[Item], str], held_out: float, seed: int
) -> tuple[list[Item], list[Item]]:
    """(training, held out); items of one prompt never fall on both sides. At least one prompt's are held out."""
    prompts = sorted({prompt(item) for item in items})
    random.Random(seed).shuffle(prompts)
    kept_back = set(prompts[: max(1, round(held_out * len(prompts)))])
    train = [item for item in items if prompt(item) not in kept_back]
    return train, [item for item in items if prompt(item) in kept_back]


def final_answer(text: str, convention: str) -> str:
    """What the reader is shown of a completion: its answer, or all of it where it is not laid out."""
    parsed = CONVENTIONS[convention].parse(text)
    return text if parsed.reasoning is None or parsed.answer is None else parsed.answer


def train_classifier(
    config: SupervisedConfig,
    model: Path,
    tokenizer: PreTrainedTokenizerBase,
    columns: Mapping[str, Sequence[Any]],
    context: Context,
    counts: dict[str, int],
    *,
    trainer: type[Any],
    arguments: type[Any],
    labels: Sequence[str] = (),
    **own: Any,
) -> tuple[Any, float]:
    """(`trainer` that has learned `columns`, monotonic time at which it began to).

    `columns` has one value an example; the examples are shuffled anew for each epoch. `arguments` is the trainer's own
    class of arguments, and `own` what it gets beside ours. `labels` names the classes; without any, the head is one
    score. What was done is added to `counts`.
    """
    from datasets import Dataset

    from stages.training.adapting import adapter
    from stages.training.arguments import trl_arguments
    from stages.training.groups import count_parameters, freeze
    from stages.training.models import load_classifier
    from stages.training.resume import last_checkpoint
    from stages.training.sft import repeat_order
    from stages.training.trainers import callbacks

    order = repeat_order(len(next(iter(columns.values()))), config.epochs, context.seed)
    steps = -(-len(order) // config.batch_size)
    classifier = load_classifier(model, config, tokenizer, context.seed, labels)
    freeze(classifier, config.freeze)
    counts["optimiser_steps"] = steps
    made = trainer(
        model=classifier,
        args=trl_arguments(
            arguments,
            config,
            context,
            steps=steps,
            batch_size=config.batch_size,
            train_sampling_strategy="sequential",
            **own,
        ),
        train_dataset=Dataset.from_dict({name: [values[i] for i in order] for name, values in columns.items()}),
        processing_class=tokenizer,
        callbacks=callbacks(context),
        options=config,
        peft_config=adapter(config.adapters, classifier, task="SEQ_CLS"),
    )
    counts |= count_parameters(made.model)
    ready = time.monotonic()
    made.train(resume_from_checkpoint=last_checkpoint(context.work))
    return made, ready


def logits(model: Any, sequences: Sequence[Sequence[int]], pad: int) -> Iterator[list[float]]:
    """The logits of each sequence of token ids, one number a label; 64 sequences in a pass."""
    import torch

    model.eval()
    with torch.inference_mode():
        for start in range(0, len(sequences), 64):
            rows = [list(ids) for ids in sequences[start : start + 64]]
            width = max(map(len, rows))
            ids_BT = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=model.device)
            mask_BT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
            yield from model(input_ids=ids_BT, attention_mask=mask_BT).logits.tolist()
