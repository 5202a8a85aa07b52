"""Where a GRPO trainer's completions come from: an engine of `stages.rollout` in place of TRL's own generation."""

from __future__ import annotations

import time
from typing import Any

import torch
from trl.models import unwrap_model_for_generation

from data.artifact import fingerprint
from stages.rollout.engine import Sampling
from stages.rollout.transformers_engine import TransformersEngine
from stages.training.options import ReinforcementConfig
from stages.training.sharding import whole_model
from stages.training.share import share_of


class EngineRollouts:
    """Mixin for TRL's GRPOTrainer: completions are sampled by an engine, seeded by step, so that a resumed run samples
    the same."""

    options: ReinforcementConfig
    seconds: dict[str, float]
    args: Any
    state: Any
    accelerator: Any
    model_wrapped: Any
    processing_class: Any
    max_completion_length: int
    sampling_round: int

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any, num_generations: int, *args: Any
    ) -> tuple[list[list[int]], None]:
        """One completion per entry of `prompt_ids`; a group's equal neighbours share their prefill.

        Log-probabilities are left to the trainer: the sampler runs on the trainer's own weights.
        """
        began = time.perf_counter()
        groups, first = share_of(prompt_ids, num_generations, self.accelerator.process_index)
        seed = fingerprint([self.args.seed, self.state.global_step, self.sampling_round])
        made: list[list[list[int]]] = [[] for _ in groups]
        with (
            unwrap_model_for_generation(
                self.model_wrapped, self.accelerator, gather_deepspeed3_params=self.args.ds3_gather_for_generation
            ) as model,
            whole_model(self.model_wrapped, self.accelerator),
            torch.no_grad(),
            self.accelerator.autocast(),
        ):
            engine = TransformersEngine(model, self.processing_class, batch_tokens=self.options.batch_tokens)
            for size in sorted({count for _, count in groups}):
                picked = [i for i, (_, count) in enumerate(groups) if count == size]
                sampling = Sampling(
                    max_tokens=self.max_completion_length,
                    temperature=self.args.temperature,
                    top_p=self.args.top_p,
                    top_k=self.args.top_k,
                    n=size,
                    seed=int(seed, 16) + size,
                    first_prompt=first,
                )
                for i, group in zip(picked, engine.generate([groups[i][0] for i in picked], sampling), strict=True):
                    made[i] = [completion.token_ids for completion in group]
        completions = [ids for group in made for ids in group]
        self.seconds["sampling"] += time.perf_counter() - began
        return completions, None
