"""Load and save checkpoints with the tokenizer, chat template and EOS that belong to them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.rollout.beside import refuse_beside, with_beside, without_beside
from stages.rollout.prefix import refuse_windows
from stages.rollout.weights import gathered_weights
from stages.training.adapter_options import PrefixTuning
from stages.training.options import TrainingConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


DROPOUT = (
    "attention_dropout",  # Llama, Qwen2
    "hidden_dropout",
    "attn_pdrop",  # GPT-2
    "resid_pdrop",
    "embd_pdrop",
    "dropout_rate",  # T5
    "dropout",  # BART
    "activation_dropout",
    "hidden_dropout_prob",  # BERT
    "attention_probs_dropout_prob",
)
"""Names of dropout rates in the configurations of common architectures."""


def load_tokenizer(path: Path, prefill: str = "") -> PreTrainedTokenizerBase:
    """Tokenizer of a checkpoint, whose generation prompt ends with `prefill`.

    The prefill goes into the chat template itself, so that sampling, training and serving agree on it; a template
    that already ends with it is left alone. Raises ValueError where the checkpoint cannot be trained on: no chat
    template, no EOS, or a pad token that equals EOS (the collator would then mask the EOS label, and the model
    would never learn to stop).
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    if not tokenizer.chat_template:
        raise ValueError(f"{path}: the tokenizer has no chat template")
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{path}: the tokenizer has no EOS token")
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ValueError(f"{path}: the pad token must exist and differ from EOS ({tokenizer.eos_token})")
    tokenizer.padding_side = "left"
    if prefill and not _generation_prompt(tokenizer).endswith(prefill):
        text = prefill.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
        tokenizer.chat_template += "{% if add_generation_prompt %}{{ '" + text + "' }}{% endif %}"
    return tokenizer


def load_scoring_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Tokenizer of a checkpoint that is to score texts and write none: it needs a pad token, and nothing else.

    It pads on the right, so that positions are those of training. EOS stands in for a missing pad token. Raises
    ValueError where there is neither.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="right")
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ValueError(f"{path}: the tokenizer has neither a pad nor an EOS token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _generation_prompt(tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True)


def visible_prefill(tokenizer: PreTrainedTokenizerBase, opening_tag: str) -> str:
    """What the chat template writes of the answer before the model does: the opening tag and what follows, or "".

    R1-Distill templates end with "<think>"; a reward that does not see it scores every layout as wrong.
    """
    if not opening_tag:
        return ""
    _, found, tail = _generation_prompt(tokenizer).rpartition(opening_tag)
    return found + tail if found and not tail.strip() else ""


def causal_only(stage: str, kind: str) -> str:
    """What is said of a model with an encoder, of the `kind` that config.json states, where `stage` takes none."""
    return f"{stage} takes causal models only, and the model has an encoder ({kind}); distillation trains it"


def load_policy(path: Path, config: TrainingConfig | None = None) -> PreTrainedModel:
    """A causal model with fp32 master weights; mixed precision is the trainer's business.

    `config` is that of a step that trains it. Raises ValueError for a model with an encoder (of BART, transformers
    would load the decoder alone), for a checkpoint with more than its weights, which would be lost, and for a model
    that cannot have the prefix it is to learn.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from stages.training.progress import quiet

    quiet()

    settings = AutoConfig.from_pretrained(path)
    if settings.is_encoder_decoder:
        raise ValueError(causal_only("this stage", settings.model_type))
    options: dict[str, Any] = {"dtype": torch.float32}
    if config is not None:
        refuse_beside(path, "trained further")
        if isinstance(config.adapters, PrefixTuning):
            refuse_windows(settings)
        options["attn_implementation"] = config.attention
        set_dropout(settings, config.dropout)
    return with_beside(AutoModelForCausalLM.from_pretrained(path, config=settings, **options), path)


def set_dropout(settings: Any, rate: float) -> None:
    """Set every dropout rate that this architecture has."""
    for name in DROPOUT:
        if getattr(settings, name, None) is not None:
            setattr(settings, name, rate)


def load_classifier(
    path: Path,
    config: TrainingConfig,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    labels: Sequence[str] = (),
) -> PreTrainedModel:
    """The checkpoint with a scalar head on its last token in place of its language-model head (encoder-only models
    keep their own pooling), or with a head of one output a label. The head is drawn from `seed`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, set_seed

    from stages.training.progress import quiet

    quiet()

    refuse_beside(path, "trained further")
    settings = AutoConfig.from_pretrained(path, num_labels=max(1, len(labels)))
    if settings.is_encoder_decoder:
        raise ValueError(causal_only("this stage", settings.model_type))
    if labels:
        settings.id2label = dict(enumerate(labels))
        settings.label2id = {label: number for number, label in enumerate(labels)}
        settings.problem_type = "single_label_classification"
    settings.pad_token_id = tokenizer.pad_token_id
    set_dropout(settings, config.dropout)
    set_seed(seed)
    return AutoModelForSequenceClassification.from_pretrained(
        path,
        config=settings,
        dtype=torch.float32,
        attn_implementation=config.attention,
        ignore_mismatched_sizes=bool(labels),  # a head of other labels is drawn anew
    )


def save_trained(trainer: Any, tokenizer: PreTrainedTokenizerBase, out: Path, work: Path) -> None:
    """Save what was trained: weights (adapters merged, shards gathered), what is beside them, tokenizer, history.

    Called on every rank, since gathering ZeRO-3 shards takes all of them; only the first writes.
    """
    accelerator = trainer.accelerator
    sharded = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
    state = accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    if accelerator.is_main_process:
        model = without_beside(accelerator.unwrap_model(trainer.model), out)
        if state is not None:
            state = gathered_weights(model, state)
            model = model.get_base_model() if hasattr(model, "peft_config") else model
        elif hasattr(model, "merge_and_unload"):
            model = model.merge_and_unload()
        save_policy(model, tokenizer, out, state)
        for name in ("history.jsonl", "alerts.jsonl"):
            if (kept := work / name).exists():
                shutil.copy(kept, out / name)
    accelerator.wait_for_everyone()


def save_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path, state: Any = None) -> None:
    """Write safetensors, tokenizer, chat template and a generation config whose EOS is the tokenizer's.

    `state` replaces the model's own weights where they are sharded over processes.
    """
    for settings in (getattr(model, "generation_config", None), model.config):
        if settings is not None:
            settings.eos_token_id = tokenizer.eos_token_id
            settings.pad_token_id = tokenizer.pad_token_id
    set_dropout(model.config, 0.0)
    model.save_pretrained(out, state_dict=state)
    tokenizer.save_pretrained(out)
