"""TRL's trainers, and transformers' own, with our parameter groups.

Imports torch and TRL: import it inside a stage's run().
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from transformers import PrinterCallback, Seq2SeqTrainer, Trainer
from trl import RewardTrainer, SFTTrainer

from stages.stage import Context
from stages.training.anchor import Anchored
from stages.training.groups import parameter_groups
from stages.training.lm_head import labelled_positions_only
from stages.training.options import TrainingConfig
from stages.training.progress import Alive, Bar, History, quiet
from stages.training.resume import MarkComplete
from stages.training.sharding import check_sharding


def callbacks(context: Context) -> list[Any]:
    """What every trainer of the pipeline carries: a bar, a history, signs of life, and markers on whole checkpoints."""
    quiet()
    return [Bar(context.name), History(context.work / "history.jsonl"), Alive(context.work), MarkComplete()]


class PipelineTrainer:
    """Mixin for any Hugging Face trainer: AdamW over the groups of `parameter_groups`, our own bar, no model card."""

    model: Any
    args: Any
    optimizer: Any
    state: Any
    control: Any

    def __init__(self, *args: Any, options: TrainingConfig, **kwargs: Any) -> None:
        self.options = options
        super().__init__(*args, **kwargs)
        check_sharding(self.accelerator)  # type: ignore[attr-defined]
        parameter_groups(self.model, options)  # a pattern that matches nothing is refused before anything is learned
        self.remove_callback(PrinterCallback)  # type: ignore[attr-defined]

    def create_optimizer(self, model: Any = None) -> Any:
        if self.optimizer is None:
            kind, arguments = self.get_optimizer_cls_and_kwargs(self.args, self.model)  # type: ignore[attr-defined]
            groups = parameter_groups(self.model if model is None else model, self.options)
            self.optimizer = kind(groups, **arguments)
        return self.optimizer

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """One that was killed after its last step has none left: by itself the loop would look after one more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)  # type: ignore[misc]

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        with labelled_positions_only():
            return super().compute_loss(*args, **kwargs)  # type: ignore[misc]

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """A checkpoint of a running step is nobody's model; its record says what it is."""


class SupervisedTrainer(Anchored, PipelineTrainer, SFTTrainer):
    """SFTTrainer with our optimiser."""


class EncoderDecoderTrainer(PipelineTrainer, Seq2SeqTrainer):
    """Seq2SeqTrainer with our optimiser."""


class PairTrainer(PipelineTrainer, RewardTrainer):
    """RewardTrainer with our optimiser."""


class LabelTrainer(PipelineTrainer, Trainer):
    """transformers' Trainer with our optimiser: one label a sequence, cross-entropy."""

    def __init__(self, model: Any, args: Any, *, peft_config: Any = None, **kwargs: Any) -> None:
        if peft_config is not None:
            from peft import get_peft_model

            model = get_peft_model(model, peft_config)
            if args.gradient_checkpointing:
                model.enable_input_require_grads()
        loss = partial(label_loss, smoothing=args.label_smoothing_factor)
        super().__init__(model=model, args=args, compute_loss_func=loss, **kwargs)


def label_loss(outputs: Any, labels_B: torch.Tensor, num_items_in_batch: Any = None, smoothing: float = 0.0) -> Any:
    """Mean cross-entropy over the sequences of the whole batch, of which this micro-batch is a part.

    The loss of transformers' own classifiers is the mean of each micro-batch, which the trainer then adds up.
    """
    total = torch.nn.functional.cross_entropy(
        outputs.logits.float(), labels_B, reduction="sum", label_smoothing=smoothing
    )
    return total / (len(labels_B) if num_items_in_batch is None else num_items_in_batch)
