"""Run one reinforcement stage: prompts and a reward mix in, a policy out. Shared by reasoning_rl and general_rl."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.contract import model_contract
from data.records import Row
from stages.stage import Context, Metric, Outcome
from stages.training.arguments import accumulation, trl_arguments
from stages.training.kl import tier_numbers
from stages.training.options import CISPO_CAP, ReinforcementConfig
from stages.training.probe import Probe, hold_out, probe_metrics
from stages.training.truncation import truncation_warning

if TYPE_CHECKING:
    from rewards.combine import Mix


def prompt_columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Rows as columns for TRL: the prompt, the difficulty for the curriculum, and what a reward may see of a row."""
    from rewards.adapter import RECORD, record_of

    columns: dict[str, list[Any]] = {
        "prompt": [row["prompt"] for row in rows],
        RECORD: [record_of(row) for row in rows],
    }
    if any(row.get("difficulty") is not None for row in rows):
        columns["difficulty"] = [row.get("difficulty") for row in rows]
    return columns


def train_grpo(
    config: ReinforcementConfig,
    rows: Sequence[Row],
    mix: Mix,
    model_path: Path,
    out: Path,
    context: Context,
    counts: dict[str, int],
) -> Outcome:
    """Train the policy at `model_path` on the prompts and save it into `out`.

    Raises ValueError where there are fewer prompts than one step takes.
    """
    began = time.monotonic()
    from datasets import Dataset
    from trl import GRPOConfig

    from data.template import CONVENTIONS
    from rewards.adapter import as_trl
    from rewards.scoring import ScoringPool
    from stages.training.adapting import adapter, grow
    from stages.training.groups import count_parameters, freeze
    from stages.training.grpo_trainer import ReasoningTrainer
    from stages.training.kl_trainer import KL_TIER
    from stages.training.models import (
        load_policy,
        load_tokenizer,
        save_trained,
        visible_prefill,
    )
    from stages.training.resume import last_checkpoint
    from stages.training.trainers import callbacks
    from stages.training.watch import Watch, alert_counts

    rows, probed = hold_out(rows, config.probe, context.seed)
    if len(rows) < config.prompts_per_step:
        beside = f" beside the {len(probed)} of the probe" if probed else ""
        raise ValueError(
            f"prompts_per_step is {config.prompts_per_step}, but there are only {len(rows)} prompts{beside}"
        )
    if config.curriculum is not None and all(row.get("difficulty") is None for row in rows):
        raise ValueError("curriculum: no row has a difficulty")
    columns = prompt_columns(rows)
    if config.kl_tiers:
        columns[KL_TIER] = tier_numbers(config.kl_tiers, rows)
    tokenizer = load_tokenizer(model_path, context.prefill)
    prefill = visible_prefill(tokenizer, CONVENTIONS[context.convention].reasoning_open)
    arguments = trl_arguments(
        GRPOConfig,
        config,
        context,
        steps=config.steps,
        batch_size=config.update_batch,
        **grpo_arguments(config, context),
    )
    model = load_policy(model_path, config)  # after the arguments: ZeRO-3 then shards the weights as it reads them
    freeze(model, config.freeze)
    grow(config.adapters, model, context.seed)
    with ScoringPool(workers=context.placement.reward_workers) as pool:
        reward = as_trl(
            mix, convention=context.convention, prefill=prefill, limit=config.max_completion_tokens, pool=pool
        )
        trainer = ReasoningTrainer(
            model=model,
            reward_funcs=[reward],
            args=arguments,
            train_dataset=Dataset.from_dict(columns),
            processing_class=tokenizer,
            callbacks=[*callbacks(context), Watch(config.sentries, context)],
            options=config,
            peft_config=adapter(config.adapters, model),
        )
        counts |= count_parameters(trainer.model)
        if config.probe is not None and probed:
            trainer.probe = Probe(
                config.probe, probed, mix, context, prefill=prefill, limit=config.max_completion_tokens, pool=pool
            )
        if trainer.accelerator.is_main_process and (warning := truncation_warning(config)):
            print(f"{context.name}: warning: {warning}", file=sys.stderr)
        with trainer.sampler_opened(model_path, context.work):
            ready = time.monotonic()
            trainer.train(resume_from_checkpoint=last_checkpoint(context.work))
            trained = time.monotonic()
            # vLLM, when it closes, takes down the process group in which the processes save together.
            save_trained(trainer, tokenizer, out, context.work)
    history = context.work / "history.jsonl"
    parts = {name: trainer.seconds[name] for name in ("sampling", "scoring", *(["probe"] if probed else []))}
    return Outcome(
        contract=model_contract(out, context.convention),
        metrics={**last_steps(history), **probe_metrics(history)},
        counts={
            **counts,
            "probe_rows": len(probed),
            "optimiser_steps": config.steps,
            "completions": config.steps * config.update_batch,
            **alert_counts(context.work),
        },
        timings={
            "loading": ready - began,
            "training": trained - ready - sum(parts.values()),
            **parts,
            "saving": time.monotonic() - trained,
        },
    )


def grpo_arguments(config: ReinforcementConfig, context: Context) -> dict[str, Any]:
    _, accumulate = accumulation(config.update_batch, config.micro_batch_size, context.placement.processes)
    updates = config.updates_per_generation
    round_steps = updates * int(config.trl.get("num_iterations", 1))
    return {
        # Checkpoints lie between rounds of sampling: a round that is resumed inside would be sampled again.
        "save_steps": -(-context.placement.checkpoint_steps // round_steps) * round_steps,
        "num_generations": config.num_generations,
        "steps_per_generation": accumulate * updates,
        "max_completion_length": config.max_completion_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "beta": config.greatest_beta,
        "sync_ref_model": config.reference_reset_steps is not None and config.adapters is None,
        "ref_model_mixup_alpha": 1.0,
        "ref_model_sync_steps": config.reference_reset_steps or 512,
        "epsilon": config.epsilon,
        "epsilon_high": CISPO_CAP if config.loss_type == "cispo" and not config.epsilon_high else config.epsilon_high,
        "loss_type": config.loss_type,
        "importance_sampling_level": config.importance_sampling,
        "scale_rewards": config.scale_rewards,
        "mask_truncated_completions": config.mask_truncated,
        "vllm_importance_sampling_correction": config.importance_cap is not None,
        "vllm_importance_sampling_mode": "token_truncate",
        "vllm_importance_sampling_clip_max": config.importance_cap,
        "log_completions": False,
        "remove_unused_columns": False,
    }


def last_steps(history: Path, count: int = 10) -> Mapping[str, Metric]:
    """Means over the last logged steps of what tells whether the run is healthy.

    The interval is the normal one over steps; steps of one run are not independent, so it is a rough guide.
    """
    lines = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    metrics = {}
    for name in ("reward", "kl", "entropy", "frac_reward_zero_std", "completions/clipped_ratio"):
        values = [line[name] for line in lines if name in line][-count:]
        if values:
            mean = sum(values) / len(values)
            spread = (sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1) / len(values)) ** 0.5
            key = f"train_{name.rpartition('/')[2]}"
            metrics[key] = Metric(value=mean, n=len(values), low=mean - 1.96 * spread, high=mean + 1.96 * spread)
    return metrics
