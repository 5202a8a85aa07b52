"""GRPOTrainer with one KL coefficient per row. Imports torch and TRL: import it inside run().

TRL writes `if self.beta != 0.0` and `self.beta * per_token_kl`. During the loss a `RowBeta` stands in for the number:
it gives each row the coefficient of its tier, and sees the KL that TRL computed, whatever the loss type.

Dimensions: B rows of the micro-batch, T completion positions, K tiers with the rest as the last.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from stages.training.batching import HAS_KL
from stages.training.kl import KLControllers
from stages.training.reference import ReferenceTrainer

KL_TIER = "kl_tier"
"""Column of the dataset and key of a batch: the number of the row's tier."""

STATE = "kl.json"
"""State of the controllers inside a trainer checkpoint."""


class RowBeta:
    """A coefficient per row in the place of TRL's `beta`."""

    def __init__(self, beta_B: torch.Tensor, seen: Callable[[torch.Tensor], None]) -> None:
        self.beta_B = beta_B
        self.seen = seen

    def __ne__(self, other: object) -> bool:
        return True

    def __mul__(self, kl_BT: torch.Tensor) -> torch.Tensor:
        self.seen(kl_BT.detach())
        return self.beta_B.to(kl_BT)[:, None] * kl_BT


class LayeredKLTrainer(ReferenceTrainer):
    """GRPO whose KL term is layered. Without `kl_tiers` it is GRPOTrainer."""

    beta: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kl: KLControllers | None = None
        if self.options.kl_tiers:
            self.kl = KLControllers(self.options.kl_tiers, self.options.beta)
            self.kl_seen_K2 = torch.zeros(len(self.kl.betas), 2, dtype=torch.float64)
            self.add_callback(_Steer(self))

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        if self.kl is not None:
            tiers_B = torch.tensor([row[KL_TIER] for row in inputs], device=self.accelerator.device)
            batch[KL_TIER] = tiers_B
            # A controller multiplies: a coefficient that is 0 stays 0.
            batch[HAS_KL] = torch.tensor(self.kl.betas, device=tiers_B.device)[tiers_B] != 0
        return batch

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        if self.kl is None:
            return super()._compute_loss(model, inputs)
        tiers_B = inputs[KL_TIER]
        mask_BT = inputs["completion_mask"] * inputs.get("tool_mask", 1)

        def seen(kl_BT: torch.Tensor) -> None:
            sums_B2 = torch.stack([(kl_BT * mask_BT).sum(-1), mask_BT.sum(-1)], dim=-1)
            if self.model.training:
                self.kl_seen_K2.index_add_(0, tiers_B.cpu(), sums_B2.cpu().double())

        betas_K = torch.tensor(self.kl.betas, dtype=torch.float64, device=tiers_B.device)
        scalar, self.beta = self.beta, RowBeta(betas_K[tiers_B], seen)
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self.beta = scalar

    def steer(self) -> None:
        """Log what each tier saw in this optimiser step on all ranks, and move the coefficients."""
        assert self.kl is not None
        totals_K2 = self.accelerator.reduce(self.kl_seen_K2.to(self.accelerator.device), "sum").tolist()
        self.kl_seen_K2.zero_()
        measured = [total / tokens if tokens else None for total, tokens in totals_K2]
        metrics = self._metrics["train"]
        for tier, kl, beta in zip(self.kl.tiers, measured, self.kl.betas, strict=True):
            if kl is not None:
                metrics[f"kl_tiers/{tier.label}/kl"].append(kl)
            metrics[f"kl_tiers/{tier.label}/beta"].append(beta)
        self.kl.update(measured)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.kl is not None and self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            (folder / STATE).write_text(json.dumps(self.kl.state()), encoding="utf-8")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.kl is not None:
            self.kl.restore(json.loads((Path(checkpoint) / STATE).read_text(encoding="utf-8")))


class _Steer(TrainerCallback):
    """Calls `steer` after each optimiser step, before it is logged and saved."""

    def __init__(self, trainer: LayeredKLTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.steer()
