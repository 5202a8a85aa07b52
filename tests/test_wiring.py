"""Mistakes in the real recipe that are refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import load
from pipeline.graph import build
from stages import STAGES

TINY = Path(__file__).resolve().parent.parent / "configs" / "tiny.yaml"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "steps.distillation.teacher_from=preference_model",
            "'preference_model' is a model that scores, one that writes",
        ),
        ("steps.general_rl.init_from=preference_model", "'preference_model' is a model that scores, one that writes"),
        ("steps.general_rl.preference_from=cold_start", "'cold_start' is a model that writes text, one that scores"),
        ("evaluate.preference_from=cold_start", "'cold_start' is a model that writes text, one that scores"),
        ("steps.cold_start.batch_size=true", "expected a number, got true"),
        ("steps.cold_start.max_length=false", "expected a number, got false"),
        ("steps.sft_mix.learning_rate=true", "expected a number, got true"),
        ("steps.sft_mix.stage=[sft_mix]", r"steps.sft_mix.stage: unknown stage \['sft_mix'\]"),
    ],
)
def test_the_recipe_with_one_mistake_is_refused(override, message):
    with pytest.raises(ValueError, match=message):
        build(load(TINY, [override]), STAGES, str(TINY))
