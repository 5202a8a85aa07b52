"""Lines of `r1 check` that depend on more than the configuration: the machine, part of the rows, a verifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import machine
from pipeline.check_findings import Level
from pipeline.check_lengths import positions_of
from pipeline.machine import Gpu
from rewards.correctness import Correctness
from rewards.reward import Sample, Verdict
from tests.check_faults import LEARNING, TESTS, both, edit, more, program, rl, rows, said, scorer, top
from tests.check_world import World, chain, problem

MIX = {"name": "mix", "stage": "sft_mix", "init_from": "rl", "data_from": "chains", "max_length": 256, "batch_size": 4}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def told(world: World, level: Level) -> list[str]:
    found = [f"{line.name}: {line.detail}" for line in world.check() if line.level is level]
    return [text.replace(str(world.folder), "FOLDER") for text in found]


def pair(number: int, words: int = 1) -> dict[str, Any]:
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in ("good " * words, "bad"))
    return problem(number, chosen=chosen, rejected=rejected)


@pytest.fixture
def pairs(world: World) -> World:
    """A step that learns pairs, beside the others."""
    world.tree["data"]["pairs"] = {"source": "records", "path": "pairs.jsonl"}
    more({**LEARNING, "data_from": "pairs", "max_length": 64})(world)
    world.rows("pairs", [pair(1), pair(2)])
    return world


def test_programs_that_cannot_be_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    both(program("def f(x):\n    return 2 * x"), top(sandbox="bubblewrap"))(world)
    monkeypatch.setenv("PATH", "/nonexistent")
    missing = (
        "sandbox: bubblewrap is not installed; run `apt-get install bubblewrap` (or your system's equivalent), or "
        "choose `sandbox: weak` and accept that programs are isolated less"
    )
    assert told(world, Level.FAIL) == [
        f"sandbox: {missing}; see docs/sandbox.md",
        f"solutions: data.problems: reference programs cannot be run: {missing}",
    ]


def test_one_solution_of_several_fails(world: World) -> None:
    tested = [problem(n, answer=None, tests=TESTS, solution=f"def f(x):\n    return {n} * x") for n in (2, 3)]
    both(rows("problems", *tested), rl(prompts_per_step=1))(world)
    assert not told(world, Level.FAIL)
    assert told(world, Level.WARN) == [
        "solutions: data.problems: 1 of 2 rows are left out; unusable: p3: its own solution does not pass its tests "
        "(wrong)"
    ]


def test_a_domain_that_may_come_later(world: World) -> None:
    """More rows than were seen, and a name that looks like one of theirs."""
    phases = [{"name": "one", "weights": {"maths": 1, "chemistry": 1}}]
    both(rows("chains", *[chain(n) for n in range(30)]), more({**MIX, "phases": phases}))(world)
    assert not told(world, Level.FAIL)
    assert told(world, Level.WARN) == [
        "domains: steps.mix.phases.one.weights: no row of the domain 'maths'; did you mean 'math'? (among the first "
        "rows of each dataset)"
    ]


def test_a_card_without_bf16(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: (Gpu("Tesla T4", 16 << 30, 7.5),))
    top(launch={"mixed_precision": "bf16"})(world)
    assert told(world, Level.WARN) == [
        "launch: launch.mixed_precision: Tesla T4 has no bf16; fp16 is what it computes fast"
    ]
    top(launch={"mixed_precision": "fp16"})(world)
    assert not told(world, Level.WARN) + told(world, Level.FAIL)


def test_zero_without_deepspeed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = machine.installed
    monkeypatch.setattr(machine, "installed", lambda name: None if name == "deepspeed" else real(name))
    world.step("rl", launch={"zero": 3})
    fault = "deepspeed is not installed; pip install 'r1-pipeline[deepspeed]'"
    assert told(world, Level.FAIL) == [f"versions: {fault}", f"launch: steps.rl.launch.zero: {fault}"]


def test_rows_behind_the_positions_that_the_model_was_made_for(world: World) -> None:
    """Rotary positions go on behind their end; a table of them does not, see check_faults.py."""
    edit("config.json", max_position_embeddings=30)(world)
    assert not told(world, Level.FAIL)
    assert told(world, Level.WARN) == [
        "lengths: steps.cold_start: row 'c0' is longer than the 30 positions of the model; set max_length to 30",
        "limits: steps.rl.max_completion_tokens: 6 of 6 prompts and 64 tokens exceed the 30 positions of models.base",
    ]


def test_one_prompt_that_fills_the_positions(world: World) -> None:
    both(
        rows("problems", *[problem(n) for n in range(5)], problem(9, prompt=[said("1 + " * 60)])),
        rl(max_completion_tokens=16),
        edit("config.json", max_position_embeddings=100),
    )(world)
    assert [line for line in told(world, Level.WARN) if line.startswith("limits")] == [
        "limits: steps.rl: 1 of 6 prompts alone fill the 100 positions of models.base, the first is that of row 'p9'"
    ]


def test_pairs_that_are_too_long(pairs: World) -> None:
    assert not told(pairs, Level.FAIL) + told(pairs, Level.WARN)
    pairs.rows("pairs", [pair(1), pair(2, words=80)])
    [line] = told(pairs, Level.WARN)
    assert line.startswith(
        "lengths: steps.pm.max_length: 1 of 2 rows (50%) are longer than 64 tokens and left out, the first is 'p2'; "
    )
    pairs.rows("pairs", [pair(1, words=90), pair(2, words=80)])
    [line] = told(pairs, Level.FAIL)
    assert line.startswith("lengths: steps.pm.max_length: 2 of 2 rows (100%) are longer than 64 tokens and left out, ")


def test_a_scorer_whose_tokenizer_cannot_be_read(world: World) -> None:
    both(
        scorer(architectures=["Qwen2ForSequenceClassification"], id2label={"0": "score"}),
        lambda world: (world.folder / "judge" / "tokenizer_config.json").write_text('{"tokenizer_class": 3}'),
    )(world)
    [line] = told(world, Level.FAIL)
    assert line.startswith("tokenizers: models.judge: ")


@pytest.mark.parametrize(
    ("paid", "line"),
    [
        ("</answer>", "gives 1 to a wrong answer to row 'p0' (paid)"),
        ("", "gives 1 to an empty completion to row 'p0' (paid)"),
        ("9^{9", "gives 1 to a tower of powers to row 'p0' (paid)"),
    ],
)
def test_a_verifier_that_pays_for_what_is_wrong(
    world: World, monkeypatch: pytest.MonkeyPatch, paid: str, line: str
) -> None:
    judge = Correctness.judge_batch

    def generous(self: Correctness, samples: Sequence[Sample], pool: Any = None) -> list[Verdict]:
        verdicts = judge(self, samples, pool)
        fooled = [paid in sample.completion if paid else not sample.completion for sample in samples]
        return [replace(v, score=1.0, detail="paid") if f else v for v, f in zip(verdicts, fooled, strict=True)]

    monkeypatch.setattr(Correctness, "judge_batch", generous)
    rl(rewards=[{"name": "correctness"}])(world)
    assert told(world, Level.FAIL) == [f"rewards: steps.rl: rewards: 'correctness' {line}"]


@pytest.mark.parametrize(
    ("config", "most", "breaks"),
    [
        ({"model_type": "qwen2", "max_position_embeddings": 32768}, 32768, False),
        ({"model_type": "gpt2", "n_positions": 1024}, 1024, True),
        ({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}, 512, True),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512, True),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514}, 512, True),
        ({"model_type": "camembert", "max_position_embeddings": 514, "pad_token_id": 0}, 513, True),
        ({"model_type": "modernbert", "max_position_embeddings": 8192}, 8192, False),
        ({"model_type": "bart", "max_position_embeddings": 1024, "is_encoder_decoder": True}, 1024, False),
    ],
)
def test_how_long_a_sequence_may_be_and_whether_a_longer_one_breaks(
    config: dict[str, Any], most: int, breaks: bool
) -> None:
    assert positions_of(config) == (most, breaks)
