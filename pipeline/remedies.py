"""The smallest change that makes a step fit, found by planning it again with every combination of changes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.architecture import COUNTED
from pipeline.estimate import Estimate
from pipeline.hardware import GIB
from pipeline.launch_files import resolve
from pipeline.setting import module_numbers
from pipeline.sharding import read_accelerate
from stages.training.options import ReinforcementConfig

WAYS = (("zero2", 1.5), ("zero3", 2.0), ("zero3_offload", 5.0))
"""Files of configs/accelerate/ that are proposed, with their cost."""
RANK = 16
"""Of the adapters that are proposed."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to change: what to write, what it costs, and the step with it."""

    text: str
    cost: float
    """Rank among the changes: what only takes time is cheap, what changes the result is dear."""
    after: Estimate


def remedy(step: Estimate) -> str:
    """What to do about a step that does not fit, as one line."""
    sizes = (step.setting.sizes if step.setting else None, step.sampled)
    if any(found is not None and found.family in COUNTED for found in sizes):
        return "take a smaller model, or accelerators with more memory"
    changes = _samplers(step) if step.setting is None else _combinations(step)
    for change in changes:
        if change.after.fits:
            needs = f"{change.after.total / GIB:.1f} of {change.after.limit / GIB:.1f} GiB"
            return f"{change.text} (then {needs})"
    return "nothing helps; take a shorter length, a smaller model, or accelerators with more memory"


def _combinations(step: Estimate) -> Iterator[Change]:
    """Every combination of changes, cheapest first."""
    kinds = (_checkpointing, _micro_batch, _sampled_at_once, _precision, _sharding, _modules, _adapters)
    combinations = [
        tuple(filter(None, chosen)) for chosen in itertools.product(*([None, *kind(step)] for kind in kinds))
    ]
    for changes in sorted(combinations, key=lambda changes: sum(change.cost for change in changes)):
        after = step
        for change in changes:
            after = _with(after, change)
        if not _refused(after):
            yield Change(", ".join(change.text for change in changes), 0.0, after)


def _refused(step: Estimate) -> bool:
    """Whether the step would be refused like that."""
    s = step.setting
    assert s is not None
    beside = (s.ahead > 0 or s.anchored) and s.adapters > 0
    shared = s.whole and s.sharding.engine in ("deepspeed", "fsdp")
    return beside or shared or (s.checkpointing and not s.recomputes)


def _with(step: Estimate, change: Change) -> Estimate:
    """`step` with what `change` changed, and nothing else of it."""
    assert step.setting is not None
    assert change.after.setting is not None
    key = change.text.partition(":")[0]
    if key in ("engine_options", "batch_tokens"):
        return replace(step, work=change.after.work)
    changed = {name: getattr(change.after.setting, name) for name in _FIELDS[key]}
    return replace(step, setting=replace(step.setting, **changed))


_FIELDS = {
    "launch.gradient_checkpointing": ("checkpointing",),
    "micro_batch_size": ("sequences",),
    "launch.mixed_precision": ("mixed",),
    "launch.accelerate_config": ("sharding",),
    "mtp": ("trainable", "ahead", "whole"),
    "lora": ("trainable", "adapters"),
}
"""What of a setting each key decides."""


def _changed(step: Estimate, text: str, cost: float, **values: object) -> Change:
    assert step.setting is not None
    setting = replace(step.setting, **values)  # type: ignore[arg-type]
    return Change(text, cost, replace(step, setting=setting))


def _checkpointing(step: Estimate) -> Iterator[Change]:
    assert step.setting is not None
    if not step.setting.checkpointing:
        yield _changed(step, "launch.gradient_checkpointing: true", 1.0, checkpointing=True)


def _micro_batch(step: Estimate) -> Iterator[Change]:
    assert step.setting is not None
    # A preference model reads pairs: two sequences for one of micro_batch_size.
    least = 2 if step.stage == "preference_model" else 1
    size, cost = step.setting.sequences // 2, 0.4
    while size >= least:
        yield _changed(step, f"micro_batch_size: {size // least}", cost, sequences=size)
        size, cost = size // 2, cost + 0.4


def _sampled_at_once(step: Estimate) -> Iterator[Change]:
    """Fewer sequences side by side for a sampler that shares the accelerators with the training."""
    work = step.work.drawing
    if work is not None and work.in_trainer:
        yield from _fewer_positions(step)
        if work.engine == "vllm":
            for at, share in enumerate((0.5, 0.4, 0.3, 0.2, 0.1)):
                if share < work.share:
                    yield _option(step, "gpu_memory_utilization", share, 0.5 + at / 10)


def _fewer_positions(step: Estimate) -> Iterator[Change]:
    work = step.work.drawing
    assert work is not None
    tokens, cost = work.batch_tokens // 2, 0.5
    while work.engine == "transformers" and tokens >= work.width:
        yield _option(step, "batch_tokens", tokens, cost)
        tokens, cost = tokens // 2, cost + 0.5


def _option(step: Estimate, key: str, value: float, cost: float, engine: str | None = None) -> Change:
    """`engine_options` with one key changed, and another engine if that is given."""
    work = step.work.drawing
    assert work is not None
    options = {} if engine and engine != work.engine else dict(work.options)
    drawing = replace(work, engine=engine or work.engine, options={**options, key: value})
    text = f"engine_options: {{{key}: {value}}}" + (f" with engine: {engine}" if engine else "")
    if work.in_trainer and key in ReinforcementConfig.model_fields:
        text = f"{key}: {value}"
    return Change(text, cost, replace(step, work=replace(step.work, drawing=drawing)))


def _precision(step: Estimate) -> Iterator[Change]:
    assert step.setting is not None
    if not step.setting.mixed and step.gpu.name != "cpu":
        yield _changed(step, "launch.mixed_precision: bf16", 0.7, mixed=True)


def _sharding(step: Estimate) -> Iterator[Change]:
    assert step.setting is not None
    now = step.setting.sharding
    for name, cost in WAYS:
        sharding = read_accelerate(resolve("accelerate_config", name, Path()))
        more = sharding.stage > now.stage or (sharding.offload_optimiser and not now.offload_optimiser)
        if more and (step.accelerators > 1 or sharding.offload_optimiser):
            yield _changed(step, f"launch.accelerate_config: {name}", cost, sharding=sharding)


def _modules(step: Estimate) -> Iterator[Change]:
    assert step.setting is not None
    if ahead := step.setting.ahead:
        own = step.setting.trainable - ahead * module_numbers(step.setting.sizes)
        yield _changed(step, "mtp: null", 5.5, trainable=own, ahead=0, whole=step.setting.anchored)


def _adapters(step: Estimate) -> Iterator[Change]:
    assert step.setting is not None
    if not step.setting.adapters:
        numbers = step.setting.sizes.adapted * RANK
        yield _changed(step, f"lora: {{rank: {RANK}}}", 6.0, trainable=numbers, adapters=numbers)


def _samplers(step: Estimate) -> Iterator[Change]:
    """For a step that only samples."""
    work = step.work.drawing
    if work is None or work.engine == "vllm_server":
        return
    yield from _fewer_positions(step)
    for count in (1, 2, 4, 8, 16):
        if work.engine != "vllm" or count > work.shards:
            yield _option(step, "tensor_parallel_size", count, 0.0, "vllm")
