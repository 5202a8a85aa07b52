"""Supervised fine-tuning of a model with an encoder (T5, BART) on the rows that SFT would learn.

The encoder reads the prompt as the chat template lays it out, a prefilled tag included; the decoder learns the
completion up to and including EOS, by teacher forcing from the start token that config.json names (Raffel et al. 2020,
arXiv 1910.10683, section 3.1.2). Sampling gives the model the same two parts (stages/rollout/encoder_decoder.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.contract import model_contract
from stages.stage import Context, Outcome
from stages.training.early_stopping import evaluation_arguments
from stages.training.options import CompletionConfig

if TYPE_CHECKING:
    from stages.training.encode import Encoded


CAUSAL_KEY = "it is made for causal models, and the student has an encoder ({}); leave it out"


def causal_keys(config: CompletionConfig) -> Iterator[str]:
    """Keys of a step that say what cannot be done to a model with an encoder."""
    yield from (key for key in ("mtp", "prefix_tuning", "bottleneck") if getattr(config, key) is not None)


def has_encoder(model: Path) -> bool:
    """Whether a checkpoint is an encoder-decoder model, as its config.json says."""
    settings = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return bool(settings.get("is_encoder_decoder"))


def train_seq2seq(
    config: CompletionConfig,
    ordered: Sequence[Encoded],
    model_path: Path,
    out: Path,
    context: Context,
    counts: dict[str, int],
    held: Sequence[Encoded] = (),
) -> Outcome:
    """Like `train_sft`, for an encoder-decoder model.

    Raises ValueError as that does, and for a checkpoint that does not say where its decoder starts or has too few
    positions.
    """
    began = time.monotonic()
    from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainingArguments

    from stages.training.arguments import trl_arguments
    from stages.training.groups import count_parameters
    from stages.training.models import load_tokenizer, save_trained
    from stages.training.patience import Patience
    from stages.training.resume import last_checkpoint
    from stages.training.sft import loss_metrics, tallies
    from stages.training.trainers import EncoderDecoderTrainer, callbacks

    if not ordered:
        raise ValueError("there is no row to train on; see the counts of unusable rows")
    steps = -(-len(ordered) // config.batch_size)
    tokenizer = load_tokenizer(model_path, context.prefill)
    tokenizer.padding_side = "right"  # of labels too: the decoder starts with the start token, not with padding
    checkpoint = last_checkpoint(context.work)
    stopping = config.early_stopping
    arguments = trl_arguments(
        Seq2SeqTrainingArguments,
        config,
        context,
        steps=steps,
        batch_size=config.batch_size,
        train_sampling_strategy="sequential",
        **(evaluation_arguments(stopping, steps) if stopping else {}),
    )
    model = _load(model_path, config)
    for key in causal_keys(config):
        raise ValueError(f"{key}: {CAUSAL_KEY.format(model.config.model_type)}")
    _check_positions(model.config, [*ordered, *held])
    model = _learning(model, config)
    counts |= count_parameters(model)
    trainer = EncoderDecoderTrainer(
        model=model,
        args=arguments,
        train_dataset=_dataset(ordered),
        eval_dataset=_dataset(held) if held else None,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
        compute_loss_func=_TokenMean(arguments.label_smoothing_factor),
        callbacks=[*callbacks(context), *([Patience(stopping.patience)] if stopping else [])],
        options=config,
    )
    ready = time.monotonic()
    trainer.train(resume_from_checkpoint=checkpoint)
    trained = time.monotonic()
    if held and trainer.state.best_global_step is None:
        raise ValueError("early_stopping: the held-out loss was never a number; lower learning_rate")
    save_trained(trainer, tokenizer, out, context.work)
    learned = ordered[: trainer.state.global_step * config.batch_size]
    return Outcome(
        contract=model_contract(out, context.convention),
        metrics=loss_metrics(trainer.state, context, len(held)),
        counts=counts | tallies(learned, trainer.state, len(held)),
        timings={"loading": ready - began, "training": trained - ready, "saving": time.monotonic() - trained},
    )


def _load(path: Path, config: CompletionConfig) -> Any:
    """The model with fp32 master weights, which starts to sample where it starts to learn.

    What the checkpoint says of sampling is dropped: forced tokens, beams and penalties belong to what it was before.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, GenerationConfig

    from stages.training.models import set_dropout
    from stages.training.progress import quiet

    quiet()
    settings = AutoConfig.from_pretrained(path)
    set_dropout(settings, config.dropout)
    model = AutoModelForSeq2SeqLM.from_pretrained(
        path, config=settings, dtype=torch.float32, attn_implementation=config.attention
    )
    start, sampled = settings.decoder_start_token_id, model.generation_config.decoder_start_token_id
    if start is None:
        raise ValueError(f"{path}: config.json has no decoder_start_token_id, from which the decoder learns to write")
    if sampled not in (None, start):
        raise ValueError(
            f"{path}: the decoder starts from token {start} in config.json and from {sampled} in "
            "generation_config.json; it would be trained on one and sampled from the other"
        )
    model.generation_config = GenerationConfig(decoder_start_token_id=start)
    return model


def _check_positions(settings: Any, items: Sequence[Encoded]) -> None:
    """Raise ValueError where a prompt or a completion is longer than a table of positions (BART; T5 has none)."""
    table = getattr(settings, "max_position_embeddings", None)
    longest = max(max(len(part) for part in _parts(item)) for item in items)
    if table is not None and longest > table:
        raise ValueError(
            f"max_length: a prompt or completion has {longest} tokens, and the model {table} positions for each; "
            f"set max_length to {table}"
        )


def _learning(model: Any, config: CompletionConfig) -> Any:
    """The model, with adapters if it is to have some; what is to be frozen is."""
    from stages.training.adapting import adapter
    from stages.training.groups import freeze

    freeze(model, config.freeze)
    if config.adapters is None:
        return model
    from peft import get_peft_model

    model.enable_input_require_grads()  # gradient checkpointing would find nothing that learns below it
    return get_peft_model(model, adapter(config.adapters, model, "SEQ_2_SEQ_LM"))


class _TokenMean:
    """Cross-entropy summed over the learned tokens and divided by their number in the whole optimiser step.

    As in SFT, where a step is cut into micro-batches changes nothing; T5's own loss is a mean over a micro-batch.
    """

    def __init__(self, smoothing: float) -> None:
        self.smoothing = smoothing

    def __call__(self, outputs: Any, labels_BT: Any, num_items_in_batch: Any = None) -> Any:
        from torch.nn.functional import cross_entropy

        loss = cross_entropy(
            outputs.logits.float().flatten(0, 1), labels_BT.flatten(), reduction="sum", label_smoothing=self.smoothing
        )
        return loss / (labels_BT.ne(-100).sum() if num_items_in_batch is None else num_items_in_batch)


def _dataset(items: Sequence[Encoded]) -> Any:
    from datasets import Dataset

    prompts, completions = zip(*map(_parts, items), strict=True)
    masks = [[1] * len(prompt) for prompt in prompts]
    return Dataset.from_dict({"input_ids": list(prompts), "attention_mask": masks, "labels": list(completions)})


def _parts(item: Encoded) -> tuple[list[int], list[int]]:
    """(what the encoder reads, what the decoder learns)."""
    split = item.completion_mask.index(1)
    return item.input_ids[:split], item.input_ids[split:]
