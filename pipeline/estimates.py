"""Every step of a configuration on paper: its models, its placement and its workload brought together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.adapters import adapter_numbers, unshared
from pipeline.architecture import COUNTED, Architecture, known, read_config
from pipeline.config import RunConfig
from pipeline.estimate import Estimate
from pipeline.hardware import Gpu
from pipeline.messages import nearest
from pipeline.setting import Setting, module_numbers
from pipeline.sharding import of_launch
from pipeline.step import Node
from pipeline.workload import Assumptions, Workload
from pipeline.workloads import Workloads
from stages.preference_model import PreferenceModelConfig
from stages.training.adapter_options import Bottleneck, PrefixTuning
from stages.training.arguments import accumulation
from stages.training.options import CompletionConfig, ReinforcementConfig, SupervisedConfig, TrainingConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """What the run is planned on."""

    gpu: Gpu
    accelerators: int | None = None
    """None: as many as `launch.processes` says."""
    mfu: float = 0.35
    rate: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The steps, and what had to be assumed about them."""

    steps: tuple[Estimate, ...]
    notes: tuple[str, ...] = field(default=())


def plan(
    config: RunConfig,
    nodes: Sequence[Node],
    hardware: Hardware,
    assumptions: Assumptions,
    configs: Mapping[str, Path],
) -> Plan:
    """Plan every step that trains or samples; `configs` gives the config.json of a given model by its name.

    Raises ValueError for a model whose sizes are not known, and for a launch file that cannot be read.
    """
    for name in configs:
        if name not in config.models:
            raise ValueError(f"--model: unknown model {name!r}{nearest(name, config.models)}")
    models = Models(config, nodes, configs)
    workloads = Workloads(config, nodes, assumptions)
    steps = tuple(
        estimate(config, node, hardware, models, workloads.of(node))
        for node in nodes
        if node.inputs.get("init")  # the others rewrite rows
    )
    return Plan(steps=steps, notes=(*workloads.notes.values(), *_counted_only(steps)))


def _counted_only(steps: Sequence[Estimate]) -> Iterator[str]:
    """What is not planned of models with an encoder."""
    for step in steps:
        models = [step.setting.sizes if step.setting else None, step.sampled]
        for family in sorted({sizes.family for sizes in models if sizes is not None}.intersection(COUNTED)):
            yield (
                f"{step.name}: of an {family} model only weights, gradients and optimiser are counted; its "
                "activations, adapters, arithmetic and hours are not planned"
            )


class Models:
    """Sizes of every model of a run: those of a step are those of the given model that it goes back to."""

    def __init__(self, config: RunConfig, nodes: Sequence[Node], configs: Mapping[str, Path]) -> None:
        self.config, self.configs = config, configs
        self._from = {node.name: node.inputs["init"][0] for node in nodes if node.inputs.get("init")}

    def given(self, name: str) -> str:
        """Name of the given model behind a model or step."""
        while name in self._from:
            name = self._from[name]
        return name

    def sizes(self, name: str) -> Architecture:
        """Raises ValueError naming the model for an architecture that is not known."""
        given = self.given(name)
        source = self.config.models[given]
        try:
            if given in self.configs:
                return read_config(self.configs[given])
            if source.hub is not None:
                return known(source.hub)
            return read_config(Path(self.config.base_dir) / str(source.path))
        except ValueError as error:
            raise ValueError(f"models.{given}: {error}") from None

    def stored_bytes(self, name: str) -> int:
        """Of one weight: published models are half, what a step saves has the precision of its masters."""
        return 2 if name in self.config.models else 4


def estimate(config: RunConfig, node: Node, hardware: Hardware, models: Models, work: Workload) -> Estimate:
    """One step. Raises ValueError for a model whose sizes are not known, and for a launch file that cannot be read."""
    init = node.inputs["init"][0]
    setting = None
    if isinstance(node.config, TrainingConfig):
        setting = _setting(config, node, node.config, hardware, models, work)
    drawing = work.drawing
    accelerators = setting.processes if setting else 1
    if drawing is not None and setting is None:
        accelerators = 0 if drawing.engine == "vllm_server" else drawing.shards
    return Estimate(
        name=node.name,
        stage=node.stage.name,
        model=models.given(init),
        work=work,
        gpu=hardware.gpu,
        accelerators=accelerators,
        setting=setting,
        sampled=models.sizes(drawing.source) if drawing else None,
        sampled_bytes=models.stored_bytes(drawing.source) if drawing else 4,
        mfu=hardware.mfu,
        rate=hardware.rate,
    )


def _setting(
    config: RunConfig, node: Node, own: TrainingConfig, hardware: Hardware, models: Models, work: Workload
) -> Setting:
    assert work.training is not None
    sizes = models.sizes(node.inputs["init"][0])
    sharding = of_launch(node.launch, Path(config.base_dir))
    processes = hardware.accelerators or node.launch.processes
    if processes > 1 and sharding.engine == "none":
        sharding = replace(sharding, engine="ddp")
    try:
        sequences, _ = accumulation(_batch(own), own.micro_batch_size, processes)
    except ValueError as error:
        raise ValueError(f"{node.where}: {error}; say --gpus") from None
    pairs = isinstance(own, PreferenceModelConfig)
    scorers = [source for need, found in node.inputs.items() if node.stage.needs[need].scorer for source in found]
    adapters = adapter_numbers(sizes, own.adapters)
    ahead = own.mtp.depth if isinstance(own, CompletionConfig) and own.mtp else 0
    return Setting(
        sizes=sizes,
        trainable=adapters if own.adapters else _learning(sizes, own) + ahead * module_numbers(sizes),
        adapters=adapters,
        ahead=ahead,
        sharding=sharding,
        processes=processes,
        mixed=node.launch.mixed_precision != "no",
        checkpointing=node.launch.gradient_checkpointing or sharding.checkpointing,
        sequences=sequences * (2 if pairs else 1),
        length=work.training.longest,
        eager=own.attention == "eager",
        head=node.stage.generative,
        reference=_reference(own),
        reference_below=isinstance(own.adapters, Bottleneck),
        whole=unshared(own),
        recomputes=not isinstance(own.adapters, PrefixTuning),
        anchored=getattr(own, "ewc", None) is not None,
        scorer=sum(models.sizes(name).parameters for name in scorers),
        on_cpu=hardware.gpu.name == "cpu",
    )


def _reference(own: object) -> bool:
    """Whether a reference is kept: peft's adapters have none but the model below them, unless theirs is replaced."""
    if not isinstance(own, ReinforcementConfig) or own.greatest_beta == 0:
        return False
    return own.adapters is None or isinstance(own.adapters, Bottleneck) or own.reference_reset_steps is not None


def _batch(own: object) -> int:
    """Sequences behind one optimiser step."""
    match own:
        case SupervisedConfig():
            return own.batch_size
        case ReinforcementConfig():
            return own.update_batch
    return 1


def _learning(sizes: Architecture, own: TrainingConfig) -> int:
    """Parameters that are not frozen; those that `freeze.names` names are counted as learning."""
    frozen = min(own.freeze.layers, sizes.layers) * sizes.layer
    return sizes.parameters - frozen - (sizes.embedding if own.freeze.embeddings else 0)
