"""Checks of the given models: files, tokenizer, EOS and pad, and whether those that meet agree.

A model that an earlier step will make has the tokenizer and the shape of the given model that it descends from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from data.artifact import Artifact, Kind
from pipeline.adapters import beside_faults, given_beside
from pipeline.check_findings import Finding, fail, fine
from pipeline.check_subject import Subject
from pipeline.contract import check_inputs
from pipeline.encoder_decoder import faults
from pipeline.weights import parameter_count, read_json, weight_files
from stages.stage import Judges


def models(subject: Subject) -> Iterator[Finding]:
    """The files of every given model are there and can be read; one that is wired as a scorer scores."""
    seen = []
    for name in subject.given:
        try:
            path = subject.model(name).path
            config = read_json(path / "config.json")
            if subject.config.models[name].path and not weight_files(path):
                raise ValueError(f"{path} has no weights (*.safetensors)")
            count = parameter_count(path)
        except ValueError as error:
            place = f"models.{name}"
            yield fail(str(error) if str(error).startswith(place) else f"{place}: {error}")
            continue
        if kind := _unknown_kind(config):
            yield fail(f"models.{name}: the installed transformers does not know the model_type {kind!r}")
        for judges in _scores(subject, name):
            yield from _scorer(name, config, judges)
        seen.append(f"{name} {_size(count)}")
    yield from _encoders(subject)
    yield fine(", ".join(seen) or "no given model is read")


def _encoders(subject: Subject) -> Iterator[Finding]:
    """Steps whose model has an encoder that they cannot work with."""

    def settings_of(name: str) -> Mapping[str, Any]:
        try:
            return read_json(subject.model(name).path / "config.json")
        except ValueError:  # said above
            return {}

    for node in subject.steps:
        for fault in faults(subject.config, node, settings_of):
            yield fail(f"{subject.where(node)}{fault}")
    yield from map(fail, beside_faults(subject.nodes, given_beside(subject.config)))


def _unknown_kind(config: Mapping[str, Any]) -> str | None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = config.get("model_type")
    return None if kind in CONFIG_MAPPING_NAMES or "auto_map" in config else str(kind)


def _scores(subject: Subject, name: str) -> list[Judges]:
    """What it is wired to judge: where a preference model is needed, or a safety model."""
    return sorted(
        {
            node.stage.needs[need].judges
            for node in subject.steps
            for need, sources in node.inputs.items()
            if node.stage.needs[need].scorer and name in sources
        }
    )


def _scorer(name: str, config: Mapping[str, Any], judges: Judges) -> Iterator[Finding]:
    kinds = config.get("architectures") or ["nothing"]
    labels = {"preference": "with one label", "safety": "that tells safe from unsafe"}
    if not any("SequenceClassification" in str(kind) for kind in kinds):
        yield fail(
            f"models.{name}: it is wired as a {judges} model, and its config.json says {kinds[0]}; "
            f"a {judges} model is a sequence classifier {labels[judges]}"
        )
    elif judges == "safety":
        if len(config.get("id2label") or {0: ""}) < 2:
            yield fail(f"models.{name}: it has one label, a safety model tells safe from unsafe")
    elif len(config.get("id2label") or {0: ""}) != 1:
        yield fail(f"models.{name}: it has {len(config['id2label'])} labels, a preference model has one")


def _size(count: int | None) -> str:
    if count is None:
        return "of unknown size"
    for unit, name in ((10**9, "B"), (10**6, "M")):
        if count >= unit:
            return f"{count / unit:.1f} {name} parameters"
    return f"{count} parameters"


def tokenizers(subject: Subject) -> Iterator[Finding]:
    """Chat template, EOS, a pad token that is not EOS, and a generation config that ends where the tokenizer does."""
    seen = []
    for name in subject.given:
        for scoring in sorted(_uses(subject, name)):
            try:
                tokenizer = subject.tokenizer(name, scoring=scoring)
                path = subject.model(name).path
                generation, config = (read_json(path / f) for f in ("generation_config.json", "config.json"))
            except ValueError as error:
                if not _reported(subject, name):
                    yield fail(str(error))
                continue
            vocabulary = config.get("vocab_size")
            if isinstance(vocabulary, int) and len(tokenizer) > vocabulary:
                yield fail(f"models.{name}: the tokenizer has {len(tokenizer)} tokens, the model embeds {vocabulary}")
            if scoring:
                continue
            stated = generation.get("eos_token_id", config.get("eos_token_id"))
            ids = stated if isinstance(stated, list) else [stated]
            if stated is not None and tokenizer.eos_token_id not in ids:
                ends = ", ".join(repr(tokenizer.convert_ids_to_tokens(number)) for number in ids)
                yield fail(
                    f"models.{name}: generation_config.json ends at {ends} (eos_token_id {stated}), the tokenizer at "
                    f"{tokenizer.eos_token!r} ({tokenizer.eos_token_id}); state both in eos_token_id"
                )
            seen.append(f"{name} EOS {tokenizer.eos_token!r}, pad {tokenizer.pad_token!r}")
    yield fine("; ".join(seen) or "no tokenizer is needed")


def _reported(subject: Subject, name: str) -> bool:
    """Whether the check of the models says already that the model is not there."""
    try:
        subject.model(name)
    except ValueError:
        return True
    return False


def _uses(subject: Subject, name: str) -> set[bool]:
    """Whether the model (or a descendant) writes, scores, or both; as values of `scoring`."""
    uses = set()
    for node in subject.steps:
        for need, sources in node.inputs.items():
            if node.stage.needs[need].kind is Kind.MODEL and name in map(subject.origin, sources):
                uses.add(node.stage.needs[need].scorer or not node.stage.generative)
    return uses


def contracts(subject: Subject) -> Iterator[Finding]:
    """Models that a step joins have one tokenizer where it needs that, and were made under the run's convention."""
    for node in subject.steps:
        found: dict[str, list[Artifact]] = {}
        for need, sources in node.inputs.items():
            if node.stage.needs[need].kind is Kind.MODEL:
                found[need] = [joined for source in sources if (joined := _as_joined(subject, source))]
        try:
            check_inputs(subject.where(node), node.stage.needs, found, subject.config.convention)
        except ValueError as error:
            yield fail(str(error))
    yield fine(f"convention {subject.config.convention!r} throughout")


def _as_joined(subject: Subject, name: str) -> Artifact | None:
    """The model as far as it is known now: one that is made carries the run's own convention and template."""
    try:
        origin = subject.model(name)
    except ValueError:
        return None
    made = subject.node(name) is not None
    contract = replace(origin.contract, convention=None, chat_template=None) if made else origin.contract
    return replace(origin, name=name, contract=contract)
