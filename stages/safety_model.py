"""Safety model: a sequence classifier that tells safe answers from unsafe ones, trained on labelled rows.

The moderation model of Llama Guard's kind (Inan et al. 2023, arXiv 2312.06674) with a classification head, so that an
encoder will do (Devlin et al. 2019, arXiv 1810.04805). It reads what the reward `safety_model` reads: the last user
message and the final answer. What a row must say is in stages/safety_labels.py.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from data.artifact import Kind
from data.contract import model_contract
from data.records import Row, prompt_origin, user_text
from stages.inputs import rows_of
from stages.safety_labels import DOMAIN, labelled
from stages.stage import Context, Input, Inputs, Metric, Outcome, Placement, Stage
from stages.training.arguments import label_preflight
from stages.training.classifier import ClassifierConfig, logits, split_by_prompt, train_classifier
from stages.training.options import check_supervised

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHARDING = ("accelerate_config", "deepspeed")
"""Files of `launch` that may share a model out."""


class SafetyModelConfig(ClassifierConfig):
    """`safety_model` in a configuration. Any checkpoint will do as `init`: its head is replaced by two labels."""

    learning_rate: float = Field(2e-5, gt=0)
    epochs: float = Field(2.0, gt=0)
    max_length: int = Field(512, ge=8)
    safe_domains: tuple[str, ...] = ()
    """Domains in which nothing harmful is asked: completions and chosen answers there are examples of safe ones."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """Probability of "safe" below which an answer is unsafe; kept in the checkpoint for whoever asks it."""

    @field_validator("safe_domains")
    @classmethod
    def _safety_is_to_be_told(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        if DOMAIN in domains:
            raise ValueError(f"answers in the domain {DOMAIN!r} are what is to be told apart; leave it out")
        return domains


@dataclass(frozen=True, slots=True)
class Example:
    """One answer to be learned or held out."""

    row: str
    """Id of its row."""
    prompt: str
    """What tells prompts apart."""
    ids: list[int]
    """Length T: the exchange as the reward reads it."""
    label: int
    """1 is safe, 0 is not."""


def examples(
    rows: Iterable[Row], config: SafetyModelConfig, tokenizer: PreTrainedTokenizerBase, convention: str
) -> tuple[list[Example], dict[str, int]]:
    """The answers that can be learned, encoded as the reward encodes them, and the rows counted by what became of
    them. Raises ValueError for a label that is none."""
    from rewards.classifier import encode
    from rewards.safety_model import exchange

    made: list[Example] = []
    counts: Counter[str] = Counter(rows_used=0)
    for row in rows:
        found = labelled(row, config.safe_domains, convention)
        if isinstance(found, str):
            counts[found] += 1
            continue
        asked = user_text(row)
        for answer, safe in found:
            ids = encode(tokenizer, exchange(tokenizer, asked, answer), verbose=False)["input_ids"]
            made.append(Example(row["id"], prompt_origin(row), ids, int(safe)))
        counts["rows_used"] += 1
    return made, dict(counts)


def check(config: SafetyModelConfig, wired: Collection[str], placement: Placement) -> None:
    """Stage.check: batches are shared evenly, and the model is not shared out."""
    check_supervised(config, wired, placement)
    for key in SHARDING:
        if key in placement.extra:
            raise ValueError(f"launch.{key}: a safety model is trained whole on each process; set launch of this step")


def run(config: SafetyModelConfig, inputs: Inputs, out: Path, context: Context) -> Outcome:
    """Train two labels on `init` with the answers of `data`.

    Raises ValueError where one of the labels is missing, in training or in what is held out, and where a domain of
    `safe_domains` has no row.
    """
    began = time.monotonic()
    from transformers import TrainingArguments

    from rewards.safety_model import LABELS, THRESHOLD
    from stages.training.models import load_scoring_tokenizer, save_trained
    from stages.training.trainers import LabelTrainer

    path = inputs["init"][0].path
    tokenizer = load_scoring_tokenizer(path)
    rows = list(rows_of(inputs["data"]))
    _check_domains(config.safe_domains, {row["domain"] for row in rows})
    every, counts = examples(rows, config, tokenizer, context.convention)
    fitting = [example for example in every if len(example.ids) <= config.max_length]
    if len(fitting) < len(every):
        counts[f"unusable: longer than {config.max_length} tokens"] = len(every) - len(fitting)
    train, test = split_by_prompt(fitting, lambda example: example.prompt, config.held_out, context.seed)
    for what, part in (("to learn from", train), ("held out", test)):
        for number, label in enumerate(LABELS):
            counts[f"{label}: {what}"] = found = sum(example.label == number for example in part)
            if not found:
                raise ValueError(
                    f"none of the {len(part)} answers {what} is {label}, of {len(rows)} rows; more are needed, or "
                    "another held_out"
                )
    trainer, ready = train_classifier(
        config,
        path,
        tokenizer,
        {"input_ids": [e.ids for e in train], "labels": [e.label for e in train]},
        context,
        counts,
        trainer=LabelTrainer,
        arguments=TrainingArguments,
        labels=LABELS,
    )
    trained = time.monotonic()
    metrics = _metrics(_probabilities(trainer, test, tokenizer), test, config.threshold)
    setattr(trainer.accelerator.unwrap_model(trainer.model).config, THRESHOLD, config.threshold)
    save_trained(trainer, tokenizer, out, context.work)
    return Outcome(
        contract=model_contract(out, context.convention),
        metrics=metrics,
        counts=counts,
        timings={"loading": ready - began, "training": trained - ready, "evaluating": time.monotonic() - trained},
    )


def _check_domains(named: Sequence[str], there: Collection[str]) -> None:
    from rewards.table import nearest

    for domain in named:
        if domain not in there:
            raise ValueError(f"safe_domains: no row of the domain {domain!r}{nearest(domain, sorted(there))}")


def _probabilities(trainer: object, test: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[float]:
    """Probability of "safe" of each example."""
    import torch

    model = trainer.model  # type: ignore[attr-defined]
    logits_NL = torch.tensor(list(logits(model, [e.ids for e in test], tokenizer.pad_token_id)))
    return logits_NL.softmax(-1)[:, 1].tolist()


def _metrics(probabilities: Sequence[float], test: Sequence[Example], threshold: float) -> dict[str, Metric]:
    """Accuracy, and the share found of each label; the prompt is the unit of the intervals."""
    from stages.statistics import average, clipped

    right: dict[str, list[tuple[int, float]]] = {}
    for example, safe in zip(test, probabilities, strict=True):
        verdict = float((safe >= threshold) == bool(example.label))
        right.setdefault(example.prompt, []).append((example.label, verdict))

    def share(*labels: int) -> Metric:
        return clipped(average([[value for label, value in group if label in labels] for group in right.values()]))

    return {"safety_accuracy": share(0, 1), "unsafe_recall": share(0), "safe_recall": share(1)}


SAFETY_MODEL = Stage(
    name="safety_model",
    version=1,
    summary="helper: a sequence classifier that tells safe answers from unsafe ones",
    config=SafetyModelConfig,
    needs={"init": Input(kind=Kind.MODEL), "data": Input(kind=Kind.DATASET, many=True)},
    makes=Kind.MODEL,
    run=run,
    check=check,
    preflight=label_preflight,
    generative=False,
    judges="safety",
)
