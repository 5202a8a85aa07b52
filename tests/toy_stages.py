"""Small stages that really write and resume, for the tests of the runner; run as `python tests/toy_r1.py run ...`.

A toy model is a config.json and a list of numbers, one for each training step, that depends on all it was made from.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from data.artifact import ROWS_NAME, Contract, Kind
from data.records import read_rows, write_rows
from stages.gates import Gate
from stages.stage import Context, Input, Inputs, Metric, Outcome, Stage, StageConfig


class TrainConfig(StageConfig):
    steps: int = Field(default=3, ge=1)
    learning_rate: float = 0.5
    step_seconds: float = 0.0
    fail: str = ""
    tokenizer: str = ""
    options: dict[str, int] = Field(default_factory=dict)


def read_numbers(path: Path) -> list[float]:
    return json.loads((path / "numbers.json").read_text()) if (path / "numbers.json").exists() else []


def train(config: TrainConfig, inputs: Inputs, out: Path, context: Context) -> Outcome:
    rows = [row for artifact in inputs["data"] for row in read_rows(artifact.path / ROWS_NAME)]
    init = inputs["init"][0]
    if config.fail == "value":
        raise ValueError("the toy was told to fail")
    if config.fail == "bug":
        raise RuntimeError("the toy broke")
    if config.fail == "stop" and os.environ.get("RANK") == "1":
        os.kill(os.getpid(), signal.SIGSTOP)
    if config.fail == "exit":
        os._exit(7)
    generator = random.Random(context.seed)
    checkpoint = context.work / "checkpoint.json"
    rank = int(os.environ.get("RANK", "0"))
    numbers = json.loads(checkpoint.read_text()) if checkpoint.exists() else []
    resumed = len(numbers)
    for step in range(config.steps):
        noise = generator.random()
        if step < resumed:
            continue
        with (context.work.parent / "steps.log").open("a") as log:
            log.write(f"{context.work.name} {step}\n")
        numbers.append(sum(read_numbers(init.path)) + config.learning_rate * noise * len(rows))
        if rank == 0:  # as in a real trainer: two ranks that rename one file lose a race now and then
            partial = context.work / "checkpoint.partial"
            partial.write_text(json.dumps(numbers))
            partial.replace(checkpoint)
        time.sleep(config.step_seconds)
    (out / "half").write_text("there while the directory is being filled")
    time.sleep(config.step_seconds)
    (out / "numbers.json").write_text(json.dumps(numbers))
    (out / "config.json").write_text("{}")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (init.path / name).exists():
            (out / name).write_bytes((init.path / name).read_bytes())
    if config.tokenizer:
        write_tokenizer(out, config.tokenizer)
    return Outcome(
        contract=Contract(convention=context.convention),
        counts={"rows_used": len(rows), "resumed_at": resumed, "rank": rank},
        timings={"training": config.step_seconds * config.steps},
    )


def write_tokenizer(path: Path, kind: str) -> None:
    """A tokenizer whose vocabulary is the letters of `kind`."""
    vocab = {letter: at for at, letter in enumerate(dict.fromkeys(kind))}
    (path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab, "merges": []}, "added_tokens": []}))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": "<pad>"}))
    (path / "chat_template.jinja").write_text("{{ messages }}")


class SampleConfig(StageConfig):
    keep_fraction: float = 0.5


def sample(config: SampleConfig, inputs: Inputs, out: Path, context: Context) -> Outcome:
    rows = list(read_rows(inputs["data"][0].path / ROWS_NAME))
    kept = rows[: max(1, int(len(rows) * config.keep_fraction))]
    write_rows(out / ROWS_NAME, kept)
    return Outcome(
        contract=Contract(convention=context.convention), counts={"kept": len(kept), "refused": len(rows) - len(kept)}
    )


class EvaluationConfig(StageConfig):
    NO_IDENTITY: ClassVar[frozenset[str]] = frozenset({"gates"})

    samples: int = 1
    gates: dict[str, Gate] = Field(default_factory=dict)


def evaluate(config: EvaluationConfig, inputs: Inputs, out: Path, context: Context) -> Outcome:
    numbers = read_numbers(inputs["init"][0].path)
    value = sum(numbers) / (1 + sum(numbers))
    write_rows(out / ROWS_NAME, [])
    metric = Metric(value=value, n=4 * config.samples, low=value - 0.1, high=value + 0.1)
    return Outcome(
        contract=Contract(convention=context.convention),
        metrics={"accuracy": metric, "format": metric, "language": metric},
    )


MODEL, DATASET = Input(kind=Kind.MODEL), Input(kind=Kind.DATASET, many=True)
SAME = Input(kind=Kind.MODEL, optional=True, same_tokenizer=True)

TOY = {
    stage.name: stage
    for stage in (
        Stage(
            name="toy_train",
            version=1,
            summary="Adds up numbers.",
            config=TrainConfig,
            needs={"init": MODEL, "data": DATASET, "teacher": SAME},
            makes=Kind.MODEL,
            run=train,
            torch=False,
        ),
        Stage(
            name="toy_judge",
            version=1,
            summary="Makes a model that does not write.",
            config=TrainConfig,
            needs={"init": MODEL, "data": DATASET},
            makes=Kind.MODEL,
            run=train,
            torch=False,
            generative=False,
        ),
        Stage(
            name="toy_sample",
            version=1,
            summary="Keeps the first rows.",
            config=SampleConfig,
            needs={"init": MODEL, "data": Input(kind=Kind.DATASET)},
            makes=Kind.DATASET,
            run=sample,
            torch=False,
        ),
        Stage(
            name="evaluation",
            version=1,
            summary="Measures numbers.",
            config=EvaluationConfig,
            needs={
                "init": MODEL,
                "data": DATASET,
                "preference": Input(kind=Kind.MODEL, optional=True, scorer=True),
            },
            makes=Kind.DATASET,
            run=evaluate,
            torch=False,
        ),
    )
}
