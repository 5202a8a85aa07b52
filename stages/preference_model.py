"""Preference model: a sequence classifier trained on chosen/rejected pairs with TRL's RewardTrainer (Bradley-Terry).

DeepSeek-R1's helpfulness model scores the final answer only; so does this one: reasoning is cut off before a pair is
encoded, in training and when it pays a reward (rewards/preference.py uses the same function).
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from data.artifact import Kind
from data.contract import model_contract
from data.records import Row, user_text
from data.template import CONVENTIONS
from stages.inputs import rows_of
from stages.stage import Context, Input, Inputs, Outcome, Stage
from stages.training.arguments import preference_preflight
from stages.training.options import SupervisedConfig, check_supervised

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PreferenceModelConfig(SupervisedConfig):
    """`preference_model` in a configuration. Any checkpoint will do as `init`: its head is replaced by a scalar."""

    learning_rate: float = Field(6e-6, gt=0)
    held_out: float = Field(0.1, gt=0, lt=1)
    """Share of the pairs that is kept back to measure how often the chosen answer scores higher."""


def split_pairs(rows: Sequence[Row], held_out: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(training, held out); pairs of one prompt never fall on both sides. At least one pair is held out."""
    origins = [repr(row.get("origin_prompt") or row["prompt"]) for row in rows]  # a copy stays with its original
    prompts = sorted(set(origins))
    random.Random(seed).shuffle(prompts)
    kept_back = set(prompts[: max(1, round(held_out * len(prompts)))])
    train = [row for row, origin in zip(rows, origins, strict=True) if origin not in kept_back]
    return train, [row for row, origin in zip(rows, origins, strict=True) if origin in kept_back]


def answer_ids(tokenizer: PreTrainedTokenizerBase, row: Row, text: str, convention: str) -> list[int]:
    """Token ids of the exchange that the reward will score: the last user message and the final answer."""
    from rewards.preference import conversation

    parsed = CONVENTIONS[convention].parse(text)
    answer = text if parsed.reasoning is None or parsed.answer is None else parsed.answer
    text = conversation(tokenizer, user_text(row), answer)
    return tokenizer(text, add_special_tokens=tokenizer.chat_template is None)["input_ids"]


def run(config: PreferenceModelConfig, inputs: Inputs, out: Path, context: Context) -> Outcome:
    """Train a scalar head on `init` with the pairs of `data`.

    Raises ValueError where there are too few pairs to learn from and to hold some out.
    """
    began = time.monotonic()
    from datasets import Dataset
    from trl import RewardConfig

    from stages.statistics import proportion
    from stages.training.arguments import trl_arguments
    from stages.training.groups import freeze
    from stages.training.models import adapter, load_classifier, load_scoring_tokenizer, save_trained
    from stages.training.resume import last_checkpoint
    from stages.training.sft import repeat_order
    from stages.training.trainers import PairTrainer, callbacks

    path = inputs["init"][0].path
    tokenizer = load_scoring_tokenizer(path)
    counts: dict[str, int] = {"rows_used": 0}
    pairs: list[tuple[Row, list[int], list[int]]] = []
    for row in rows_of(inputs["data"]):
        if not (row.get("chosen") and row.get("rejected")):
            counts["unusable: no pair"] = counts.get("unusable: no pair", 0) + 1
            continue
        sides = [
            answer_ids(tokenizer, row, row[side][-1]["content"], context.convention) for side in ("chosen", "rejected")
        ]
        if max(map(len, sides)) > config.max_length:
            reason = f"unusable: longer than {config.max_length} tokens"
            counts[reason] = counts.get(reason, 0) + 1
            continue
        counts["rows_used"] += 1
        pairs.append((row, sides[0], sides[1]))
    ids = {id(row): (chosen, rejected) for row, chosen, rejected in pairs}
    train, test = split_pairs([row for row, *_ in pairs], config.held_out, context.seed)
    if not train:
        raise ValueError(f"{len(pairs)} usable pairs are too few to train a preference model and hold some out")
    order = repeat_order(len(train), config.epochs, context.seed)
    steps = -(-len(order) // config.batch_size)
    model = load_classifier(path, config, tokenizer, context.seed)
    counts["parameters_frozen"] = freeze(model, config.freeze)
    trainer = PairTrainer(
        model=model,
        args=trl_arguments(
            RewardConfig,
            config,
            context,
            steps=steps,
            batch_size=config.batch_size,
            max_length=None,
            train_sampling_strategy="sequential",
        ),
        train_dataset=Dataset.from_dict(
            {
                "chosen_ids": [ids[id(train[i])][0] for i in order],
                "rejected_ids": [ids[id(train[i])][1] for i in order],
            }
        ),
        processing_class=tokenizer,
        callbacks=callbacks(context),
        options=config,
        peft_config=adapter(config.lora, task="SEQ_CLS"),
    )
    ready = time.monotonic()
    trainer.train(resume_from_checkpoint=last_checkpoint(context.work))
    trained = time.monotonic()
    right = _right(trainer.model, [ids[id(row)] for row in test], tokenizer.pad_token_id)
    save_trained(trainer, tokenizer, out, context.work)
    return Outcome(
        contract=model_contract(out, context.convention),
        metrics={"pair_accuracy": proportion(right)},
        counts=counts | {"pairs_trained": len(train), "pairs_held_out": len(test), "optimiser_steps": steps},
        timings={"loading": ready - began, "training": trained - ready, "evaluating": time.monotonic() - trained},
    )


def _right(model: Any, pairs: Sequence[tuple[list[int], list[int]]], pad: int) -> list[float]:
    """1.0 for each pair whose chosen side scores higher, 0.5 for a tie."""
    import torch

    def scores(side: int) -> list[float]:
        made: list[float] = []
        for start in range(0, len(pairs), 64):
            rows = [pair[side] for pair in pairs[start : start + 64]]
            width = max(map(len, rows))
            ids_BT = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=model.device)
            mask_BT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
            made += model(input_ids=ids_BT, attention_mask=mask_BT).logits[:, 0].tolist()
        return made

    model.eval()
    with torch.inference_mode():
        return [
            1.0 if chosen > rejected else 0.5 if chosen == rejected else 0.0
            for chosen, rejected in zip(scores(0), scores(1), strict=True)
        ]


PREFERENCE_MODEL = Stage(
    name="preference_model",
    version=1,
    summary="helper: a sequence classifier trained on chosen/rejected pairs",
    config=PreferenceModelConfig,
    needs={"init": Input(kind=Kind.MODEL), "data": Input(kind=Kind.DATASET, many=True)},
    makes=Kind.MODEL,
    run=run,
    check=check_supervised,
    preflight=preference_preflight,
    generative=False,
)
