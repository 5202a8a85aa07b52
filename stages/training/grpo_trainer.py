"""TRL's GRPOTrainer with our sampler and a clock on each part. Imports torch and TRL: import it inside run()."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import torch
from accelerate.utils import gather_object

from stages.training.balance import balanced
from stages.training.batching import SKIP, Batch, micro_batches
from stages.training.lm_head import labelled_positions_only
from stages.training.options import ReinforcementConfig
from stages.training.positions import positions_from_mask
from stages.training.probe import Probe
from stages.training.prompt_trainer import PromptTrainer
from stages.training.rollouts import EngineRollouts
from stages.training.trainers import PipelineTrainer


class ReasoningTrainer(EngineRollouts, PipelineTrainer, PromptTrainer):
    """GRPO whose completions come from `stages.rollout`."""

    options: ReinforcementConfig
    _buffered_inputs: list[Batch] | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seconds: dict[str, float] = defaultdict(float)
        self.probe: Probe | None = None

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """As TRL's, but with micro-batches cut by `micro_batches`."""
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            updates = self.options.updates_per_generation
            if self.probe is not None:
                self.probe.take(self, updates * self.num_iterations)
            batch = self._generate_and_score_completions(generation_batch)
            skip = self.options.skip_without_gradient and self._advantage_is_all()
            if skip:
                batch = balanced(batch, self.accelerator, self._tokenizer.pad_token_id)
            self._buffered_inputs = micro_batches(
                batch,
                updates,
                steps // updates,
                # bnpo normalises each micro-batch by its own tokens: there, what is put together matters.
                by_length=self.options.length_bucketing and self.loss_type != "bnpo",
                skip=skip,
            )
            self._agree_on_skipping(self._buffered_inputs)
        return self._buffered_inputs[self._step % steps]

    def _advantage_is_all(self) -> bool:
        """Whether a row with advantage 0 has no gradient: no term of the loss but the policy's own (and a layered
        KL, which says by row whether it has one), and processes that do not need every forward pass to stay in step
        (sharded parameters do)."""
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        other_terms = (self.beta != 0 and self.kl is None) or self._entropy_bonus_enabled or self.aux_loss_enabled
        # bnpo normalises each micro-batch by its own tokens, those of rows without gradient included.
        return not (sharded or other_terms or self.top_entropy_quantile < 1 or self.loss_type == "bnpo")

    def _agree_on_skipping(self, batches: list[Batch]) -> None:
        """A micro-batch is skipped on all processes or on none: they exchange gradients together."""
        flags = [batch[SKIP] for batch in batches]
        if self.accelerator.num_processes > 1:
            needed = torch.tensor([0 if flag else 1 for flag in flags], device=self.accelerator.device)
            flags = (self.accelerator.reduce(needed, "sum") == 0).tolist()
        for batch, flag in zip(batches, flags, strict=True):
            batch[SKIP] = flag
        self._metrics["train"]["skipped_micro_batches"].append(sum(flags) / len(flags))

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss; a micro-batch without gradient costs no pass, and leaves gradients of exactly 0."""
        if inputs.pop(SKIP, False):
            return torch.stack([(p * 0).sum() for p in self.model.parameters() if p.requires_grad]).sum()
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        policy = self.accelerator.unwrap_model(self.model)
        with labelled_positions_only(), positions_from_mask(policy, model):
            return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        rewards = super()._calculate_rewards(*args, **kwargs)
        self.seconds["scoring"] += time.perf_counter() - began
        self._agree_on_statuses()
        return rewards

    def _agree_on_statuses(self) -> None:
        """A status that only some processes met is a share of all completions: TRL averages over those that log it."""
        if self.accelerator.num_processes > 1:
            met = [name for name in self._pending_metrics if name.startswith("status/")]
            for name in sorted(set(gather_object(met)).difference(met)):
                self._pending_metrics[name].append(0.0)
