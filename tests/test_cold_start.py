"""Which rows cold_start learns from; training itself is tested elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import stages.training.sft
from data.artifact import ROWS_NAME, Artifact, Contract, Kind
from data.records import write_rows
from data.tiny.world import rows
from stages.cold_start import COLD_START, ColdStartConfig
from stages.stage import Context, Outcome


def test_rows_counts_usable_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caught: dict[str, Any] = {}

    def keep(
        config: Any, sequence: Any, model: Path, out: Path, context: Context, counts: dict[str, int], held: Any
    ) -> Outcome:
        caught.update(counts, sequences=len(sequence))
        return Outcome(contract=Contract())

    monkeypatch.setattr(stages.training.sft, "train_sft", keep)
    first, second, third, *rest = rows("cold_start", 20)
    bad: list[dict[str, Any]] = [
        {**first, "completion": None},
        {**second, "completion": [{"role": "assistant", "content": "no tags"}]},
        {**third, "completion": [{"role": "assistant", "content": f"<think>{'1 ' * 500}</think><answer>1</answer>"}]},
    ]
    write_rows(tmp_path / ROWS_NAME, [*bad, *rest])
    data = Artifact(kind=Kind.DATASET, path=tmp_path, fingerprint="x", name="x")
    base = Artifact(kind=Kind.MODEL, path=Path("data/tiny/base"), fingerprint="base", name="base")
    context = Context(seed=0, convention="think_answer", work=tmp_path)
    config = ColdStartConfig(rows=5, epochs=1, max_length=400)
    COLD_START.run(config, {"init": [base], "data": [data]}, tmp_path, context)
    assert caught == {
        "unusable: not in the convention think_answer": 1,
        "unusable: no completion": 1,
        "unusable: longer than 400 tokens": 1,
        "rows_used": 5,
        "sequences": 5,
    }


def test_nothing_to_learn_from_is_refused(tmp_path: Path) -> None:
    context = Context(seed=0, convention="none", work=tmp_path)
    with pytest.raises(ValueError, match="there is no row to train on; see the counts of unusable rows"):
        stages.training.sft.train_sft(ColdStartConfig(learning_rate=1e-3), [], tmp_path, tmp_path, context, {})
