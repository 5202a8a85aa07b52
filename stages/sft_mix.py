"""SFT on a mix of domains, in phases: reasoning first, then general.

The seed recipe mixes 600k mathematics, 200k code and 100k science rows; a phase's weights are that ratio, whatever
the number of rows. The phases run one after the other in one step, under one learning-rate schedule.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from data import mixing
from data.artifact import Kind
from stages.inputs import check_together, rows_of
from stages.stage import Context, Input, Inputs, Outcome, Placement, Stage, StageConfig, unset
from stages.training.arguments import supervised_preflight
from stages.training.early_stopping import hold_out
from stages.training.ewc import RememberingConfig, check_remembering, old_task
from stages.training.pretraining import Pretraining, mixed

if TYPE_CHECKING:
    from stages.training.encode import Encoded


class Phase(StageConfig):
    """One phase of the mix."""

    name: str
    weights: Mapping[str, float] = Field(min_length=1)
    """Share of each domain, in any unit: {math: 6, code: 2, science: 1}."""
    rows: int | None = Field(None, ge=1)
    """Size of the phase in the unit `by`; None takes as much as the weights allow without repeating a row."""
    epochs: float = Field(1.0, gt=0)
    replay: float = Field(0.0, ge=0, lt=1)
    """Share of the phase that repeats rows of the phases before it, against forgetting."""

    @model_validator(mode="after")
    def _weights_can_be(self) -> Phase:
        mixing.quotas(self.weights, 1)
        return self


class SftMixConfig(RememberingConfig):
    """`sft_mix` in a configuration."""

    learning_rate: float = Field(1e-5, gt=0)
    phases: tuple[Phase, ...] = Field(min_length=1)
    by: Literal["rows", "tokens"] = "rows"
    """What the weights count."""
    repeat: bool = False
    """Whether a domain that is too small for its share may give a row more than once in a phase."""
    pretraining: Pretraining | None = Field(None, exclude_if=unset)
    """Text of `pretraining_from` among the rows, over all phases; None: rows only."""

    @model_validator(mode="after")
    def _phases_fit(self) -> SftMixConfig:
        names = [phase.name for phase in self.phases]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"phases: the name {twice[0]!r} occurs twice")
        if self.phases[0].replay:
            raise ValueError(f"phases.0.replay is {self.phases[0].replay}, but no phase comes before it")
        if self.early_stopping is not None and len(self.phases) > 1:
            raise ValueError("early_stopping takes one phase: with several it might end before the last one begins")
        return self


def check(config: SftMixConfig, wired: Collection[str], placement: Placement) -> None:
    """Stage.check: text where some is to be mixed in, an old task where one is to be remembered."""
    check_remembering(config, wired, placement)
    check_together("pretraining", config.pretraining is not None, "pretraining", wired)


def run(config: SftMixConfig, inputs: Inputs, out: Path, context: Context) -> Outcome:
    """Fine-tune `init` on the phases of the mix.

    Only rows that can be learned are weighed. A phase takes new rows first; where a domain has too few left, rows
    of earlier phases come again. Raises ValueError for a domain without rows, and for one that is too small.
    """
    from stages.training.sft import encode_pairs, repeat, train_sft

    model = inputs["init"][0].path
    counts: dict[str, int] = {}
    pairs = encode_pairs(model, list(rows_of(inputs["data"])), config.max_length, context, counts)
    if config.early_stopping is not None:  # what is measured is what is learned
        pairs = [pair for pair in pairs if config.phases[0].weights.get(pair[0]["domain"], 0) > 0]
    pairs, held = hold_out(pairs, config.early_stopping, context.seed)
    encoded = {id(row): item for row, item in pairs}
    phases = [
        mixing.Phase(
            name=phase.name,
            weights=phase.weights,
            count=phase.rows,
            by=config.by,
            replay=phase.replay,
            repeat=config.repeat,
            reuse=True,
        )
        for phase in config.phases
    ]
    try:
        stream = mixing.mix_phases(
            [row for row, _ in pairs], phases, context.seed, length=lambda row: len(encoded[id(row)].input_ids)
        )
    except ValueError as error:
        raise ValueError(f"{error} (early_stopping holds {len(held)} rows out)" if held else str(error)) from None
    drawn: dict[str, list[Encoded]] = {phase.name: [] for phase in phases}
    for name, row in stream:
        drawn[name].append(encoded[id(row)])
        key = f"rows in {name}: {row['domain']}"
        counts[key] = counts.get(key, 0) + 1
    sequence = []
    for number, phase in enumerate(config.phases):
        items = drawn[phase.name]
        sequence += repeat(items, phase.epochs * config.epochs, config.batch_size, context.seed + number)
    if config.pretraining is not None:
        texts = list(rows_of(inputs["pretraining"]))
        sequence = mixed(config.pretraining, sequence, texts, model, config.max_length, context, counts)
    old = old_task(config, inputs, context, counts)
    return train_sft(config, sequence, model, out, context, counts, held, old)


SFT_MIX = Stage(
    name="sft_mix",
    version=2,
    summary="SFT on domains mixed by weight, in phases",
    config=SftMixConfig,
    needs={
        "init": Input(kind=Kind.MODEL),
        "data": Input(kind=Kind.DATASET, many=True),
        "pretraining": Input(kind=Kind.DATASET, many=True, optional=True, texts="only"),
        "remember": Input(kind=Kind.DATASET, many=True, optional=True, texts="also"),
    },
    makes=Kind.MODEL,
    run=run,
    check=check,
    preflight=supervised_preflight,
)
