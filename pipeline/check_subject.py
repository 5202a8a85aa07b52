"""What the checks of `r1 check` look at: the steps, the first rows of every dataset, the given models' small files.

Everything is read once, when a check first asks for it. What cannot be read is an error of the check that is there to
report it; the others see what is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from data import sources
from data.artifact import Artifact, Kind
from data.records import Row
from data.schemas import SOURCES
from pipeline.config import RunConfig
from pipeline.given import described_model
from pipeline.preparation import PreparationConfig
from pipeline.step import Node, Role
from pipeline.weights import read_json

ROWS = 20
"""Rows of each dataset that are looked at."""


@dataclass(frozen=True, slots=True)
class Peek:
    """The first rows of a dataset."""

    rows: list[Row]
    most: int | None
    """The most rows that the whole dataset can have; None where only reading all of it would tell."""
    counts: dict[str, int] = field(default_factory=dict)
    """What was refused on the way, by reason."""

    @property
    def whole(self) -> bool:
        """Whether there are no other rows."""
        return self.most == len(self.rows)


@dataclass
class Subject:
    """One configuration under check."""

    config: RunConfig
    nodes: tuple[Node, ...]
    run_dir: Path
    broken: dict[str, list[str]] = field(default_factory=lambda: {"rows": [], "models": []})
    """Names of datasets and models that could not be read; the checks that need them saw less."""
    unproved: set[str] = field(default_factory=set)
    """Ids of rows whose own solution fails their tests; preparation leaves them out."""
    _peeks: dict[str, Peek | ValueError] = field(default_factory=dict)
    _models: dict[str, Artifact | ValueError] = field(default_factory=dict)
    _tokenizers: dict[tuple[str, str], Any] = field(default_factory=dict)
    _sandboxes: dict[str, str | None] = field(default_factory=dict)

    @property
    def steps(self) -> Iterator[Node]:
        """The steps that train or sample; evaluations with them, preparations and reviews not."""
        return (node for node in self.nodes if node.inputs.get("init"))

    @property
    def datasets(self) -> dict[str, Node]:
        """The datasets that some step reads."""
        return {node.name: node for node in self.nodes if node.role is Role.PREPARATION}

    @property
    def given(self) -> list[str]:
        """The models that some step reads."""
        read = {source for node in self.nodes for source in node.sources}
        return [name for name in self.config.models if name in read]

    def node(self, name: str) -> Node | None:
        """The step of that name."""
        return next((node for node in self.nodes if node.name == name), None)

    def where(self, node: Node) -> str:
        """The step's place in the configuration; evaluations share theirs."""
        return "evaluate" if node.role is Role.EVALUATION else node.where

    def peek(self, name: str) -> Peek:
        """The first rows of a dataset of `data:`, as preparation would write them. Raises ValueError."""
        if name not in self._peeks:
            try:
                self._peeks[name] = self._read(self.datasets[name])
            except ValueError as error:
                self.broken["rows"].append(name)
                self._peeks[name] = error
        found = self._peeks[name]
        if isinstance(found, ValueError):
            raise found
        return found

    def _read(self, node: Node) -> Peek:
        assert isinstance(node.config, PreparationConfig)
        # An order drawn over the whole file would mean reading all of it; generated rows are alike.
        spec = {key: value for key, value in node.config.spec.items() if key != "shuffle"}
        limit = spec.get("rows")
        if SOURCES[spec["source"]].adapt is None:
            spec.pop("skip", None)
        spec["rows"] = min(ROWS, limit or ROWS)
        loaded = sources.load(spec, Path(node.config.base_dir), node.seed, self.config.convention, stream=True)
        rows = list(islice(loaded.rows, ROWS))
        most = None if "augment" in spec else limit  # nobody knows how many copies there will be
        return Peek(rows, len(rows) if len(rows) < spec["rows"] else most, loaded.counts)

    def rows(self, node: Node, name: str) -> Peek:
        """The first rows of each dataset behind an input. Of one that a step will make, the prompts that it samples.

        Datasets that cannot be read are left out.
        """
        rows: list[Row] = []
        most: int | None = 0
        for source in node.inputs.get(name, ()):
            maker = self.node(source)
            if maker is not None and maker.role is Role.STEP:
                made = [self.rows(maker, need) for need in maker.inputs if maker.stage.needs[need].kind is Kind.DATASET]
                lost = {"completion"} if "init" in maker.stage.needs else set()  # it samples others
                rows += [{k: v for k, v in row.items() if k not in lost} for part in made for row in part.rows]
                most = None  # nobody knows how many it will keep
                continue
            try:
                part = self.peek(source)
            except ValueError:
                most = None
                continue
            rows += part.rows
            most = None if most is None or part.most is None else most + part.most
        return Peek(rows, most)

    def origin(self, name: str) -> str:
        """The given model that a model descends from: its tokenizer and shape are those of that one."""
        node = self.node(name)
        return self.origin(node.inputs["init"][0]) if node is not None else name

    def model(self, name: str) -> Artifact:
        """The given model that `name` descends from. Raises ValueError."""
        name = self.origin(name)
        if name not in self._models:
            try:
                found = described_model(self.config.models[name], Path(self.config.base_dir), name)
                read_json(found.path / "config.json")
                self._models[name] = found
            except ValueError as error:
                self.broken["models"].append(name)
                self._models[name] = error
        kept = self._models[name]
        if isinstance(kept, ValueError):
            raise kept
        return kept

    def tokenizer(self, name: str, *, scoring: bool = False) -> Any:
        """Tokenizer of the given model that `name` descends from, with the run's prefill. Raises ValueError."""
        from transformers.utils import logging

        from stages.training.models import load_scoring_tokenizer, load_tokenizer

        logging.set_verbosity_error()  # that a row is longer than the model takes is said by a check, once
        name = self.origin(name)
        key, prefill = (name, "scoring" if scoring else "writing"), self.config.prefill_text
        if key not in self._tokenizers:
            try:
                path = self.model(name).path
                self._tokenizers[key] = load_scoring_tokenizer(path) if scoring else load_tokenizer(path, prefill)
                if not scoring:
                    _try_template(self._tokenizers[key])
            except Exception as error:  # transformers raises a dozen kinds for a file that is not what it seems
                if name not in self.broken["models"]:
                    self.broken["models"].append(name)
                place = f"models.{name}"
                said = " ".join(str(error).split())[:300]
                self._tokenizers[key] = ValueError(said if said.startswith(place) else f"{place}: {said}")
        found = self._tokenizers[key]
        if isinstance(found, ValueError):
            raise found
        return found

    def tokenizer_or_none(self, name: str, *, scoring: bool = False) -> Any:
        """The tokenizer, or None where the check of tokenizers reports why not."""
        try:
            return self.tokenizer(name, scoring=scoring)
        except ValueError:
            return None

    def sandbox_fault(self, mode: str) -> str | None:
        """Why programs cannot be isolated as `mode` promises, or None."""
        if mode not in self._sandboxes:
            from rewards.sandbox import fault, self_test

            try:
                self._sandboxes[mode] = fault(mode, self_test(mode))
            except ValueError as error:
                self._sandboxes[mode] = str(error)
        return self._sandboxes[mode]


def _try_template(tokenizer: Any) -> None:
    """Raise ValueError where the chat template cannot lay out the simplest prompt."""
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template may raise what it likes
        raise ValueError(f"its chat template refuses a user's message: {type(error).__name__}: {error}") from None
