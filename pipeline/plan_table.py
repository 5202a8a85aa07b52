"""A plan for people, as a table in the terminal, and for programs, as JSON."""

from __future__ import annotations

from typing import Any

from pipeline.decoding import REACHED_BANDWIDTH, REACHED_PEAK
from pipeline.estimate import USABLE, Estimate
from pipeline.estimates import Plan
from pipeline.hardware import GIB
from pipeline.remedies import remedy
from pipeline.workload import SHARE_OF_LONGEST, Assumptions

COLUMNS = (
    "step",
    "model",
    "trained / all",
    "placement",
    "GiB needed",
    "of",
    "tokens",
    "sampled",
    "FLOPs",
    "training h",
    "sampling h",
)


def text(plan: Plan, assumptions: Assumptions) -> str:
    """The table, the parts of each step's memory, what does not fit and what to do, what was assumed."""
    lines = [
        *_aligned([COLUMNS, *(_row(step) for step in plan.steps), _total(plan)]),
        "",
        "One accelerator, GiB:",
    ]
    for step in plan.steps:
        lines.append(f"  {step.name}: {_parts(step)}")
    bad = [f"  {step.name}: {remedy(step)}" for step in plan.steps if not step.fits]
    lines += ["", *(["Does not fit; do this:", *bad] if bad else ["Every step fits."])]
    return "\n".join([*lines, "", "Assumed:", *(f"  {line}" for line in assumed(plan, assumptions))])


def _row(step: Estimate) -> tuple[str, ...]:
    s, work = step.setting, step.work
    trained = f"{_short(s.trainable)} / {_short(s.weights)}" if s else "-"
    placement = f"{step.accelerators} x {step.gpu.name}"
    if s is not None and s.sharding.engine != "none":
        placement += f", {s.sharding.label}"
    return (
        step.name,
        step.model,
        trained,
        placement,
        f"{step.total / GIB:.1f}",
        f"{step.limit / GIB:.1f}" + ("" if step.fits else " !"),
        _short(work.training.tokens) if work.training else "-",
        _short(work.drawing.tokens) if work.drawing else "-",
        f"{step.flops:.1e}",
        _hours(step.training_hours),
        _hours(step.sampling_hours),
    )


def _total(plan: Plan) -> tuple[str, ...]:
    trained = sum(step.work.training.tokens for step in plan.steps if step.work.training)
    sampled = sum(step.work.drawing.tokens for step in plan.steps if step.work.drawing)
    flops = sum(step.flops for step in plan.steps)
    hours = (sum(step.training_hours for step in plan.steps), sum(step.sampling_hours for step in plan.steps))
    return ("total", "", "", "", "", "", _short(trained), _short(sampled), f"{flops:.1e}", *map(_hours, hours))


def _parts(step: Estimate) -> str:
    told = []
    for name, size in step.parts.items():
        note = ""
        if name == "activations" and step.setting is not None:
            way = "without" if step.setting.checkpointing else "with"
            note = f" ({way} gradient checkpointing {step.other_activations / GIB:.1f})"
        told.append(f"{name} {size / GIB:.1f}{note}")
    host = f"; on the host, for each process: {step.host / GIB:.1f}" if step.host else ""
    when = f"; fullest while {step.fullest}" if len(step.moments) > 1 else ""
    rate = f"; samples {step.rate_of_one:,.0f} tokens a second" if step.rate_of_one is not None else ""
    if step.work.drawing is not None and step.work.drawing.engine == "vllm_server":
        told.append("sampled from servers, each taken for one accelerator of this kind")
    return ", ".join(told) + when + host + rate


def assumed(plan: Plan, assumptions: Assumptions) -> list[str]:
    """Everything that the figures rest on and the configuration does not say."""
    first = plan.steps[0] if plan.steps else None
    mean = (
        f"{assumptions.mean_tokens} tokens in a sequence or completion, or the most allowed where that is less"
        if assumptions.mean_tokens
        else f"sequences and completions {SHARE_OF_LONGEST:g} as long as the most allowed"
    )
    longest = "memory is that of sequences as long as allowed (--longest-tokens)"
    if assumptions.longest_tokens:
        longest = f"no sequence or completion is longer than {assumptions.longest_tokens} tokens (--longest-tokens)"
    lines = [
        f"{mean} (--mean-tokens)",
        longest,
        f"prompts of {assumptions.prompt_tokens} tokens (--prompt-tokens)",
    ]
    if first is not None:
        lines.append(f"training reaches {first.mfu:g} of the peak, recomputed passes counted as work (--mfu)")
        if first.rate is None:
            bound = f"{REACHED_BANDWIDTH:g} of the memory bandwidth, {REACHED_PEAK:g} of the peak, or dispatch"
            lines.append(f"sampling is bound by {bound} (--sampling-rate)")
        else:
            lines.append(f"one accelerator samples {first.rate:,.0f} tokens per second (--sampling-rate)")
        spared = f"less {first.gpu.overhead:g} GiB of the driver"
        lines.append(f"{USABLE:.0%} of {first.gpu.memory:g} GiB can be filled, {spared} (--gpu-memory)")
    return [*lines, "scoring, loading and saving take no time", *plan.notes]


def as_json(plan: Plan, assumptions: Assumptions) -> dict[str, Any]:
    """The plan for programs: bytes, tokens, FLOPs and hours."""
    steps = [
        {
            "name": step.name,
            "stage": step.stage,
            "model": step.model,
            "parameters": step.setting.weights if step.setting else step.sampled.parameters if step.sampled else 0,
            "trainable": step.setting.trainable if step.setting else 0,
            "gpu": step.gpu.name,
            "gpus": step.accelerators,
            "sharding": step.setting.sharding.label if step.setting else None,
            "memory": {name: round(size) for name, size in step.parts.items()},
            "memory_total": round(step.total),
            "memory_limit": round(step.limit),
            "memory_host": round(step.host),
            "fullest": step.fullest,
            "fits": step.fits,
            "remedy": None if step.fits else remedy(step),
            "activations_with_the_other_checkpointing": round(step.other_activations),
            "tokens_trained": round(step.work.training.tokens) if step.work.training else 0,
            "tokens_sampled": round(step.work.drawing.tokens) if step.work.drawing else 0,
            "flops": step.flops,
            "training_hours": step.training_hours,
            "sampling_hours": step.sampling_hours,
            "sampling_rate": step.rate_of_one,
        }
        for step in plan.steps
    ]
    return {"steps": steps, "assumed": assumed(plan, assumptions)}


def _short(number: float) -> str:
    """1,543,714,304 as 1.54B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def _hours(hours: float) -> str:
    return f"{hours:.1f}" if hours >= 0.1 or hours == 0 else f"{hours:.1g}"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
