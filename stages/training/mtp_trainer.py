"""Supervised training that also predicts tokens further ahead. Imports torch and TRL: import it inside a run()."""

from __future__ import annotations

from typing import Any

import torch

from stages.training.mtp import loss_name
from stages.training.mtp_heads import NAME, predict_ahead
from stages.training.trainers import SupervisedTrainer


class AheadTrainer(SupervisedTrainer):
    """For a model with the modules of `mtp_heads`; logs each loss by itself, `loss` being their weighted sum."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.modules_ahead = getattr(self.model, NAME)
        self.tally: torch.Tensor | None = None
        """(1 + depth,): losses of this process's micro-batches since the last line of the log."""
        self.tallied_from = 0
        predict_ahead(self.model)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch=num_items_in_batch)
        if model.training:
            if self.tally is None:
                self.tallied_from = self.state.global_step
                self.tally = torch.zeros_like(self.modules_ahead.sums)
            # The count is that of all processes, whose mean is logged.
            self.tally += self.modules_ahead.sums * self.accelerator.num_processes / max(int(num_items_in_batch), 1)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self.tally is not None:
            each_P = self.accelerator.gather(self.tally[None]).mean(dim=0)
            main, *ahead = (each_P / (self.state.global_step - self.tallied_from)).tolist()
            logs |= {"main_loss": main} | {loss_name(k): loss for k, loss in enumerate(ahead, start=1)}
            self.tally = None
        super().log(logs, start_time)
