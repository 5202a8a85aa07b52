"""What early stopping does inside a trainer. Imports transformers: import it inside a stage's run()."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from stages.training.early_stopping import LOSS, EarlyStopping, exhausted


def evaluation_arguments(config: EarlyStopping, steps: int) -> dict[str, Any]:
    """TRL's arguments that measure what is held out and keep the best checkpoint.

    The loss is a mean over sequences, each by itself: batches would make it depend on their make-up, and so on the
    number of processes.
    """
    every = min(config.every, steps)
    return {
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_steps": every,  # transformers loads the best of those that were saved
        "per_device_eval_batch_size": 1,
        "prediction_loss_only": True,
        "load_best_model_at_end": True,
        "metric_for_best_model": LOSS,
        "greater_is_better": False,
    }


class Patience(TrainerCallback):
    """Ends a training whose held-out loss no longer falls.

    It has no state: what was measured lies in the trainer's log, which its checkpoints hold.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.best_global_step:  # the run directory may have moved since
            best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
            if not best.is_dir():
                raise ValueError(f"early_stopping: {best}, the best checkpoint, is gone; delete {best.parent.parent}")
            state.best_model_checkpoint = str(best)
        if exhausted(state.log_history, self.patience):  # killed after its stop
            state.max_steps = state.global_step

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if exhausted(state.log_history, self.patience):
            control.should_training_stop = True
