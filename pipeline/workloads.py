"""What every step of a run trains and samples, out of its configuration, its data and what is assumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.artifact import Kind
from data.augment import COPIES
from pipeline.config import RunConfig
from pipeline.messages import nearest
from pipeline.step import Node, Role
from pipeline.workload import BATCH_TOKENS, Assumptions, Drawing, Training, Workload
from stages.continued_pretraining import ContinuedPretrainingConfig
from stages.distillation import DistillationConfig
from stages.rejection_sampling import RejectionSamplingConfig
from stages.review import ReviewConfig
from stages.rollout.options import SamplingConfig
from stages.sft_mix import SftMixConfig
from stages.training.classifier import ClassifierConfig
from stages.training.options import ReinforcementConfig, SupervisedConfig


class Workloads:
    """The workload of every step of a run; `notes` collects what had to be assumed."""

    def __init__(self, config: RunConfig, nodes: Sequence[Node], assumptions: Assumptions) -> None:
        """Raises ValueError where rows are given for a name that is no data set or step that makes one."""
        self.config, self.assumptions = config, assumptions
        self.nodes = {node.name: node for node in nodes if node.role is not Role.PREPARATION}
        self.notes: dict[str, str] = {}
        makers = [node.name for node in nodes if node.role is Role.STEP and node.stage.makes is Kind.DATASET]
        known = {*config.data, *makers}
        for name in assumptions.rows_of:
            if name not in known:
                raise ValueError(f"--rows: unknown data set {name!r}{nearest(name, known)}")

    def of(self, node: Node) -> Workload:
        """What `node` trains and samples."""
        match node.config:
            case ReinforcementConfig() as own:
                return self._reinforcement(own, node)
            case SupervisedConfig() as own:
                return self._supervised(own, node)
            case SamplingConfig() as own:
                rows = self._prompts(node, own)
                return Workload(drawing=self._drawing(own, node.inputs["init"][0], rows))
        raise AssertionError(f"no workload for {node.stage.name}")

    def _reinforcement(self, own: ReinforcementConfig, node: Node) -> Workload:
        assumed = self.assumptions
        longest = assumed.longest(own.max_completion_tokens)
        mean = assumed.mean(longest)
        trained = own.steps * own.update_batch
        engine = str(getattr(own, "engine", "transformers"))
        options = dict(getattr(own, "engine_options", {}))
        options.setdefault("batch_tokens", getattr(own, "batch_tokens", BATCH_TOKENS))
        reference = own.greatest_beta > 0
        old = own.updates_per_generation > 1 or engine != "transformers"
        training = Training(
            sequences=trained,
            mean=mean + assumed.prompt_tokens,
            longest=longest + assumed.prompt_tokens,
            extra_forwards=int(reference) + int(old),
        )
        drawing = Drawing(
            source=node.inputs["init"][0],
            sequences=trained,
            mean=mean,
            longest=longest,
            prompt=assumed.prompt_tokens,
            call=own.prompts_per_step * own.num_generations,
            in_trainer=True,
            engine=engine,
            options=options,
        )
        return Workload(training=training, drawing=drawing)

    def _supervised(self, own: SupervisedConfig, node: Node) -> Workload:
        longest = self.assumptions.longest(own.max_length)
        mean = self.assumptions.mean(longest)
        drawing = None
        match own:
            case SftMixConfig():
                every = self._rows(node, "data")
                sizes = [phase.rows or (every if own.by == "rows" else every * mean) for phase in own.phases]
                unit = 1.0 if own.by == "rows" else mean
                sequences = sum(size / unit * phase.epochs for size, phase in zip(sizes, own.phases, strict=True))
            case ContinuedPretrainingConfig():  # documents fill their blocks
                sequences = float(own.rows or self._rows(node, "data")) * mean / longest
                mean = float(longest)
            case ClassifierConfig():  # two answers a row, at most
                sequences = 2.0 * self._rows(node, "data") * (1 - own.held_out)
            case DistillationConfig():
                sequences = float(self._rows(node, "data"))
                if node.inputs.get("teacher"):
                    prompts = self._rows(node, "prompts")
                    sequences += prompts * min(own.teacher.per_prompt, own.teacher.samples)
                    drawing = self._drawing(own.teacher, node.inputs["teacher"][0], prompts)
            case _:
                stated = getattr(own, "rows", None)
                sequences = float(stated or self._rows(node, "data"))
        if isinstance(own, SftMixConfig) and own.pretraining is not None:
            share, length = own.pretraining.share, min(own.pretraining.length or own.max_length, own.max_length)
            sequences, mean = sequences / (1 - share), mean * (1 - share) + length * share
            longest = max(longest, length)
        training = Training(sequences=sequences * own.epochs, mean=mean, longest=longest)
        return Workload(training=training, drawing=drawing)

    def _drawing(self, own: SamplingConfig, source: str, prompts: int) -> Drawing:
        longest = self.assumptions.longest(own.max_tokens)
        return Drawing(
            source=source,
            sequences=prompts * own.samples,
            mean=self.assumptions.mean(longest),
            longest=longest,
            prompt=self.assumptions.prompt_tokens,
            call=own.shard_prompts * own.samples,
            engine=own.engine,
            options=own.engine_options,
        )

    def _prompts(self, node: Node, own: SamplingConfig) -> int:
        stated = getattr(own, "rows", None)
        return int(stated) if stated else self._rows(node, "data")

    def _rows(self, node: Node, name: str) -> int:
        return sum(self._rows_of(source) for source in node.inputs.get(name, ()))

    def _rows_of(self, source: str) -> int:
        """Rows of a data set, or those that a step is going to make."""
        if source in self.assumptions.rows_of:
            return self.assumptions.rows_of[source]
        node = self.nodes.get(source)
        if node is not None and isinstance(node.config, RejectionSamplingConfig):
            return round(self._prompts(node, node.config) * node.config.samples * node.config.keep_fraction)
        if node is not None and isinstance(node.config, ReviewConfig):  # people change few rows
            return self._rows(node, "data")
        spec = self.config.data.get(source, {})
        stated = spec.get("rows")
        if isinstance(stated, int):
            return self._with_copies(source, stated)
        if (counted := _lines(spec.get("path"), Path(self.config.base_dir))) is not None:
            return self._with_copies(source, counted)
        self.notes[source] = f"{source}: its size is not stated, {self.assumptions.rows:,} rows assumed (--rows)"
        return self.assumptions.rows

    def _with_copies(self, source: str, rows: int) -> int:
        """The rows and all the copies that `augment` may make of them."""
        asked = self.config.data[source].get("augment")
        if asked is None:
            return rows
        most = rows * (1 + len(asked["methods"]) * asked.get("copies", COPIES))
        self.notes[source] = f"{source}: {rows:,} rows and their copies, {most:,} at most (augment)"
        return most


def _lines(path: Any, base_dir: Path) -> int | None:
    """Rows of one local file of JSON lines; None for anything else."""
    if not isinstance(path, str) or not path.endswith(".jsonl") or not (base_dir / path).is_file():
        return None
    with (base_dir / path).open("rb") as lines:
        return sum(1 for line in lines if line.strip())
