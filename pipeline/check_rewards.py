"""Every reward of every step on completions whose score is known: right ones, wrong ones, empty ones, hostile ones.

A verifier must give full marks to the gold, none to a wrong answer, and end in time whatever it reads. A reward that
loads a model or asks an endpoint (preference, safety_model, judge) is only built.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.records import Row
from data.template import CONVENTIONS
from pipeline.check_findings import Finding, fail, fine, warn
from pipeline.check_subject import Subject
from pipeline.reward_probes import good, hostile, wrong
from pipeline.reward_specs import check_rewards, sandboxes
from pipeline.step import Node
from stages.stage import Context

if TYPE_CHECKING:
    from rewards.combine import Term
    from rewards.reward import Sample, Verdict

SECONDS = 15.0
"""Wall time that a reward may take over one batch of probes; a killable verifier needs about two."""
PROGRAMS = 2
"""Rows whose tests are run, for each step."""
VERIFIERS = ("Accuracy", "Correctness", "Program")
NOT_TRIED = ("Preference", "SafetyModel", "Judge")
"""They need a model, or somebody who answers."""


def rewards(subject: Subject) -> Iterator[Finding]:
    """The check."""
    tried: set[str] = set()
    names: set[str] = set()
    for node in subject.steps:
        if node.stage.mix is None or not node.stage.mix(node.config, node.wired):
            continue
        config = subject.config
        try:
            check_rewards(node.stage, node.config, node.wired, config.sandbox, config.convention, subject.where(node))
        except ValueError as error:
            yield fail(str(error))
            continue
        terms = _terms(subject, node)
        for name in ("data", "prompts"):
            rows = _rows(subject, node, name) if name in node.stage.needs else []
            key = json.dumps([[str(term) for term in terms], [row["id"] for row in rows]])
            if not rows or key in tried:
                continue
            tried.add(key)
            for term in terms:
                names.add(term.name)
                yield from _prove(subject, node, term, rows)
    yield fine(f"full marks for golds, none for wrong, empty and hostile answers: {', '.join(sorted(names)) or 'none'}")


def _terms(subject: Subject, node: Node) -> list[Term]:
    """The rewards of the step that can be tried here and now."""
    import rewards
    from stages.scoring import complete

    assert node.stage.mix is not None
    context = Context(seed=0, convention=subject.config.convention, work=Path(), sandbox=subject.config.sandbox)
    specs = complete(node.stage.mix(node.config, node.wired), "wired", context, "rewards", "wired")
    terms = rewards.build(specs).terms
    return [term for term in terms if type(term.reward).__name__ not in NOT_TRIED]


def _rows(subject: Subject, node: Node, name: str) -> list[Row]:
    """Rows to be tried: all that have an answer, a few with programs, none of those where programs cannot be run."""
    from stages.checkable import checkable

    assert node.stage.mix is not None
    specs = node.stage.mix(node.config, node.wired)
    rows = checkable(subject.rows(node, name).rows, specs, {}, verified=False)
    rows = [row for row in rows if row["id"] not in subject.unproved]
    modes = sandboxes(node.stage, node.config, node.wired, subject.config.sandbox)
    most = 0 if any(subject.sandbox_fault(mode) for mode in modes) else PROGRAMS
    convention = subject.config.convention
    programs = [row for row in rows if row.get("tests") is not None]
    programs.sort(key=lambda row: good(row, convention) is None)  # those whose gold can be tried come first
    return [row for row in rows if row.get("tests") is None] + programs[:most]


def _prove(subject: Subject, node: Node, term: Term, rows: Sequence[Row]) -> Iterator[Finding]:
    """One reward on every kind of completion."""
    where = f"{subject.where(node)}: rewards: {term.name!r}"
    rows = [row for row in rows if not term.domains or row["domain"] in term.domains]
    if not rows:
        return
    convention = subject.config.convention
    proper = [(row, text) for row in rows if (text := good(row, convention)) is not None]
    false = [(row, text) for row in rows if (text := wrong(row, convention)) is not None]
    kind = type(term.reward).__name__
    full = (*VERIFIERS, "Format")
    batches: list[tuple[str, list[tuple[Row, str]], Callable[[float], bool]]] = [
        ("the gold answer", proper, lambda score: kind in full and score < 1),
        ("a wrong answer", false, lambda score: kind in VERIFIERS and score >= 1),
        ("an empty completion", [(row, "") for row in rows], lambda score: kind in full and score >= 1),
    ]
    for what, text in hostile(convention).items():
        batches.append((what, [(row, text) for row in rows[:2]], lambda score: kind in VERIFIERS and score >= 1))
    for what, pairs, bad in batches:
        if not pairs:
            continue
        samples = [_sample(subject, node, row, text) for row, text in pairs]
        verdicts = _judged(term, samples)
        if isinstance(verdicts, str):
            yield fail(f"{where} {verdicts} on {what}")
            return
        if finding := _finding(where, what, [row for row, _ in pairs], verdicts, bad):
            yield finding
            return
        free = [v.score for v in verdicts if v.score is not None]
        if what == "an empty completion" and kind not in full and free and min(free) >= 1 and not term.gate:
            yield warn(f"{where} pays {free[0]:g} for {what}; hold it back with a gate, as in gate: correctness")


def _finding(
    where: str, what: str, rows: Sequence[Row], verdicts: Sequence[Verdict], bad: Callable[[float], bool]
) -> Finding | None:
    """The first row that got what it must not get."""
    from rewards.reward import Status

    for row, verdict in zip(rows, verdicts, strict=True):
        why = f" ({verdict.detail})" if verdict.detail else ""
        if verdict.score is None:
            if verdict.status is not Status.NOT_APPLICABLE:
                return fail(f"{where} has no score for {what} to row {row['id']!r}: {verdict.status}{why}")
        elif bad(verdict.score):
            return fail(f"{where} gives {verdict.score:g} to {what} to row {row['id']!r}{why}")
    return None


def _sample(subject: Subject, node: Node, row: Row, text: str) -> Sample:
    """What the reward would see if the model wrote `text`, given what the chat template writes before it."""
    from stages.scoring import sample_of
    from stages.training.models import visible_prefill

    convention = CONVENTIONS[subject.config.convention]
    tokenizer = subject.tokenizer_or_none(node.inputs["init"][0])
    prefill = visible_prefill(tokenizer, convention.reasoning_open) if tokenizer is not None else ""
    context = Context(seed=0, convention=convention.name, work=Path(), sandbox=subject.config.sandbox)
    written = text.removeprefix(prefill)
    drawn: Any = {"text": written, "finished": True, "tokens": len(written.split())}
    return sample_of(row, drawn, context, prefill=prefill if text else "", limit=len(written) + 1)


def _judged(term: Term, samples: Sequence[Sample]) -> list[Verdict] | str:
    """The verdicts; or, as half a sentence, why there are none."""
    from rewards.combine import judge_each

    result: list[list[Verdict] | str] = []

    def judge() -> None:
        try:
            result.append(judge_each(term.reward, samples))
        except Exception as error:  # a user's function may raise anything
            said = " ".join(str(error).split())[:200]
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "  # ours says what it is
            result.append(f"breaks ({kind}{said})")

    thread = threading.Thread(target=judge, daemon=True)  # one that hangs must not keep the command alive
    thread.start()
    thread.join(SECONDS)
    return result[0] if result else f"did not end within {SECONDS:g} s"
