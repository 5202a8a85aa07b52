"""What early stopping does inside a trainer. Imports transformers: import it inside a stage's run()."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from stages.training.early_stopping import exhausted


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
