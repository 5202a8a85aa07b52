"""Whether prepared data is what a step learns from: seen once it is there, before the first step trains for hours.

Only columns and domains are looked at, and only in files that are read in a moment; `r1 check` looks closer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.artifact import ROWS_NAME
from data.mixing import quotas
from data.records import read_rows
from pipeline.messages import nearest
from pipeline.step import Node
from stages.sft_mix import SftMixConfig

MOST_BYTES = 64 << 20
"""Size from which a file is left to `r1 check`."""

NEEDED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "cold_start": (("completion",), "a completion to learn"),
    "sft_mix": (("completion",), "a completion to learn"),
    "distillation": (("completion",), "a completion to learn"),
    "preference_model": (("chosen",), "a pair (columns chosen and rejected)"),
    "safety_model": (("completion", "chosen"), "an answer to learn from"),
    "reasoning_rl": (("answer", "tests"), "an answer or tests to verify against"),
    "rejection_sampling": (("answer", "tests"), "an answer or tests to verify against"),
}
"""Stage to the columns of which one must be there in some row of `data`, and how to say it."""


@dataclass(frozen=True, slots=True)
class _Seen:
    rows: int
    domains: Counter[str]
    """Rows by domain."""
    columns: frozenset[str]


def check_fitness(nodes: Sequence[Node], made: Mapping[str, Path]) -> None:
    """Raise ValueError, one line, where `data` of one of `nodes` cannot be what its stage reads.

    `made` maps finished data sets to their directories. A step that reads anything else as well is left alone, for
    what it will get is not known.
    """
    looked: dict[str, _Seen | None] = {}
    for node in nodes:
        sources = node.inputs.get("data", ())
        if not sources or any(source not in made for source in sources):
            continue
        for source in sources:
            if source not in looked:
                looked[source] = _seen(made[source] / ROWS_NAME)
        whole = [found for source in sources if (found := looked[source]) is not None]
        if len(whole) < len(sources):
            continue
        domains = sum((found.domains for found in whole), Counter[str]())
        columns, said = NEEDED.get(node.stage.name, ((), ""))
        if columns and not any(found.columns.intersection(columns) for found in whole):
            total = sum(found.rows for found in whole)
            raise ValueError(f"{node.where}.data_from: none of {total} rows has {said}")
        if isinstance(node.config, SftMixConfig):
            _check_mix(node.where, node.config, domains)
        for at, spec in enumerate(node.stage.mix(node.config, node.wired) if node.stage.mix else ()):
            _check_reward(f"{node.where}.rewards.{at}.domains", spec, domains)


def _check_mix(where: str, config: SftMixConfig, domains: Counter[str]) -> None:
    """Every weighted domain has rows, and where none may be repeated, enough of them."""
    for phase in config.phases:
        for domain, weight in phase.weights.items():
            if weight > 0 and domain not in domains:
                line = f"{where}.phases.{phase.name}.weights: no row of the domain {domain!r}"
                raise ValueError(line + nearest(domain, domains))
        if phase.rows is None or phase.replay or config.repeat or config.by != "rows":
            continue
        for domain, wanted in quotas(phase.weights, phase.rows).items():
            if wanted > domains[domain]:
                raise ValueError(
                    f"{where}.phases.{phase.name}: {domain!r} has {domains[domain]} rows, the mixture needs {wanted}; "
                    "take fewer, lower its weight, or set repeat: true"
                )


def _check_reward(where: str, spec: Mapping[str, Any], domains: Counter[str]) -> None:
    """A reward for domains that nobody asked for may wait for other data; one whose name is nearly right is a slip."""
    for domain in spec.get("domains") or ():
        hint = nearest(str(domain), domains)
        if domain not in domains and hint.startswith("; did you mean"):
            raise ValueError(f"{where}: no row of the domain {domain!r}{hint}")


def _seen(file: Path) -> _Seen | None:
    """What the rows of a file have; None for a large one."""
    if file.stat().st_size > MOST_BYTES:
        return None
    count = 0
    domains: Counter[str] = Counter()
    columns: set[str] = set()
    for row in read_rows(file):
        count += 1
        domains[row["domain"]] += 1
        columns.update(name for name, value in row.items() if value is not None)
    return _Seen(count, domains, frozenset(columns))
