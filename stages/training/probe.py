"""A probe during reinforcement learning: prompts that are never trained on, sampled now and then, judged by verifiers.

What training is paid for can be gamed; the probe asks only whether answers are right (Gao et al. 2022,
arXiv 2210.10760: the proxy rises while the gold reward falls).
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from data.records import Row, prompt_origin
from stages.stage import Context, Metric, StageConfig

if TYPE_CHECKING:
    from rewards.combine import Mix
    from rewards.scoring import ScoringPool

FEWEST = 16
"""Prompts below which a probe could tell nothing, and none is held out."""


class ProbeConfig(StageConfig):
    """`probe` of a reinforcement stage."""

    every: int = Field(20, ge=1)
    """Optimiser steps between probes; the first is before the first step."""
    rows: int = Field(64, ge=1)
    """The most prompts that are held out."""
    share: float = Field(0.05, gt=0, le=0.5)
    """The most of the step's prompts that may be held out."""


def hold_out(rows: Sequence[Row], config: ProbeConfig | None, seed: int) -> tuple[list[Row], list[Row]]:
    """(rows to train on, rows of the probe): disjoint in their prompts, a function of the rows and the seed.

    Only rows with a gold that can be read are drawn. Nothing is held out where fewer than `FEWEST` prompts may be.
    """
    if config is None:
        return list(rows), []
    from stages.checkable import checkable

    prompts = [prompt_origin(row) for row in rows]
    judged = {id(row) for row in checkable(rows, [{"name": "correctness"}], {}, verified=True)}
    places: dict[str, int] = {}
    for at, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        if id(row) in judged:
            places.setdefault(prompt, at)
    count = min(config.rows, int(config.share * len(places)))
    if count < FEWEST:
        return list(rows), []
    chosen = random.Random(f"{seed}/probe").sample(list(places), count)
    held = set(chosen)
    return [row for prompt, row in zip(prompts, rows, strict=True) if prompt not in held], [
        rows[places[prompt]] for prompt in chosen
    ]


def verifier_of(mix: Mix, context: Context) -> Mix:
    """The verifiers of a mix without weights, gates and domains; `correctness` where it has none."""
    import rewards
    from rewards.accuracy import Accuracy
    from rewards.combine import Mix
    from rewards.correctness import Correctness
    from rewards.program import Program
    from stages.scoring import complete

    own = [term for term in mix.terms if isinstance(term.reward, Correctness | Program | Accuracy)]
    if not own:
        return rewards.build(complete([{"name": "correctness"}], None, context, "probe"))
    return Mix(terms=tuple(replace(term, weight=1.0, gate=(), domains=(), schedule=None) for term in own))


class Probe:
    """Samples the held-out prompts with a trainer's own engine and logs `probe/accuracy` and `probe/n`."""

    def __init__(
        self,
        config: ProbeConfig,
        rows: Sequence[Row],
        mix: Mix,
        context: Context,
        *,
        prefill: str,
        limit: int,
        pool: ScoringPool,
    ) -> None:
        self.config, self.rows, self.context = config, rows, context
        self.prefill, self.limit, self.pool = prefill, limit, pool
        self.verifier = verifier_of(mix, context)

    def due(self, step: int, stride: int) -> bool:
        """Whether a probe belongs before the optimiser step after `step`, where one is asked every `stride` steps."""
        return step == 0 or step // self.config.every > (step - stride) // self.config.every

    def take(self, trainer: Any, stride: int) -> None:
        """Probe if it is `due`: one completion a prompt at the temperature of training, seeded by the step.

        Called by every process before it samples for training; each takes its share of the prompts. Touches no
        global generator.
        """
        import torch

        if not self.due(trainer.state.global_step, stride):
            return
        began, sampling = time.perf_counter(), trainer.seconds["sampling"]
        accelerator = trainer.accelerator
        mine = self.rows[accelerator.process_index :: accelerator.num_processes]
        # One without a share samples all the same: gathering sharded weights takes every process.
        verdicts = self._judge(trainer, mine or self.rows[:1])[: len(mine)]
        counts = torch.tensor([float(sum(verdicts)), float(len(verdicts))], device=accelerator.device)
        right, n = accelerator.reduce(counts, "sum").tolist()
        if n:
            trainer._metrics["train"]["probe/accuracy"].append(right / n)
            trainer._metrics["train"]["probe/n"].append(n)
        trainer.seconds["sampling"] = sampling
        trainer.seconds["probe"] += time.perf_counter() - began

    def _judge(self, trainer: Any, rows: Sequence[Row]) -> list[bool]:
        """Whether each answer is right; those that no verifier could decide are left out."""
        from stages.rollout.prompts import prompt_ids
        from stages.rollout.transformers_engine import end_tokens
        from stages.scoring import sample_of

        tokenizer = trainer.processing_class
        made = trainer._generate_single_turn([prompt_ids(tokenizer, row["prompt"]) for row in rows], None, {}, 1)[0]
        ends = end_tokens(trainer.accelerator.unwrap_model(trainer.model), tokenizer)
        texts: list[str] = tokenizer.batch_decode(made, skip_special_tokens=True)
        samples = [
            sample_of(
                row,
                {"text": text, "tokens": len(ids), "finished": ids[-1:] != [] and ids[-1] in ends},
                self.context,
                prefill=self.prefill,
                limit=self.limit,
            )
            for row, ids, text in zip(rows, made, texts, strict=True)
        ]
        found = []
        for breakdown in self.verifier.score(samples, pool=self.pool):
            scores = [score for score in breakdown.scores.values() if score is not None]
            found += [max(scores) == 1] if scores else []
        return found


def probe_metrics(history: Path) -> dict[str, Metric]:
    """The first and the last probe of a run, with Wilson's interval."""
    from stages.statistics import wilson

    lines = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    probes = [line for line in lines if "probe/accuracy" in line]
    metrics = {}
    for name, line in zip(("probe_first", "probe_last"), probes[:1] + probes[-1:], strict=False):
        share, n = line["probe/accuracy"], line["probe/n"]
        low, high = wilson(share, n)
        metrics[name] = Metric(value=share, n=round(n), low=low, high=high)
    return metrics
