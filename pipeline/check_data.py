"""Checks of the data: the first rows of every dataset, what rewards can verify of them, how many there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data import files
from data.template import CONVENTIONS
from pipeline.check_findings import Finding, fail, fine, warn
from pipeline.check_subject import Peek, Subject
from pipeline.messages import nearest
from pipeline.preparation import PreparationConfig
from stages.cold_start import ColdStartConfig
from stages.sft_mix import SftMixConfig
from stages.training.kl import tier_numbers
from stages.training.options import ReinforcementConfig

REFUSED, ELSEWHERE = "unusable", "unusable: not in split"
"""Reasons that are worth a line, and one that is a choice."""
VERIFIED = ("reasoning_rl", "rejection_sampling")
"""Stages that leave out a row which nothing can verify."""


def rows(subject: Subject) -> Iterator[Finding]:
    """The files are there, and the first rows of every dataset are what the configuration says."""
    seen = 0
    for name, node in subject.datasets.items():
        assert isinstance(node.config, PreparationConfig)
        spec = node.config.spec
        try:
            if "path" in spec:
                files.resolve(spec["path"], Path(node.config.base_dir))
            peek = subject.peek(name)
        except ValueError as error:
            yield fail(f"data.{name}: {error}")
            continue
        refused = {reason: count for reason, count in peek.counts.items() if reason != "used"}
        said = ", ".join(f"{reason}: {count}" for reason, count in refused.items())
        if not peek.rows:
            yield fail(f"data.{name}: no usable row ({said or 'it is empty'})")
        elif any(reason.startswith(REFUSED) and not reason.startswith(ELSEWHERE) for reason in refused):
            yield warn(f"data.{name}: before {len(peek.rows)} rows could be used: {said}")
        seen += len(peek.rows)
    yield fine(f"{seen} rows of {len(subject.datasets)} datasets read")


def golds(subject: Subject) -> Iterator[Finding]:
    """Answers and tests can be read by the rewards of the steps that score them."""
    from stages.checkable import checkable

    usable = 0
    for node in subject.steps:
        if node.stage.mix is None:
            continue
        for name in ("data", "prompts"):
            found = subject.rows(node, name).rows if name in node.stage.needs else []
            counts: dict[str, int] = {}
            specs = node.stage.mix(node.config, node.wired)
            kept = checkable(found, specs, counts, verified=node.stage.name in VERIFIED)
            usable += len(kept)
            said = ", ".join(f"{reason}: {count}" for reason, count in counts.items())
            if found and not kept:
                yield fail(f"{subject.where(node)}.{name}_from: none of {len(found)} rows can be scored ({said})")
            elif counts:
                yield warn(f"{subject.where(node)}.{name}_from: of {len(found)} rows, {said}")
    yield fine(f"{usable} rows can be scored")


def solutions(subject: Subject) -> Iterator[Finding]:
    """Reference programs pass their own tests; preparation leaves out the rows whose program does not."""
    from pipeline.golds import proved

    tried = 0
    for name in subject.datasets:
        try:
            with_program = [row for row in subject.peek(name).rows if row.get("tests") and row.get("solution")]
            counts = {"used": len(with_program)}
            kept = list(proved(iter(with_program), subject.config.sandbox, counts))
        except ValueError as error:
            if name not in subject.broken["rows"]:
                yield fail(f"data.{name}: reference programs cannot be run: {error}")
            continue
        tried += len(with_program)
        subject.unproved |= {row["id"] for row in with_program} - {row["id"] for row in kept}
        wrong = [reason for reason in counts if reason != "used"]
        if with_program and not kept:
            yield fail(f"data.{name}: none of {len(with_program)} solutions passes its own tests; {wrong[0]}")
        elif wrong:
            yield warn(f"data.{name}: {len(wrong)} of {len(with_program)} rows are left out; {wrong[0]}")
    yield fine(f"{tried} reference programs pass their tests" if tried else "no dataset has reference programs")


def convention(subject: Subject) -> Iterator[Finding]:
    """Cold-start chains follow the output convention of the run: it is there that the model learns it."""
    layout = CONVENTIONS[subject.config.convention]
    followed = 0
    for node in subject.steps:
        if not isinstance(node.config, ColdStartConfig):
            continue
        chains = [row for row in subject.rows(node, "data").rows if row.get("completion")]
        wrong = [row for row in chains if not layout.parse(row["completion"][-1]["content"]).well_formed]
        followed += len(chains) - len(wrong)
        if not wrong:
            continue
        other = [
            c.name
            for c in CONVENTIONS.values()
            if c.tags and c.parse(wrong[0]["completion"][-1]["content"]).well_formed
        ]
        hint = f"; it follows {other[0]!r}" if other else f"; expected {' '.join(layout.tags)}"
        line = (
            f"{node.where}.data_from: {len(wrong)} of {len(chains)} completions do not follow the convention "
            f"{layout.name!r}, the first is row {wrong[0]['id']!r}{hint}"
        )
        yield fail(line) if len(wrong) == len(chains) else warn(line)
    yield fine(f"{followed} cold-start completions follow {layout.name!r}")


@dataclass(frozen=True, slots=True)
class _Prompts:
    """What an RL step can draw from."""

    peek: Peek
    usable: int
    """Of the rows that were looked at."""

    @property
    def most(self) -> int | None:
        """The most prompts that the step can have."""
        return self.usable if self.peek.whole else self.peek.most


def prompts(subject: Subject) -> Iterator[Finding]:
    """RL has a round of prompts, a difficulty on some of them where a curriculum asks for it, rows in each KL tier."""
    from stages.checkable import checkable

    said = []
    for node in subject.steps:
        if not isinstance(node.config, ReinforcementConfig) or node.stage.mix is None:
            continue
        peek = subject.rows(node, "data")
        specs = node.stage.mix(node.config, node.wired)
        kept = checkable(peek.rows, specs, {}, verified=node.stage.name in VERIFIED)
        most = _Prompts(peek, len(kept)).most
        wanted = node.config.prompts_per_step
        if most is not None and most < wanted and (kept or not peek.rows):
            yield fail(f"{node.where}.prompts_per_step is {wanted}, but there are only {most} prompts")
        if node.config.curriculum is not None and kept and all(row.get("difficulty") is None for row in kept):
            yield fail(f"{node.where}.curriculum: none of the first {len(kept)} rows has a difficulty")
        if kept and peek.whole:
            try:
                tier_numbers(node.config.kl_tiers, kept)
            except ValueError as error:
                yield fail(f"{node.where}.{error}")
        said.append(f"{node.where} takes {wanted} prompts a step")
    yield fine(", ".join(said) or "no step of reinforcement learning")


def domains(subject: Subject) -> Iterator[Finding]:
    """Every domain that a mix gives weight to has rows."""
    mixed = 0
    for node in subject.steps:
        if not isinstance(node.config, SftMixConfig):
            continue
        mixed += 1
        peek = subject.rows(node, "data")
        known = {row["domain"] for row in peek.rows}
        weighted = {domain: phase.name for phase in node.config.phases for domain, w in phase.weights.items() if w > 0}
        for domain, phase in weighted.items():
            if domain in known or not known:
                continue
            fixed = all(_one_domain(subject, source) for source in node.inputs["data"])
            line = f"{node.where}.phases.{phase}.weights: no row of the domain {domain!r}{nearest(domain, known)}"
            if peek.whole or fixed:
                yield fail(line)
            elif nearest(domain, known).startswith("; did"):
                yield warn(f"{line} (among the first rows of each dataset)")
    yield fine(f"{mixed} mixes have rows of their domains" if mixed else "no mix of domains")


def _one_domain(subject: Subject, source: str) -> bool:
    node = subject.datasets.get(source)
    return node is not None and isinstance(node.config, PreparationConfig) and "domain" in node.config.spec
