"""The check of memory: the estimate of `r1 plan`, on what this machine has.

What lies in memory from step to step must fit. Activations depend on lengths, of which the first rows tell something:
where those would not fit, it is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline import machine
from pipeline.architecture import ENCODER_DECODER, Architecture, only_counted, read_config
from pipeline.check_findings import Finding, fail, fine, warn
from pipeline.check_lengths import longest_seen
from pipeline.check_subject import Subject
from pipeline.estimate import Estimate
from pipeline.estimates import Hardware, Models, estimate
from pipeline.hardware import GIB, GPUS, Gpu
from pipeline.machine import readable
from pipeline.memory import states
from pipeline.remedies import remedy
from pipeline.step import Node
from pipeline.weights import parameter_count
from pipeline.workload import Assumptions
from pipeline.workloads import Workloads
from stages.training.options import ReinforcementConfig, TrainingConfig


class _Seen(Models):
    """Sizes of models as they lie on the disk; of a decoder whose layers are not known, the weights are counted."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject.config, subject.nodes, {})
        self._subject = subject

    def sizes(self, name: str) -> Architecture:
        """Raises ValueError for a model that cannot be read."""
        path = self._subject.model(name).path
        try:
            return read_config(path)
        except ValueError:
            return only_counted(parameter_count(path) or 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """What the processes of a step share on one machine."""

    gpu: Gpu
    have: float
    """Bytes: of one GPU, or of the main memory."""
    processes: int
    """That share them."""
    name: str
    on_cpu: bool


def memory(subject: Subject) -> Iterator[Finding]:
    """Weights, gradients and optimiser of every step fit, and so do its passes over the rows that were seen."""
    said = [(0.0, "no step trains")]
    models = _Seen(subject)
    for node in subject.steps:
        if not isinstance(node.config, TrainingConfig):
            continue
        place = _place(node)
        try:
            models.sizes(node.inputs["init"][0])
        except ValueError:
            continue  # the check of models says why
        try:
            step = _estimate(subject, node, place.gpu, models)
        except ValueError as error:
            yield warn(f"{node.where}: what it needs is not known: {error}")
            continue
        need = _lasting(step) * place.processes
        line = f"{node.where} needs {readable(need)} before activations, on {place.name}"
        if need > place.have:
            yield fail(f"{line}; {_advice(step, place)}")
        elif host := _too_much_on_the_host(step, node, place):
            yield fail(f"{node.where} {host}")
        elif step.setting is not None and step.setting.sizes.known and not step.fits:
            yield warn(
                f"{node.where} needs {readable(step.total * place.processes)} with rows as long as those seen, on "
                f"{place.name}; {remedy(step)}; see r1 plan"
            )
        said.append((need, line))
    yield fine(max(said)[1])


def _place(node: Node) -> _Place:
    cards, processes = machine.gpus(), node.launch.processes // node.launch.machines
    if cards:
        have = min(card.memory for card in cards)
        gpu = replace(GPUS["h100"], name=cards[0].name, memory=have / GIB)
        return _Place(gpu=gpu, have=have, processes=1, name=f"a GPU of {readable(have)}", on_cpu=False)
    have = machine.memory()[0]
    gpu = replace(GPUS["cpu"], memory=have / processes / GIB, overhead=0.0)
    name = f"{readable(have)} of available memory"
    return _Place(gpu=gpu, have=have, processes=processes, name=name, on_cpu=True)


def _estimate(subject: Subject, node: Node, gpu: Gpu, models: Models) -> Estimate:
    """The step on paper, with the longest row and prompt that were seen."""
    learned, prompt = longest_seen(subject, node)
    rows = dict.fromkeys(subject.config.data, 1)  # how many there are changes no memory, and counting them takes time
    assumed = Assumptions(rows_of=rows)
    if isinstance(node.config, ReinforcementConfig):
        assumed = replace(assumed, prompt_tokens=prompt or assumed.prompt_tokens)
    elif learned:
        assumed = replace(assumed, longest_tokens=learned)
    work = Workloads(subject.config, subject.nodes, assumed).of(node)
    return estimate(subject.config, node, Hardware(gpu=gpu), models, work)


def _lasting(step: Estimate) -> float:
    """Bytes of one process that lie there from step to step, buffers left out."""
    assert step.setting is not None
    s = states(step.setting)
    return s.weights + s.gradients + s.optimiser + s.reference + s.scorer + (s.host if step.setting.on_cpu else 0.0)


def _too_much_on_the_host(step: Estimate, node: Node, place: _Place) -> str | None:
    """What an offloaded step needs of the main memory beside its GPU, where that is not there."""
    need = step.host * (node.launch.processes // node.launch.machines)
    have = machine.memory()[0]
    if place.on_cpu or need <= have:
        return None
    return (
        f"needs {readable(need)} in the memory of the host, of which {readable(have)} are available; use lora, more "
        "machines, or a smaller model"
    )


def _advice(step: Estimate, place: _Place) -> str:
    s = step.setting
    assert s is not None
    ways = [] if s.anchored or s.ahead or s.adapters else ["lora"]
    if s.sharding.stage < 3 and not s.whole and s.sizes.family != ENCODER_DECODER:
        ways.append("launch.zero: 3")
    elif s.sharding.stage >= 3:
        ways.append(f"more {'machines' if place.on_cpu else 'GPUs'}")
    return f"use {', '.join([*ways, ''])}or a smaller model" if ways else "use a smaller model"
