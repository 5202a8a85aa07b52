"""Rewards: pure, picklable, one sample in, `float | None` out. The table of all of them, and how a mix is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rewards.accuracy import Accuracy
from rewards.chance import Random
from rewards.combine import Breakdown, Mix
from rewards.completeness import Completeness
from rewards.correctness import Correctness
from rewards.judge import Judge
from rewards.language import Language
from rewards.layout import Format
from rewards.length import Length, Overlong
from rewards.preference import Preference
from rewards.program import Program
from rewards.repetition import Repetition
from rewards.safety import Safety
from rewards.safety_model import SafetyModel
from rewards.table import build_mix

REWARDS: Mapping[str, type] = {
    "accuracy": Accuracy,
    "program": Program,
    "correctness": Correctness,
    "format": Format,
    "completeness": Completeness,
    "language": Language,
    "length": Length,
    "overlong": Overlong,
    "repetition": Repetition,
    "safety": Safety,
    "safety_model": SafetyModel,
    "preference": Preference,
    "judge": Judge,
    "random": Random,
}
"""Name to a frozen dataclass whose fields are the reward's parameters."""

DEFAULT: Sequence[Mapping[str, Any]] = (
    {"name": "correctness", "weight": 0.28},
    {"name": "completeness", "weight": 0.21, "gate": "correctness"},
    {"name": "format", "weight": 0.21, "gate": "correctness"},
    {"name": "language", "weight": 0.30},
)
"""Rules 0.7 (correctness 40 %, completeness 30 %, format 30 %) and language consistency 0.3."""


def build(
    specs: Sequence[Mapping[str, Any]] = DEFAULT, base_dir: Path | None = None, *, renormalise: bool = False
) -> Mix:
    """The mix that a list of specifications describes.

    Each is `{name: accuracy, ...}` for one of REWARDS, or `{path: my_rewards.py, function: brevity, ...}`, or
    `{function: package.module.name, ...}`; with `weight` (1.0), `gate` (names of rewards that must be 1),
    `domains`, `schedule` ({step: factor}), `label` (its name in the breakdown) and the reward's own parameters.
    Paths are taken relative to `base_dir`. Raises ValueError with one line.
    """
    return build_mix(specs, REWARDS, base_dir, renormalise)


__all__ = ["DEFAULT", "REWARDS", "Breakdown", "Mix", "build"]
