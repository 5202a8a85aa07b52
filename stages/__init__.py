"""The stages of the recipe. STAGES is an explicit table whose entries are imported when they are asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages.stage import Stage


class StageTable(Mapping[str, "Stage"]):
    """Stage names to the constants that define them ("module:NAME"); listing the names imports nothing."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = dict(places)

    def __getitem__(self, name: str) -> Stage:
        module, _, constant = self._places[name].partition(":")
        stage: Stage = getattr(importlib.import_module(module), constant)
        return stage

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


STAGES: Mapping[str, Stage] = StageTable(
    {
        "cold_start": "stages.cold_start:COLD_START",
        "sft_mix": "stages.sft_mix:SFT_MIX",
        "reasoning_rl": "stages.reasoning_rl:REASONING_RL",
        "rejection_sampling": "stages.rejection_sampling:REJECTION_SAMPLING",
        "general_rl": "stages.general_rl:GENERAL_RL",
        "distillation": "stages.distillation:DISTILLATION",
        "continued_pretraining": "stages.continued_pretraining:CONTINUED_PRETRAINING",
        "preference_model": "stages.preference_model:PREFERENCE_MODEL",
        "review": "stages.review:REVIEW",
        "safety_model": "stages.safety_model:SAFETY_MODEL",
        "evaluation": "stages.evaluation:EVALUATION",
    }
)
