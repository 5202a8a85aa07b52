"""Sample every row of a dataset from a checkpoint, in shards that survive a kill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from data.artifact import fingerprint
from data.records import Row
from stages.rollout.engine import Engine, Sampling, open_engine
from stages.rollout.options import SamplingConfig
from stages.rollout.shards import finished, resume_shards
from stages.stage import Context

Drawn = dict[str, Any]
"""One completion as plain data: text (without the prefill), tokens, finished."""


def shard_seed(seed: int, shard: int) -> int:
    """Seed of a shard: it depends on its number alone, so that an interrupted run ends equal to an unbroken one."""
    return int(fingerprint([seed, "shard", shard]), 16)


def collect(
    config: SamplingConfig, rows: Sequence[Row], checkpoint: Path, context: Context, what: str
) -> list[list[Drawn]]:
    """`config.samples` completions for each row, in order. The engine is opened only if a shard is missing.

    Shards live in `context.work`, below a name that changes with whatever changes the samples.
    """
    sampling = config.sampling(context.seed)
    key = fingerprint([asdict(sampling), config.engine, config.shard_prompts, [row["prompt"] for row in rows]])
    directory = context.work / f"samples-{key}"
    count = ceil(len(rows) / config.shard_prompts)
    done = sum(finished(directory, shard) for shard in range(count)) * config.shard_prompts * config.samples
    total = len(rows) * config.samples
    with ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(
                total=total, initial=min(done, total), desc=f"{context.name}: {what}", unit="completion", smoothing=0.1
            )
        )
        engine: list[Engine] = []

        def make(shard: int) -> list[Row]:
            if not engine:
                engine.append(stack.enter_context(_open(config, checkpoint, context, bar.update)))
            part = rows[shard * config.shard_prompts :][: config.shard_prompts]
            return _sample(engine[0], part, config.sampling(shard_seed(context.seed, shard)))

        return [row["completions"] for part in resume_shards(directory, count, make) for row in part]


def _open(config: SamplingConfig, checkpoint: Path, context: Context, progress: Callable[[int], object]) -> Any:
    settings = {**config.engine_options, "prefill": context.prefill, "progress": progress}
    return open_engine(config.engine, checkpoint, **settings)


def _sample(engine: Engine, rows: Sequence[Row], sampling: Sampling) -> list[Row]:
    groups = engine.generate([row["prompt"] for row in rows], sampling)
    return [
        {
            "id": row["id"],
            "completions": [{"text": c.text, "tokens": len(c.token_ids), "finished": c.finished} for c in group],
        }
        for row, group in zip(rows, groups, strict=True)
    ]


def visible_prefill(checkpoint: Path, context: Context) -> str:
    """Text that a prompt already holds of the answer; rewards must see it in front of each completion."""
    from data.template import CONVENTIONS
    from stages.training.models import load_tokenizer
    from stages.training.models import visible_prefill as visible

    tokenizer = load_tokenizer(checkpoint, context.prefill)
    return str(visible(tokenizer, CONVENTIONS[context.convention].reasoning_open))
