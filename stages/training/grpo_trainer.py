"""TRL's GRPOTrainer with our sampler and a clock on each part. Imports torch and TRL: import it inside run()."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from trl import GRPOTrainer

from stages.scoring import VERIFIERS
from stages.training.batching import SKIP, Batch, micro_batches
from stages.training.curriculum import Curriculum
from stages.training.lm_head import labelled_positions_only
from stages.training.options import ReinforcementConfig
from stages.training.rollouts import EngineRollouts
from stages.training.trainers import PipelineTrainer

REFERENCE = "reference.pt"
"""Weights of the KL reference inside a trainer checkpoint, where it is replaced now and then."""

CURRICULUM = "curriculum.json"
"""State of the curriculum inside a trainer checkpoint."""


class ReasoningTrainer(EngineRollouts, PipelineTrainer, GRPOTrainer):
    """GRPO whose completions come from `stages.rollout`."""

    options: ReinforcementConfig
    _buffered_inputs: list[Batch] | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seconds: dict[str, float] = defaultdict(float)
        self.curriculum = None
        if self.options.curriculum is not None:
            difficulties = [0.0 if d is None else float(d) for d in self.train_dataset["difficulty"]]
            self.curriculum = Curriculum(difficulties, self.options.curriculum, self.args.seed)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """As TRL's, but with micro-batches cut by `micro_batches`."""
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            updates = self.options.updates_per_generation
            self._buffered_inputs = micro_batches(
                batch,
                updates,
                steps // updates,
                # bnpo normalises each micro-batch by its own tokens: there, what is put together matters.
                by_length=self.options.length_bucketing and self.loss_type != "bnpo",
                skip=self.options.skip_without_gradient and self._advantage_is_all(),
            )
            self._agree_on_skipping(self._buffered_inputs)
        return self._buffered_inputs[self._step % steps]

    def _advantage_is_all(self) -> bool:
        """Whether a row with advantage 0 has no gradient: no term of the loss but the policy's own, and processes
        that do not need every forward pass to stay in step (sharded parameters do)."""
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        other_terms = self.beta != 0 or self._entropy_bonus_enabled or self.aux_loss_enabled
        return not (sharded or other_terms or self.top_entropy_quantile < 1)

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

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        with labelled_positions_only():
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        """With a curriculum, the prompts that it picks take the place of the data loader's."""
        if self.curriculum is None or not self.model.training:
            return super()._generate_and_score_completions(inputs)
        processes, group = self.accelerator.num_processes, self.num_generations
        picked = self.curriculum.pick(self.state.global_step, len(inputs) * processes // group)
        spread = [index for index in picked for _ in range(group)]
        mine = spread[self.accelerator.process_index * len(inputs) :][: len(inputs)]
        made = super()._generate_and_score_completions([self.train_dataset[index] for index in mine])
        passed = torch.tensor(self.passes(), device=self.accelerator.device)
        self.curriculum.observe(spread, self.accelerator.gather(passed).tolist())
        for tier, rate in self.curriculum.pass_rate.items():
            self._metrics["train"][f"curriculum/pass_rate/{tier:g}"].append(rate)
        self._metrics["train"]["curriculum/open_tiers"].append(float(self.curriculum.open))
        return made

    def passes(self) -> list[float]:
        """1.0 for each completion of the last scored batch that its verifier accepted."""
        breakdowns = self.reward_funcs[0].breakdowns
        return [float(any(b.scores.get(name) == 1 for name in VERIFIERS)) for b in breakdowns]

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        rewards = super()._calculate_rewards(*args, **kwargs)
        self.seconds["scoring"] += time.perf_counter() - began
        return rewards

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.sync_ref_model and self.ref_model is not None and self.args.should_save:
            reference = self.accelerator.unwrap_model(self.ref_model)
            torch.save(reference.state_dict(), self._checkpoint_folder() / REFERENCE)
        if self.curriculum is not None and self.args.should_save:
            (self._checkpoint_folder() / CURRICULUM).write_text(json.dumps(self.curriculum.state()), encoding="utf-8")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and (saved := Path(checkpoint) / REFERENCE).exists():
            reference = self.accelerator.unwrap_model(self.ref_model)
            reference.load_state_dict(torch.load(saved, map_location="cpu", weights_only=True))
        if checkpoint is not None and self.curriculum is not None:
            self.curriculum.restore(json.loads((Path(checkpoint) / CURRICULUM).read_text(encoding="utf-8")))

    def _checkpoint_folder(self) -> Path:
        return Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
