"""The held-out probe: its prompts are never trained on, and taking it changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import rewards
from data.tiny.world import rows
from stages.stage import Context
from stages.training.probe import FEWEST, ProbeConfig, hold_out, probe_metrics, verifier_of
from tests.reinforcement import lines, reinforce
from tests.tiny_model import one_thread  # noqa: F401


def asked(found: list[dict[str, Any]]) -> set[str]:
    return {repr(row["prompt"]) for row in found}


def test_prompts_of_the_probe_are_not_trained_on() -> None:
    every = list(rows("rl", 400))
    every += [{**row, "id": f"{row['id']}-again"} for row in every[:200]]  # a prompt that occurs twice goes twice
    train, probe = hold_out(every, ProbeConfig(rows=64, share=0.5), seed=1)
    assert len(probe) == 64
    assert len(asked(probe)) == 64
    assert not asked(train) & asked(probe)
    assert asked(train) | asked(probe) == asked(every)
    assert [row for row in every if repr(row["prompt"]) not in asked(probe)] == train
    assert hold_out(every, ProbeConfig(rows=64, share=0.5), seed=1) == (train, probe)
    assert hold_out(every, ProbeConfig(rows=64, share=0.5), seed=2)[1] != probe


def test_a_probe_takes_its_share_at_most_and_is_left_out_where_it_could_tell_nothing() -> None:
    every = list(rows("rl", 400))
    prompts = len(asked(every))
    assert len(hold_out(every, ProbeConfig(), seed=0)[1]) == int(0.05 * prompts)
    few = every[: FEWEST * 19]
    assert hold_out(few, ProbeConfig(), seed=0) == (few, [])
    assert hold_out(every, None, seed=0) == (every, [])


def test_rows_without_a_readable_gold_are_no_probe() -> None:
    every = list(rows("rl", 100))
    broken = [{**row, "answer": None, "tests": None} for row in every[:50]]
    _, probe = hold_out([*broken, *every[50:]], ProbeConfig(rows=40, share=0.5), seed=0)
    assert probe
    assert not asked(probe) & asked(broken)


def test_the_verifier_of_a_mix_has_neither_weight_nor_gate(tmp_path: Path) -> None:
    context = Context(seed=0, convention="think_answer", work=tmp_path, sandbox="weak")
    mix = rewards.build(
        [
            {"name": "format", "weight": 0.5},
            {"name": "accuracy", "weight": 0, "gate": "format", "domains": ["x"], "schedule": {0: 0.0}, "echo": False},
        ]
    )
    [term] = verifier_of(mix, context).terms
    assert (term.name, term.weight, term.gate, term.domains, term.schedule) == ("accuracy", 1.0, (), (), None)
    assert term.reward.echo is False
    [own] = verifier_of(rewards.build([{"name": "format"}]), context).terms
    assert own.reward.program == {"sandbox": "weak"}


PROBED = {"steps": 5, "probe": {"every": 2, "rows": 20, "share": 0.5}, "updates_per_generation": 1}


@pytest.mark.slow
def test_a_probe_changes_nothing_of_the_training(tmp_path: Path) -> None:
    often = reinforce(tmp_path / "often", count=80, **PROBED)
    once = reinforce(tmp_path / "once", count=80, **{**PROBED, "probe": {**PROBED["probe"], "every": 100}})  # type: ignore[dict-item]
    one, two = (load_file(tmp_path / name / "out" / "model.safetensors") for name in ("often", "once"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    taken = {
        name: [line["step"] for line in lines(tmp_path / name / "out" / "history.jsonl") if "probe/accuracy" in line]
        for name in ("often", "once")
    }
    assert taken == {"often": [1, 3, 5], "once": [1]}
    assert often.metrics["probe_first"] == once.metrics["probe_first"]
    assert often.metrics["probe_first"].n == 20
    assert often.timings["probe"] > 0
    off = reinforce(tmp_path / "off", count=80, **{**PROBED, "probe": None})
    assert "probe_first" not in off.metrics
    assert "probe" not in off.timings


def test_with_several_updates_a_round_the_probe_comes_with_the_round(tmp_path: Path) -> None:
    reinforce(tmp_path, count=80, **{**PROBED, "steps": 8, "updates_per_generation": 4, "micro_batch_size": 4})
    found = [line["step"] for line in lines(tmp_path / "out" / "history.jsonl") if "probe/accuracy" in line]
    assert found == [1, 5]


def test_too_few_prompts_beside_the_probe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="prompts_per_step is 30, but there are only 20 prompts beside the 20 of the"):
        reinforce(tmp_path, prompts_per_step=30, probe={"rows": 20, "share": 0.5})


def test_first_and_last_probe_are_reported_with_their_interval(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    history.write_text('{"step": 1, "probe/accuracy": 0.5, "probe/n": 64}\n{"step": 2}\n')
    found = probe_metrics(history)
    assert found["probe_first"] == found["probe_last"]
    assert (found["probe_first"].value, found["probe_first"].n) == (0.5, 64)
    assert found["probe_first"].low < 0.4 < 0.6 < found["probe_first"].high
    history.write_text('{"step": 1}\n')
    assert probe_metrics(history) == {}
