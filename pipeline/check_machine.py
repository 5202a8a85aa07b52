"""Checks of the machine for one configuration: versions, disk, and the sandbox where programs are run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.artifact import Kind
from pipeline import machine
from pipeline.check_findings import Finding, fail, fine, warn
from pipeline.check_subject import Subject
from pipeline.machine import readable
from pipeline.reward_specs import sandboxes
from pipeline.step import Node, Role
from pipeline.weights import parameter_count

SAVED = 4
"""Bytes a weight of a finished checkpoint: fp32."""
TRAINER = 2 * 12
"""Bytes a weight of the trainer's checkpoints: two at a time, each weights and Adam's two moments in fp32."""


def versions(subject: Subject) -> Iterator[Finding]:
    """Installed libraries are within the ranges that this version of the pipeline was made for."""
    needed = [name for name, (_, extra) in machine.requirements().items() if not extra]
    if any(node.launch.deepspeed or node.launch.zero for node in subject.steps):
        needed.append("deepspeed")
    for name in needed:
        if fault := machine.version_fault(name):
            yield fail(fault)
    yield fine(", ".join(f"{name} {machine.installed(name)}" for name in ("torch", "transformers", "trl")))


def disk(subject: Subject) -> Iterator[Finding]:
    """There is room for every checkpoint, and for the trainer's own of the largest step."""
    saved = trainer = 0
    for node in subject.nodes:
        if node.role is Role.STEP and node.stage.makes is Kind.MODEL:
            count = _parameters(subject, node)
            saved += SAVED * count
            trainer = max(trainer, TRAINER * count)
    there = sum(f.stat().st_size for f in subject.run_dir.glob("artifacts/**/*") if f.is_file())
    need = max(0, saved - there) + trainer
    free = machine.disk_free(subject.run_dir)
    said = f"{readable(need)} needed, {readable(free)} free at {subject.run_dir}"
    if need > free:
        yield fail(f"{said}; choose another place with --run-dir, or delete what is there")
    elif need > 0.8 * free:
        yield warn(f"{said}: it will be tight")
    yield fine(said)


def _parameters(subject: Subject, node: Node) -> int:
    """Weights of the model that the step trains; 0 where another check says that it cannot be read."""
    try:
        return parameter_count(subject.model(node.inputs["init"][0]).path) or 0
    except ValueError:
        return 0


def sandbox(subject: Subject) -> Iterator[Finding]:
    """The isolation of programs holds, where a reward runs programs and some row has tests."""
    modes = set()
    for node in subject.steps:
        wanted = sandboxes(node.stage, node.config, node.wired, subject.config.sandbox)
        names = [name for name in node.inputs if node.stage.needs[name].kind is Kind.DATASET]
        if wanted and any(row.get("tests") for name in names for row in subject.rows(node, name).rows):
            modes |= wanted
    for mode in sorted(modes):
        if fault := subject.sandbox_fault(mode):
            yield fail(f"{fault}; see docs/sandbox.md")
        elif mode == "weak":
            yield fine("weak holds what it promises: programs share this machine's process table")
    yield fine(f"{', '.join(sorted(modes))} holds" if modes else "no reward runs programs on these rows")


def run_directory(run_dir: Path | None, name: str) -> Path:
    """Where a run would put its artifacts."""
    return (run_dir or Path("runs") / name).resolve()
