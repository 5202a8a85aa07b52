"""Where a GRPO trainer's completions come from: an engine of `stages.rollout` in place of TRL's own generation."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from trl.models import unwrap_model_for_generation

from data.artifact import fingerprint
from stages.rollout.engine import Completion, Engine, Sampling
from stages.rollout.transformers_engine import TransformersEngine
from stages.training.options import ReinforcementConfig
from stages.training.second_sampler import SecondSampler, second_sampler
from stages.training.sharding import whole_model
from stages.training.share import share_of

Group = tuple[list[int], int]
"""A prompt's token ids and the number of completions that it gets."""


class EngineRollouts:
    """Mixin for TRL's GRPOTrainer: completions are sampled by an engine, seeded by step, so that a resumed run samples
    the same. The engine is the trainer's own model, or inside `sampler_opened` one with weights of its own."""

    options: ReinforcementConfig
    seconds: dict[str, float]
    sampler: SecondSampler | None = None
    model: Any
    args: Any
    state: Any
    accelerator: Any
    model_wrapped: Any
    processing_class: Any
    max_completion_length: int
    sampling_round: int
    use_vllm: bool
    _metrics: Any

    @contextmanager
    def sampler_opened(self, checkpoint: Path, work: Path) -> Iterator[None]:
        """Sample with the engine of the options while the context lasts. `checkpoint` has the tokenizer and the shape
        of the trainer's model; `work` is a folder for what is sent to servers."""
        fsdp = bool(getattr(self, "is_fsdp_enabled", False))
        with second_sampler(self.options, checkpoint, work, self.accelerator, fsdp=fsdp) as sampler:
            self.sampler = sampler
            # TRL corrects by importance sampling where vLLM samples: it scores the completions, compares them with the
            # log-probabilities that `_generate_single_turn` returns, and weights the loss. Set after TRL's own
            # initialisation, this switches the correction on and starts none of TRL's engines.
            self.use_vllm = sampler is not None
            try:
                yield
            finally:
                self.sampler, self.use_vllm = None, False

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any, num_generations: int, *args: Any
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        """One completion per entry of `prompt_ids`; a group's equal neighbours share their prefill.

        Log-probabilities come from a second sampler; with the trainer's own weights they are left to the trainer.
        """
        began = time.perf_counter()
        groups, first = share_of(prompt_ids, num_generations, self.accelerator.process_index)
        if self.sampler is None:
            with self._whole_model() as model, self.accelerator.autocast():
                tokens = self.options.engine_options.get("batch_tokens")
                limit = {} if tokens is None else {"batch_tokens": tokens}
                made = self._sample(TransformersEngine(model, self.processing_class, **limit), groups, first)
        else:
            self._follow(self.sampler)
            made = self._sample(self.sampler.engine, groups, first)
            if self.sampler.unwatched:
                self.sampler.watch([ids + group[0].token_ids for (ids, _), group in zip(groups, made, strict=True)])
                self._hear(self.sampler)
        completions = [completion for group in made for completion in group]
        self.seconds["sampling"] += time.perf_counter() - began
        return [c.token_ids for c in completions], [c.logprobs for c in completions] if self.sampler else None

    def _sample(self, engine: Engine, groups: Sequence[Group], first: int) -> list[list[Completion]]:
        """Completions of each group; `first` is the number of the first prompt in the batch of all ranks."""
        seed = fingerprint([self.args.seed, self.state.global_step, self.sampling_round])
        made: list[list[Completion]] = [[] for _ in groups]
        for size in sorted({count for _, count in groups}):
            picked = [i for i, (_, count) in enumerate(groups) if count == size]
            sampling = Sampling(
                max_tokens=self.max_completion_length,
                temperature=self.args.temperature,
                top_p=1.0 if self.args.top_p is None else self.args.top_p,
                top_k=max(0, self.args.top_k or 0),  # TRL lets None and -1 stand for off too
                n=size,
                seed=int(seed, 16) + size,
                first_prompt=first,
            )
            for i, group in zip(picked, engine.generate([groups[i][0] for i in picked], sampling), strict=True):
                made[i] = group
        return made

    def _follow(self, sampler: SecondSampler) -> None:
        """Bring the sampler to the trainer's weights, and have the canary compare the two."""
        if sampler.step == self.state.global_step:
            return
        with self._whole_model() as model:
            sampler.sync(model, self.state.global_step)
        self._hear(sampler)

    def _hear(self, sampler: SecondSampler) -> None:
        if sampler.canary is None:
            return
        with self._whole_model() as model, self.accelerator.autocast():
            gap = sampler.check(model)
        if gap is not None:
            self._metrics["train"]["canary_gap"].append(gap)

    @contextmanager
    def _whole_model(self) -> Iterator[Any]:
        """The bare model, its parameters gathered where ZeRO-3 or FSDP2 shards them."""
        gather = self.args.ds3_gather_for_generation or self.sampler is not None
        with (
            unwrap_model_for_generation(self.model_wrapped, self.accelerator, gather_deepspeed3_params=gather) as model,
            whole_model(self.model_wrapped, self.accelerator),
            torch.no_grad(),
        ):
            yield model

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        """TRL's, with the mean gap between sampler and trainer a token logged as `sampler_gap`."""
        made = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        metrics = self._metrics["train" if self.model.training else "eval"]
        if gaps := metrics.get("sampling/sampling_logp_difference/mean"):
            metrics["sampler_gap"].append(gaps[-1])
        return made
