"""The mix of sft_mix: what it draws, by rows and by tokens, over phases; training itself is tested elsewhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import stages.training.sft
from data.artifact import ROWS_NAME, Artifact, Contract, Kind
from data.records import write_rows
from data.tiny.world import rows
from stages.sft_mix import SFT_MIX, SftMixConfig
from stages.stage import Context, Outcome
from stages.training.encode import Encoded, encode
from stages.training.models import load_tokenizer

BASE = Artifact(kind=Kind.MODEL, path=Path("data/tiny/base"), fingerprint="base", name="base")


def lesson(domain: str, number: int, size: int) -> dict[str, Any]:
    row = next(rows("cold_start", 1))
    said = [{"role": "assistant", "content": "1 " * size}]
    return {**row, "id": f"{domain}-{number}", "domain": domain, "completion": said}


def draw(folder: Path, monkeypatch: pytest.MonkeyPatch, data: list[dict[str, Any]], **config: Any) -> Any:
    """What the step would train on, in order, and its counts."""
    caught: list[Any] = []

    def keep(
        config: Any, sequence: list[Encoded], model: Path, out: Path, context: Context, counts: Any, held: Any, old: Any
    ) -> Outcome:
        caught[:] = [sequence, counts]
        return Outcome(contract=Contract())

    monkeypatch.setattr(stages.training.sft, "train_sft", keep)
    write_rows(folder / ROWS_NAME, data)
    artifact = Artifact(kind=Kind.DATASET, path=folder, fingerprint="x", name="x")
    context = Context(seed=3, convention="think_answer", work=folder)
    SFT_MIX.run(SftMixConfig(batch_size=4, **config), {"init": [BASE], "data": [artifact]}, folder, context)
    return caught


def test_phases_draw_different_rows_and_count_them_by_domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = [lesson("math", n, n + 2) for n in range(12)] + [lesson("code", n, n + 20) for n in range(12)]
    data += [lesson("math", 99, 500), {**lesson("math", 98, 5), "completion": None}]
    phases = [
        {"name": "one", "weights": {"math": 2, "code": 1}, "rows": 9},
        {"name": "two", "weights": {"math": 1, "code": 1}, "rows": 10},
    ]
    sequence, counts = draw(tmp_path, monkeypatch, data, phases=phases, max_length=200)
    assert len({tuple(item.input_ids) for item in sequence}) == len(sequence) == 19
    assert counts == {
        "rows_used": 24,
        "unusable: longer than 200 tokens": 1,
        "unusable: no completion": 1,
        "rows in one: math": 6,
        "rows in one: code": 3,
        "rows in two: math": 5,
        "rows in two: code": 5,
    }


def test_rows_null_takes_what_the_weights_allow_in_each_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = [lesson("math", n, n + 2) for n in range(6)] + [lesson("code", n, n + 20) for n in range(9)]
    both = {"weights": {"math": 2, "code": 1}}
    sequence, counts = draw(tmp_path, monkeypatch, data, phases=[{"name": "a", **both}, {"name": "b", **both}])
    assert [counts[f"rows in {name}"] for name in ("a: math", "a: code", "b: math", "b: code")] == [6, 3, 6, 3]
    assert len({tuple(item.input_ids) for item in sequence}) == 6 + 3 + 3, "code of the second phase is new"


def test_replay_repeats_rows_of_the_phase_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = [lesson("math", n, n + 2) for n in range(8)] + [lesson("code", n, n + 20) for n in range(8)]
    phases = [
        {"name": "a", "weights": {"math": 1}, "rows": 8},
        {"name": "b", "weights": {"code": 1}, "rows": 8, "replay": 0.25},
    ]
    sequence, counts = draw(tmp_path, monkeypatch, data, phases=phases)
    assert (counts["rows in b: code"], counts["rows in b: math"]) == (6, 2)
    assert len({tuple(item.input_ids) for item in sequence}) == 14


def test_by_tokens_weighs_prompt_and_completion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = [lesson("math", n, 10) for n in range(40)] + [lesson("code", n, 100) for n in range(40)]
    tokenizer = load_tokenizer(BASE.path)
    sizes = {d: len(encode(r["prompt"], r["completion"], tokenizer).input_ids) for d, r in
             (("math", data[0]), ("code", data[-1]))}  # fmt: skip
    phases = [{"name": "p", "weights": {"math": 1, "code": 1}, "rows": 2000}]
    sequence, counts = draw(tmp_path, monkeypatch, data, phases=phases, by="tokens")
    got = Counter(len(item.input_ids) for item in sequence)
    for domain, size in sizes.items():
        assert 1000 <= size * counts[f"rows in p: {domain}"] < 1000 + size
        assert got[size] == counts[f"rows in p: {domain}"]


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([{"name": "a", "weights": {"math": -1}}], "math must be a finite number that is not negative, got -1"),
        ([{"name": "a", "weights": {"math": 0}}], "at least one must be above 0"),
        ([{"name": "a", "weights": {"math": 1}, "replay": 0.5}], "phases.0.replay is 0.5, but no phase comes before"),
        ([{"name": "a", "weights": {"math": 1}}] * 2, "the name 'a' occurs twice"),
    ],
)
def test_phases_that_cannot_be_are_refused(phases: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SftMixConfig(phases=phases)
