"""Preference model: a sequence classifier trained on chosen/rejected pairs with TRL's RewardTrainer (Bradley-Terry).

DeepSeek-R1's helpfulness model scores the final answer only; so does this one: reasoning is cut off before a pair is
encoded, in training and when it pays a reward (rewards/preference.py uses the same function).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from data.artifact import Kind
from data.contract import model_contract
from data.records import Row, original_prompt, user_text
from stages.inputs import rows_of
from stages.stage import Context, Input, Inputs, Outcome, Stage
from stages.training.arguments import preference_preflight
from stages.training.classifier import ClassifierConfig, final_answer, logits, split_by_prompt, train_classifier
from stages.training.options import check_supervised

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PreferenceModelConfig(ClassifierConfig):
    """`preference_model` in a configuration. Any checkpoint will do as `init`: its head is replaced by a scalar."""

    learning_rate: float = Field(6e-6, gt=0)


def answer_ids(tokenizer: PreTrainedTokenizerBase, row: Row, text: str, convention: str) -> list[int]:
    """Token ids of the exchange that the reward will score: the last user message and the final answer."""
    from rewards.classifier import conversation, encode

    exchange = conversation(tokenizer, user_text(row), final_answer(text, convention))
    ids: list[int] = encode(tokenizer, exchange)["input_ids"]
    return ids


def run(config: PreferenceModelConfig, inputs: Inputs, out: Path, context: Context) -> Outcome:
    """Train a scalar head on `init` with the pairs of `data`.

    Raises ValueError where there are too few pairs to learn from and to hold some out.
    """
    began = time.monotonic()
    from trl import RewardConfig

    from stages.statistics import proportion
    from stages.training.models import load_scoring_tokenizer, save_trained
    from stages.training.trainers import PairTrainer

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
    train, test = split_by_prompt(pairs, lambda pair: repr(original_prompt(pair[0])), config.held_out, context.seed)
    if not train:
        raise ValueError(f"{len(pairs)} usable pairs are too few to train a preference model and hold some out")
    columns = {"chosen_ids": [chosen for _, chosen, _ in train], "rejected_ids": [rejected for *_, rejected in train]}
    trainer, ready = train_classifier(
        config,
        path,
        tokenizer,
        columns,
        context,
        counts,
        trainer=PairTrainer,
        arguments=RewardConfig,
        max_length=None,
    )
    trained = time.monotonic()
    right = _right(trainer.model, [(chosen, rejected) for _, chosen, rejected in test], tokenizer.pad_token_id)
    save_trained(trainer, tokenizer, out, context.work)
    return Outcome(
        contract=model_contract(out, context.convention),
        metrics={"pair_accuracy": proportion(right)},
        counts=counts | {"pairs_trained": len(train), "pairs_held_out": len(test)},
        timings={"loading": ready - began, "training": trained - ready, "evaluating": time.monotonic() - trained},
    )


def _right(model: Any, pairs: Sequence[tuple[list[int], list[int]]], pad: int) -> list[float]:
    """1.0 for each pair whose chosen side scores higher, 0.5 for a tie."""
    chosen, rejected = ([row[0] for row in logits(model, [pair[side] for pair in pairs], pad)] for side in (0, 1))
    return [1.0 if c > r else 0.5 if c == r else 0.0 for c, r in zip(chosen, rejected, strict=True)]


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
