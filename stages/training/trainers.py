"""TRL's trainers with our parameter groups. Imports torch and TRL: import it inside a stage's run()."""

from __future__ import annotations

from typing import Any

from transformers import PrinterCallback
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


class PairTrainer(PipelineTrainer, RewardTrainer):
    """RewardTrainer with our optimiser."""
