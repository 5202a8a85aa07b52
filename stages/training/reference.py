"""GRPOTrainer whose KL reference is replaced by the policy now and then, adapters included. Imports torch and TRL.

TRL's SyncRefModelCallback with a share of 1 copies the policy into the reference model. A policy of adapters has no
reference model: its reference is the base without them, and TRL refuses to synchronise it. Here it gets a second,
frozen set of adapters, which TRL takes as the reference by its name, and which the first set is copied into.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import TrainerCallback
from trl import GRPOTrainer

from stages.training.options import ReinforcementConfig
from stages.training.whole import copy_onto, restore, whole_state

REFERENCE = "reference.pt"
"""Weights of the KL reference inside a trainer checkpoint, where it is replaced now and then."""

ADAPTER = "ref"
"""Name of the adapters that TRL computes the reference with, where there are any of this name."""


class ReferenceTrainer(GRPOTrainer):
    """GRPO whose reference survives a kill; with `reference_reset_steps` adapters have one of their own."""

    options: ReinforcementConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reference_adapter = self.options.reference_reset_steps is not None and isinstance(self.model, PeftModel)
        if self.reference_adapter:
            with torch.random.fork_rng(), warnings.catch_warnings():
                # "prefix_tuning_" has "ref" in it; peft warns, of names that prefixes do not have.
                warnings.filterwarnings("ignore", "Adapter name 'ref'")
                self.model.add_adapter(ADAPTER, self.model.peft_config[self.model.active_adapter])
            self.reset_reference()
            self.add_callback(_Reset(self))

    def reset_reference(self) -> None:
        """Copy the policy's adapters into the reference's."""
        policy = self.accelerator.unwrap_model(self.model)
        reference = adapters(policy, ADAPTER)
        copy_onto(adapters(policy, policy.active_adapter), reference)
        for parameter in reference.values():
            parameter.requires_grad_(False)

    def moving_reference(self) -> dict[str, Any]:
        """Parameters of a reference that is replaced now and then, by name; none where it stays."""
        if self.reference_adapter:
            return adapters(self.accelerator.unwrap_model(self.model), ADAPTER)
        if self.args.sync_ref_model and self.ref_model is not None:
            return dict(self.accelerator.unwrap_model(self.ref_model).named_parameters())
        return {}

    def reference_state(self) -> dict[str, torch.Tensor]:
        """Whole weights of a reference that moves, on the ranks that save; called on every rank."""
        return whole_state(self.moving_reference(), keep=self.args.should_save)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if state := self.reference_state():
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            torch.save(state, folder / REFERENCE)
            # A resuming Trainer that finds adapters in a subfolder loads these only, and not the policy's.
            shutil.rmtree(folder / ADAPTER, ignore_errors=True)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not (reference := self.moving_reference()):
            return
        saved = Path(checkpoint) / REFERENCE
        first = self.accelerator.is_main_process
        restore(reference, torch.load(saved, map_location="cpu", weights_only=True) if first else None)


def adapters(policy: Any, name: str) -> dict[str, Any]:
    """Parameters of one set of adapters, under names in which the set's own does not occur."""
    found = {}
    for path, parameter in policy.named_parameters():
        before, mine, after = f"{path}.".partition(f".{name}.")
        if mine:
            found[f"{before}.{after}".removesuffix(".")] = parameter
    return found


class _Reset(TrainerCallback):
    """Resets adapters at the steps at which TRL resets a reference model."""

    def __init__(self, trainer: ReferenceTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % args.ref_model_sync_steps == 0:
            self.trainer.reset_reference()
