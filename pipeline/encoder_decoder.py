"""Models with an encoder (T5, BART): distillation trains them, transformers samples them, and nothing else does.

Only config.json is read, of the given model that a step's own descends from, so that a run refuses what cannot be
before its first step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import ModelSource, RunConfig
from pipeline.sharding import of_launch
from pipeline.step import Node
from pipeline.weights import read_json
from stages.distillation import DistillationConfig
from stages.rollout.options import EngineConfig
from stages.training.models import causal_only
from stages.training.options import TrainingConfig
from stages.training.seq2seq import CAUSAL_KEY, causal_keys

Settings = Mapping[str, Any]
"""A config.json; empty where it is not at hand."""


def check_encoders(config: RunConfig, nodes: Sequence[Node], todo: Sequence[Node]) -> None:
    """Raise ValueError, one line, for a step of `todo` whose model has an encoder that it cannot work with.

    `nodes` are all steps, by which a model is followed back. A model of the Hub is looked at where it has been fetched
    already; a step refuses it by itself otherwise.
    """
    origins = {node.name: node.inputs["init"][0] for node in nodes if node.inputs.get("init")}

    def settings_of(name: str) -> Settings:
        while name in origins:
            name = origins[name]
        return _settings(config.models[name], Path(config.base_dir))

    for node in todo:
        for fault in faults(config, node, settings_of):
            raise ValueError(f"{node.where}{fault}")


def faults(config: RunConfig, node: Node, settings_of: Callable[[str], Settings]) -> Iterator[str]:
    """What is wrong with a step, to be read behind its name; `settings_of` finds a model by the name it is wired by."""
    own = node.config
    if isinstance(own, TrainingConfig) and _has_encoder(found := settings_of(node.inputs["init"][0])):
        if isinstance(own, DistillationConfig):
            yield from _student(config, node, own, found)
        else:
            yield f": {causal_only(node.stage.name, str(found.get('model_type')))}"
            return
    for key, engine, model in _samplers(node):
        if engine.engine != "transformers" and _has_encoder(found := settings_of(model)):
            yield (
                f"{key}.engine: {engine.engine} samples causal models only, and {model} has an encoder "
                f"({found.get('model_type')}); take engine: transformers"
            )


def _student(config: RunConfig, node: Node, own: DistillationConfig, found: Settings) -> Iterator[str]:
    """What distillation does to causal students only."""
    sharding = of_launch(node.launch, Path(config.base_dir))
    if sharding.engine in ("deepspeed", "fsdp"):
        yield (
            f".launch: {sharding.label} shares out causal models only, and the student has an encoder "
            f"({found.get('model_type')}); leave zero, deepspeed and accelerate_config out"
        )
    for key in causal_keys(own):
        yield f".{key}: {CAUSAL_KEY.format(found.get('model_type'))}"
    if found.get("decoder_start_token_id") is None:
        yield ": the student's config.json has no decoder_start_token_id, from which its decoder learns to write"
    if own.trl:
        from transformers import Seq2SeqTrainingArguments

        from stages.training.arguments import check_names

        try:
            check_names(Seq2SeqTrainingArguments, own.trl)
        except ValueError as error:
            yield f": {error}"


def _samplers(node: Node) -> Iterator[tuple[str, EngineConfig, str]]:
    """(prefix of the key, engine, name of the model) of everything that a step samples."""
    if isinstance(node.config, EngineConfig):
        yield "", node.config, node.inputs["init"][0]
    elif isinstance(node.config, DistillationConfig) and node.inputs.get("teacher"):
        yield ".teacher", node.config.teacher, node.inputs["teacher"][0]


def _has_encoder(settings: Settings) -> bool:
    return bool(settings.get("is_encoder_decoder"))


def _settings(source: ModelSource, base_dir: Path) -> Settings:
    if source.path is not None:
        return read_json(base_dir / Path(source.path).expanduser() / "config.json")
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(str(source.hub), "config.json", revision=source.revision)
    return read_json(Path(found)) if isinstance(found, str) else {}
