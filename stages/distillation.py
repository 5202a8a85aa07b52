"""Distillation: a small student learns from curated traces and from fresh, verified samples of the teacher.

DeepSeek-R1 distils by supervised fine-tuning alone (arXiv 2501.12948v2, appendix B.4.3: 800k rows, 2 to 3 epochs,
1e-4 for the 1.5B student); text is what teacher and student share, so their tokenizers may differ, and so may their
architectures: the student is a causal model or one with an encoder.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from data.artifact import Artifact, Kind
from data.records import Row, without_completion
from data.template import CONVENTIONS
from rewards.reward import Status
from stages.inputs import path_of, rows_of
from stages.rollout.options import SamplingConfig, engine_preflight
from stages.scoring import SAFETY_MODEL, Scored, Spec, safety_doubt
from stages.stage import Context, Input, Inputs, Outcome, Placement, Stage
from stages.training.arguments import supervised_preflight
from stages.training.early_stopping import hold_out
from stages.training.options import CompletionConfig, check_supervised


class TeacherSampling(SamplingConfig):
    """How the teacher is sampled."""

    samples: int = Field(4, ge=1)
    per_prompt: int = Field(2, ge=1)
    """The most samples of one prompt that the student learns from."""


class DistillationConfig(CompletionConfig):
    """`distillation` in a configuration."""

    learning_rate: float = Field(1e-4, gt=0)
    epochs: float = Field(2.0, gt=0)
    teacher: TeacherSampling = TeacherSampling()


VERIFICATION = ({"name": "correctness", "weight": 1.0}, {"name": "safety", "weight": 1.0})
"""What the teacher's samples are verified with; safety judges rows that say whether to decline."""


def check(config: DistillationConfig, wired: Collection[str], placement: Placement) -> None:
    """Stage.check: there is something to learn from."""
    check_supervised(config, wired, placement)
    if ("teacher" in wired) != ("prompts" in wired):
        raise ValueError("teacher_from and prompts_from belong together; only one of them is wired")
    if "safety" in wired and "teacher" not in wired:
        raise ValueError("safety_from judges what the teacher says; wire teacher_from with prompts_from")
    if "data" not in wired and "teacher" not in wired:
        raise ValueError("nothing to learn from; wire data_from, or teacher_from with prompts_from")


def run(config: DistillationConfig, inputs: Inputs, out: Path, context: Context) -> Outcome:
    """Train `init` on the rows of `data` and on what `teacher` answers to `prompts`."""
    from stages.training.seq2seq import has_encoder, train_seq2seq
    from stages.training.sft import encode_pairs, repeat, train_sft

    began = time.monotonic()
    counts: dict[str, int] = {}
    rows = list(rows_of(inputs.get("data", ())))
    counts["rows_curated"] = len(rows)
    if inputs.get("teacher"):
        prompts = list(rows_of(inputs["prompts"]))
        safety = path_of(inputs, "safety")
        rows += teacher_rows(config.teacher, prompts, inputs["teacher"][0], context, counts, safety)
    sampled = time.monotonic() - began
    student = inputs["init"][0].path
    pairs = encode_pairs(student, rows, config.max_length, context, counts)
    pairs, held = hold_out(pairs, config.early_stopping, context.seed)
    sequence = repeat([item for _, item in pairs], config.epochs, config.batch_size, context.seed)
    train = train_seq2seq if has_encoder(student) else train_sft
    outcome = train(config, sequence, student, out, context, counts, held)
    return replace(outcome, timings={**outcome.timings, "sampling": sampled})


def mix(config: DistillationConfig, wired: Collection[str]) -> Sequence[Spec]:
    """Stage.mix: what the teacher's samples are verified with."""
    return verification("safety" in wired) if "teacher" in wired else ()


def verification(safety: bool) -> Sequence[Spec]:
    """The rewards that verify, with a safety model or without."""
    return (*VERIFICATION, {"name": SAFETY_MODEL}) if safety else VERIFICATION


def teacher_rows(
    config: TeacherSampling,
    prompts: Sequence[Row],
    teacher: Artifact,
    context: Context,
    counts: dict[str, int],
    safety: str | None = None,
) -> list[Row]:
    """The teacher's answers that are well formed and, where rules can tell, right and safe; each text once a prompt.

    None that the safety model in the directory `safety` calls unsafe, or cannot judge, whatever the rules say.
    """
    from stages.rollout.collect import collect, visible_prefill
    from stages.scoring import complete, sample_of, score_samples

    groups = collect(config, prompts, teacher.path, context, "teacher")
    prefill = visible_prefill(teacher.path, context)
    samples = [
        sample_of(row, drawn, context, prefill=prefill, limit=config.max_tokens)
        for row, group in zip(prompts, groups, strict=True)
        for drawn in group
    ]
    specs = complete(verification(safety is not None), None, context, "distillation", safety)
    scored = score_samples(specs, samples, context, "verifying")
    kept: list[Row] = []
    convention = CONVENTIONS[context.convention]
    for number, row in enumerate(prompts):
        texts: list[str] = []
        for k in range(config.samples):
            i = number * config.samples + k
            text, correct = samples[i].completion, scored[i].correct
            if samples[i].truncated or not convention.parse(text).well_formed:
                reason = "teacher: cut short or not in the convention"
            elif scored[i].undecided:
                reason = f"teacher: {scored[i].undecided}"
            elif correct is not None and correct < 1:
                reason = "teacher: wrong"
            elif correct is None and _unsafe(scored[i]):
                reason = "teacher: unsafe, or declines for no reason"
            elif doubt := safety_doubt(scored[i], SAFETY_MODEL):
                reason = f"teacher: {doubt}"
            elif text in texts:
                reason = "teacher: duplicate"
            elif len(texts) >= config.per_prompt:
                reason = "teacher: over per_prompt"
            else:
                texts.append(text)
                reason = "teacher: kept"
                completion = [{"role": "assistant", "content": text}]
                made = {"id": f"{row['id']}#{k}", "completion": completion, "source": teacher.fingerprint}
                kept.append(without_completion(row) | made)
            counts[reason] = counts.get(reason, 0) + 1
    return kept


def _unsafe(scored: Scored) -> bool:
    """Whether the safety reward gave less than full marks, or broke; a row that it does not judge is safe."""
    fine = (Status.OK, Status.NOT_APPLICABLE)
    score = scored.scores.get("safety")
    return (score is not None and score < 1) or scored.status.get("safety", Status.OK) not in fine


def preflight(config: DistillationConfig) -> None:
    """Stage.preflight: TRL's arguments, and the engine that the teacher samples with."""
    supervised_preflight(config)
    try:
        engine_preflight(config.teacher)
    except ValueError as error:
        raise ValueError(f"teacher.{error}") from None


DISTILLATION = Stage(
    name="distillation",
    version=2,
    summary="SFT of a small student on curated traces and verified samples of the teacher",
    config=DistillationConfig,
    needs={
        "init": Input(kind=Kind.MODEL),
        "data": Input(kind=Kind.DATASET, many=True, optional=True),
        "teacher": Input(kind=Kind.MODEL, optional=True),
        "prompts": Input(kind=Kind.DATASET, many=True, optional=True),
        "safety": Input(kind=Kind.MODEL, optional=True, scorer=True, judges="safety"),
    },
    makes=Kind.MODEL,
    run=run,
    check=check,
    mix=mix,
    preflight=preflight,
)
