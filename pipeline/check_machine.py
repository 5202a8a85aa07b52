"""Checks of the machine for one configuration: versions, disk, memory, and the sandbox where programs are run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.artifact import Kind
from pipeline import machine
from pipeline.check_findings import Finding, fail, fine, warn
from pipeline.check_subject import Subject
from pipeline.machine import GIB
from pipeline.reward_specs import sandboxes
from pipeline.step import Node, Role
from pipeline.weights import parameter_count
from stages.training.options import ReinforcementConfig, TrainingConfig

SAVED = 4
"""Bytes a weight of a finished checkpoint: fp32."""
TRAINER = 2 * 12
"""Bytes a weight of the trainer's checkpoints: two at a time, each weights and Adam's two moments in fp32."""
TRAINED = 16
"""Bytes a weight that learns: fp32 weight, gradient and Adam's two moments. Activations come on top."""
FROZEN = 4
"""Bytes a weight that does not: a reference, the base under adapters."""


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
    said = f"{_gib(need)} needed, {_gib(free)} free at {subject.run_dir}"
    if need > free:
        yield fail(f"{said}; choose another place with --run-dir, or delete what is there")
    elif need > 0.8 * free:
        yield warn(f"{said}: it will be tight")
    yield fine(said)


def memory(subject: Subject) -> Iterator[Finding]:
    """Weights, gradients and optimiser of the largest step fit; what activations take is not counted here."""
    cards = machine.gpus()
    said = [(0, "no step trains")]
    for node in subject.steps:
        if not isinstance(node.config, TrainingConfig):
            continue
        need = _training_bytes(subject, node, node.config)
        if cards:
            here, have = need, min(card.memory for card in cards)
            place = f"a GPU of {_gib(have)}"
        else:
            here, have = need * node.launch.processes, machine.memory()[0]
            place = f"{_gib(have)} of available memory"
        sharded = bool(node.launch.files)  # ZeRO or FSDP, whose share depends on the file
        line = f"{node.where} needs {_gib(here)} before activations, on {place}"
        if here > have and not sharded:
            yield fail(f"{line}; use lora, launch.zero: 3, or a smaller model")
        said.append((here, line))
    yield fine(max(said)[1])


def _training_bytes(subject: Subject, node: Node, config: TrainingConfig) -> int:
    count = _parameters(subject, node)
    need = (FROZEN if config.lora else TRAINED) * count
    if isinstance(config, ReinforcementConfig) and config.beta and not config.lora:
        need += FROZEN * count
    return need


def _parameters(subject: Subject, node: Node) -> int:
    """Weights of the model that the step trains; 0 where another check says that it cannot be read."""
    try:
        return parameter_count(subject.model(node.inputs["init"][0]).path) or 0
    except ValueError:
        return 0


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= 0.05 * GIB else f"{size / 2**20:.1f} MiB"


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
