"""Evaluation: sample a held-out set from a checkpoint, score every completion, report figures with intervals."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from data.artifact import ROWS_NAME, Contract, Kind
from data.records import Row, write_rows
from stages.checkable import checkable
from stages.gates import Gate, check_figures
from stages.inputs import path_of, rows_of
from stages.measures import Result, measure, tally
from stages.rollout.collect import collect, visible_prefill
from stages.rollout.options import SamplingConfig, engine_preflight
from stages.scoring import Spec, complete, sample_of, score_samples
from stages.stage import Context, Input, Inputs, Outcome, Placement, Stage

OPEN_DOMAINS = ("general", "safety")
"""Domains that a preference model judges."""
FROM_MODELS = {"preference": "preference", "safety_model": "safety", "unsafe_share": "safety"}
"""Figures that a model gives, and the input that it is wired to."""
FEWEST_WORDS = 3
"""Words of the target language that the language figure asks for. The reward asks for more, since what it pays for
can be gamed; a figure is not optimised against, and short chains are to be measured too."""


class EvaluationConfig(SamplingConfig):
    """`evaluate` in a configuration, or a step of its own."""

    NO_IDENTITY: ClassVar[frozenset[str]] = frozenset({"gates"})

    rows: int | None = Field(None, ge=1)
    """Use the first so many rows; None takes all."""
    rewards: tuple[Spec, ...] | None = None
    """Rewards to report; None takes those that the rows call for: correctness, format, language, safety, and
    preference and safety_model where a model is wired."""
    gates: dict[str, Gate] = Field(default_factory=dict)
    """Bounds of figures; where one is not met, nothing is built on the checkpoint. They change no figure."""

    @model_validator(mode="after")
    def _figures_exist(self) -> Self:
        try:
            check_figures(self.gates, self.samples)
        except ValueError as error:
            raise ValueError(f"gates: {error}") from None
        return self


def fitting_rewards(rows: Sequence[Row], preference: bool, safety: bool = False) -> list[dict[str, Any]]:
    """The rewards that apply to some of the rows."""
    domains = {row["domain"] for row in rows}
    wanted = {
        "correctness": any(row.get("answer") is not None or row.get("tests") is not None for row in rows),
        "format": True,
        "language": True,
        "safety": "safety" in domains,
    }
    specs: list[dict[str, Any]] = [{"name": name} for name, applies in wanted.items() if applies]
    for spec in specs:
        if spec["name"] == "language":
            spec["min_words"] = FEWEST_WORDS
    if preference and domains & set(OPEN_DOMAINS):
        specs.append({"name": "preference", "domains": list(OPEN_DOMAINS)})
    if safety and "safety" in domains:
        specs.append({"name": "safety_model", "domains": ["safety"]})
    return specs


def mix(config: EvaluationConfig, wired: Collection[str]) -> Sequence[Spec]:
    """Stage.mix: what is known before the rows are."""
    return config.rewards or [{"name": "correctness"}]


def check(config: EvaluationConfig, wired: Collection[str], placement: Placement) -> None:
    """Stage.check: a gate on what a model says has a model that says it."""
    for figure, need in FROM_MODELS.items():
        if figure in config.gates and need not in wired:
            raise ValueError(f"gates: {figure} is not measured without {need}_from")


def run(config: EvaluationConfig, inputs: Inputs, out: Path, context: Context) -> Outcome:
    """Sample, score and measure `init` on the rows of `data`. Raises ValueError if there are none."""
    began = time.monotonic()
    checkpoint = inputs["init"][0].path
    every = list(rows_of(inputs["data"]))
    model, safety = path_of(inputs, "preference"), path_of(inputs, "safety")
    fitting = config.rewards or fitting_rewards(every, model is not None, safety is not None)
    specs = complete(fitting, model, context, "evaluation", safety)
    counts: dict[str, int] = {}
    rows = checkable(every, specs, counts, verified=False)[: config.rows]
    if not rows:
        raise ValueError("evaluation: the data set has no row that can be measured")
    prefill = visible_prefill(checkpoint, context)
    groups = collect(config, rows, checkpoint, context, "sampling")
    sampled = time.monotonic()
    samples = [
        [sample_of(row, drawn, context, prefill=prefill, limit=config.max_tokens) for drawn in group]
        for row, group in zip(rows, groups, strict=True)
    ]
    scored = iter(score_samples(specs, [s for group in samples for s in group], context, "scoring"))
    results = [Result(row, group, [next(scored) for _ in group]) for row, group in zip(rows, samples, strict=True)]
    write_rows(out / ROWS_NAME, (line for result in results for line in result.lines()))
    return Outcome(
        contract=Contract(convention=context.convention),
        metrics=measure(results, config.samples),
        counts={**counts, **tally(results)},
        timings={"sampling": sampled - began, "scoring": time.monotonic() - sampled},
    )


EVALUATION = Stage(
    name="evaluation",
    version=1,
    summary="helper: figures with intervals on a held-out set",
    config=EvaluationConfig,
    needs={
        "init": Input(kind=Kind.MODEL),
        "data": Input(kind=Kind.DATASET, many=True),
        "preference": Input(kind=Kind.MODEL, optional=True, scorer=True),
        "safety": Input(kind=Kind.MODEL, optional=True, scorer=True, judges="safety"),
    },
    makes=Kind.DATASET,
    run=run,
    check=check,
    mix=mix,
    preflight=engine_preflight,
)
