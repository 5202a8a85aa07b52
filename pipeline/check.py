"""`r1 check`: everything that can be known to fail before the first training step, in seconds.

The checks are the table CHECKS; each is a function in a module beside this one that yields findings. Nothing is
trained, sampled or written. What depends on rows beyond the first twenty is not seen here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import (
    check_data,
    check_launch,
    check_lengths,
    check_machine,
    check_memory,
    check_model,
    check_parameters,
    check_rewards,
    check_text,
    check_verdicts,
)
from pipeline.check_findings import Finding, Level, fail, fine, warn
from pipeline.check_subject import Subject
from pipeline.config import load
from pipeline.graph import build
from pipeline.hub import offline_if_unreachable
from stages.stage import Stage


@dataclass(frozen=True, slots=True)
class Check:
    """One entry of the table."""

    name: str
    needs: tuple[str, ...]
    """What it looks at: `rows` of the datasets, `models`. Where some could not be read, its line says which."""
    find: Callable[[Subject], Iterator[Finding]]


CHECKS: Sequence[Check] = (
    Check("versions", (), check_machine.versions),
    Check("data", (), check_data.rows),
    Check("models", (), check_model.models),
    Check("tokenizers", (), check_model.tokenizers),
    Check("contracts", ("models",), check_model.contracts),
    Check("convention", ("rows",), check_data.convention),
    Check("verdicts", (), check_verdicts.verdicts),
    Check("template", ("rows", "models"), check_text.template),
    Check("labels", ("rows", "models"), check_text.labels),
    Check("prefill", ("models",), check_text.prefill),
    Check("lengths", ("rows", "models"), check_lengths.learned),
    Check("limits", ("rows", "models"), check_lengths.sampled),
    Check("domains", ("rows",), check_data.domains),
    Check("prompts", ("rows",), check_data.prompts),
    Check("golds", ("rows",), check_data.golds),
    Check("sandbox", ("rows",), check_machine.sandbox),
    Check("solutions", ("rows",), check_data.solutions),
    Check("rewards", ("rows", "models"), check_rewards.rewards),
    Check("trl", (), check_launch.trl),
    Check("parameters", ("models",), check_parameters.parameters),
    Check("launch", (), check_launch.launch),
    Check("engines", (), check_launch.engines),
    Check("disk", ("models",), check_machine.disk),
    Check("memory", ("models",), check_memory.memory),
)
"""In the order in which they are reported, behind `config`; cheap and basic ones first."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the report."""

    level: Level
    name: str
    detail: str

    def __str__(self) -> str:
        return f"{self.level:<4}  {self.name:<12}  {self.detail}"


def check(
    file: Path, overrides: Sequence[str], table: Mapping[str, Stage], run_dir: Path | None = None
) -> Iterator[Line]:
    """The lines of the report, as they are found. A configuration that cannot be read has one only."""
    try:
        config = load(file, overrides)
        nodes = build(config, table, file)
    except ValueError as error:
        yield Line(Level.FAIL, "config", " ".join(str(error).split()))
        return
    yield Line(Level.OK, "config", f"{file}: {len(config.steps)} steps, {len(nodes)} with data and evaluations")
    if any(source.hub for source in config.models.values()) or any("hub" in entry for entry in config.data.values()):
        offline_if_unreachable()
    subject = Subject(config, nodes, check_machine.run_directory(run_dir, config.name))
    for entry in CHECKS:
        yield from _lines(entry, subject)


def _lines(entry: Check, subject: Subject) -> Iterator[Line]:
    """Each thing that is wrong, once; one line with what was seen where nothing is."""
    seen: dict[Finding, None] = {}
    try:
        for finding in entry.find(subject):
            seen[finding] = None
    except Exception as error:  # a check that breaks is no proof that the rest is sound
        seen[fail(f"the check itself broke: {type(error).__name__}: {error}")] = None
    wrong = [finding for finding in seen if finding.level is not Level.OK]
    if not wrong:
        seen_well = next(iter(seen), fine("nothing to look at"))
        missing = [name for need in entry.needs for name in subject.broken[need]]
        wrong = [warn(f"{seen_well.text} (not seen: {', '.join(missing)})") if missing else seen_well]
    for finding in wrong:
        yield Line(finding.level, entry.name, finding.text)
