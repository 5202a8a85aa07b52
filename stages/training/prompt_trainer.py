"""GRPOTrainer with a say in its prompts: a curriculum picks them, dynamic sampling replaces those without signal.

Imports torch and TRL: import it inside run(). Dimensions: N rows over all processes, G completions per prompt.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from stages.scoring import VERIFIERS
from stages.training.curriculum import Curriculum
from stages.training.dynamic_sampling import DynamicSampling, further_prompts, most_lacking, replacements
from stages.training.kl_trainer import LayeredKLTrainer
from stages.training.merging import with_rows

CURRICULUM = "curriculum.json"
"""State of the curriculum inside a trainer checkpoint."""

DIFFERENT = 1e-6
"""Rewards of a group that lie closer together than this are equal but for rounding."""


class PromptTrainer(LayeredKLTrainer):
    """GRPO on prompts that need not be the data loader's. With neither option it is its base class."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sampling_round = 0
        """Number of the draw behind the current batch, part of the sampler's seed; 0 is the first."""
        self.curriculum = None
        if self.options.curriculum is not None:
            difficulties = [0.0 if d is None else float(d) for d in self.train_dataset["difficulty"]]
            self.curriculum = Curriculum(difficulties, self.options.curriculum, self.args.seed)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        """With a curriculum, the prompts that it picks take the place of the data loader's."""
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        picked = None
        if self.curriculum is not None:
            processes = self.accelerator.num_processes
            picked = self.curriculum.pick(self.state.global_step, len(inputs) * processes // self.num_generations)
            inputs = self._rows_of_mine(picked)
        batch = self._scored(inputs, picked)
        if self.options.dynamic_sampling is not None:
            batch = self._resampled(batch, self.options.dynamic_sampling)
        if self.curriculum is not None:
            for tier, rate in self.curriculum.pass_rate.items():
                self._metrics["train"][f"curriculum/pass_rate/{tier:g}"].append(rate)
            self._metrics["train"]["curriculum/open_tiers"].append(float(self.curriculum.open))
        return batch

    def _rows_of_mine(self, picked: list[int]) -> list[dict[str, Any]]:
        """This process's share of the rows of `picked` prompts, one row per completion."""
        spread = [index for index in picked for _ in range(self.num_generations)]
        share = len(spread) // self.accelerator.num_processes
        start = self.accelerator.process_index * share
        return [self.train_dataset[index] for index in spread[start : start + share]]

    def _scored(self, inputs: list[dict[str, Any]], picked: list[int] | None) -> Any:
        """A scored batch; the curriculum learns from it if it picked it."""
        batch = super()._generate_and_score_completions(inputs)
        if self.curriculum is not None and picked is not None:
            passed = torch.tensor(self.passes(), device=self.accelerator.device)
            spread = [index for index in picked for _ in range(self.num_generations)]
            self.curriculum.observe(spread, self.accelerator.gather(passed).tolist())
        return batch

    def passes(self) -> list[float]:
        """1.0 for each completion of the last scored batch that its verifier accepted."""
        breakdowns = self.reward_funcs[0].breakdowns
        return [float(any(b.scores.get(name) == 1 for name in VERIFIERS)) for b in breakdowns]

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        rewards_NF = super()._calculate_rewards(*args, **kwargs)
        total_N = (rewards_NF * self.reward_weights.to(rewards_NF.device)).nansum(dim=1)
        self.rewards_N = total_N.masked_fill(rewards_NF.isnan().all(dim=1), torch.nan)
        return rewards_NF

    def _signal(self) -> list[bool]:
        """Of each group of the last scored batch over all processes: whether its rewards differ."""
        groups = self.rewards_N.view(-1, self.num_generations)
        least = groups.nan_to_num(nan=torch.inf).amin(dim=1)
        return (groups.nan_to_num(nan=-torch.inf).amax(dim=1) - least > DIFFERENT).tolist()

    def _resampled(self, batch: Any, config: DynamicSampling) -> Any:
        """The batch with further groups in the places of those without signal.

        The usual figures stay those of the first draw, which no selection has touched.
        """
        processes, group = self.accelerator.num_processes, self.num_generations
        metrics = self._metrics["train"]
        logged = {name: len(values) for name, values in metrics.items()}
        signal = self._signal()
        replaced = drawn = 0
        while self.sampling_round < config.max_rounds and sum(signal) < config.enough * len(signal):
            self.sampling_round += 1
            count = most_lacking(signal, processes) * processes
            picked = self._further(drawn, count)
            drawn += count
            further = self._scored(self._rows_of_mine(picked), picked)
            pairs = replacements(signal, self._signal(), processes)
            mine = pairs[self.accelerator.process_index]
            places, sources = ([g[side] * group + i for g in mine for i in range(group)] for side in (0, 1))
            batch = with_rows(batch, further, places, sources, self._tokenizer.pad_token_id)
            share = len(signal) // processes
            for process, found in enumerate(pairs):
                replaced += len(found)
                for place, _ in found:
                    signal[process * share + place] = True
        for name in list(metrics):
            del metrics[name][logged.get(name, 0) :]
            if name not in logged:
                del metrics[name]
        metrics["dynamic_sampling/rounds"].append(float(self.sampling_round))
        metrics["dynamic_sampling/replaced"].append(replaced / len(signal))
        metrics["dynamic_sampling/without_signal"].append(signal.count(False) / len(signal))
        self.sampling_round = 0
        trained = batch["completion_mask"] * batch.get("tool_mask", 1)
        batch["num_items_in_batch"] = self.accelerator.gather(trained.sum()).sum()
        return batch

    def _further(self, drawn: int, count: int) -> list[int]:
        """Indices of further prompts, equal on every process: the curriculum's, or those of a permutation."""
        step = self.state.global_step
        if self.curriculum is not None:
            return self.curriculum.pick(step, count, self.sampling_round)
        return further_prompts(self.args.seed, step, len(self.train_dataset), drawn, count)

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        self.order = super()._get_train_sampler(dataset)
        return self.order

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.curriculum is not None and self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            (folder / CURRICULUM).write_text(json.dumps(self.curriculum.state()), encoding="utf-8")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.order.shuffle:
            # TRL's sampler draws one permutation an epoch from a generator that no checkpoint holds.
            rounds = self.order.num_samples // self.order.batch_size
            steps = rounds * self.options.updates_per_generation * self.num_iterations
            for _ in range(self.state.global_step // steps):
                torch.randperm(self.order.num_samples, generator=self.order.generator)
        if checkpoint is not None and self.curriculum is not None:
            self.curriculum.restore(json.loads((Path(checkpoint) / CURRICULUM).read_text(encoding="utf-8")))
