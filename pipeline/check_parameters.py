"""Check of what names parameters: `freeze`, `layer_rates.groups`, adapters and `mtp`, on a model without weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.check_findings import Finding, fail, fine
from pipeline.check_subject import Subject
from pipeline.step import Node
from stages.training.adapter_options import PrefixTuning
from stages.training.mtp import MTP
from stages.training.options import CompletionConfig, Freeze, TrainingConfig


def parameters(subject: Subject) -> Iterator[Finding]:
    """Every pattern and target module is found in the model that a step trains, and something is left to learn."""
    seen = 0
    for node in subject.steps:
        config = node.config
        if not isinstance(config, TrainingConfig) or not _names_any(config):
            continue
        try:
            model = _skeleton(subject, node)
        except Exception:  # the checks of the models say what is wrong with one, and some need code of their own
            continue
        seen += 1
        try:
            _apply(model, config, node)
        except ValueError as error:
            yield fail(f"{subject.where(node)}: {' '.join(str(error).split())}")
    yield fine(f"{seen} steps name parameters, and the models have them" if seen else "no step names parameters")


def _names_any(config: TrainingConfig) -> bool:
    named = config.layer_rates is not None and config.layer_rates.groups
    return config.freeze != Freeze() or config.adapters is not None or bool(named) or _ahead(config) is not None


def _ahead(config: TrainingConfig) -> MTP | None:
    return config.mtp if isinstance(config, CompletionConfig) else None


def _skeleton(subject: Subject, node: Node) -> Any:
    """The model that a step starts from, its parameters named and empty."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

    path = subject.model(node.inputs["init"][0]).path
    settings = AutoConfig.from_pretrained(path, **({} if node.stage.generative else {"num_labels": 1}))
    kind = AutoModelForCausalLM if node.stage.generative else AutoModelForSequenceClassification
    if settings.is_encoder_decoder and node.stage.generative:
        kind = AutoModelForSeq2SeqLM
    with torch.device("meta"):
        return kind.from_config(settings)


def _apply(model: Any, config: TrainingConfig, node: Node) -> None:
    """Do to the model what the step will. Raises ValueError for a name that it does not have."""
    from stages.rollout.prefix import refuse_windows
    from stages.training.adapting import adapter, grow
    from stages.training.groups import freeze, parameter_groups
    from stages.training.mtp_heads import attach

    freeze(model, config.freeze)
    if isinstance(config.adapters, PrefixTuning):
        refuse_windows(model.config)
    if (mtp := _ahead(config)) is not None:
        attach(model, mtp, node.seed)
    grow(config.adapters, model, node.seed)
    if (own := adapter(config.adapters, model, "CAUSAL_LM" if node.stage.generative else "SEQ_CLS")) is not None:
        from peft import get_peft_model

        model = get_peft_model(model, own)
    parameter_groups(model, config)
