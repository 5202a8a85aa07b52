"""Checks of the steps that are about to run, before the first of them: too dear, or too early, for reading a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from data.artifact import ROWS_NAME, Kind
from pipeline.adapters import refused
from pipeline.config import RunConfig
from pipeline.launch_files import resolve
from pipeline.reward_specs import check_rewards, sandboxes
from pipeline.step import Node


def preflight(config: RunConfig, nodes: Sequence[Node]) -> None:
    """Raise ValueError, one line, for what is known to fail later in one of `nodes`."""
    for node in nodes:
        for key, file in node.launch.files.items():
            if not (path := resolve(key, file, Path(config.base_dir))).is_file():
                raise ValueError(f"{node.where}: launch.{key}: there is no file {path}")
    for node in nodes:
        for why in refused(node, Path(config.base_dir)):
            raise ValueError(f"{node.where}: {why}")
    for node in nodes:
        check_rewards(node.stage, node.config, node.wired, config.sandbox, config.convention, node.where)
    for node in nodes:
        if node.stage.preflight is not None:
            try:
                node.stage.preflight(node.config)
            except ValueError as error:
                raise ValueError(f"{node.where}: {error}") from None


def require_sandboxes(config: RunConfig, nodes: Sequence[Node], todo: Sequence[Node], made: Mapping[str, Path]) -> None:
    """Prove the isolation of programs before the first step that samples or trains, if one of `todo` may run any.

    `made` maps data sets that are finished to their directories, the preparations of `todo` among them. Raises
    ValueError naming what does not hold.
    """
    by_name = {node.name: node for node in nodes}
    found: dict[str, bool] = {}

    def has_tests(name: str) -> bool:
        if name not in found:
            node = by_name.get(name)
            if name in made:
                found[name] = _mentions_tests(made[name] / ROWS_NAME)
            else:
                makes_rows = node is not None and node.stage.makes is Kind.DATASET
                found[name] = makes_rows and node is not None and any(map(has_tests, node.sources))
        return found[name]

    modes = {
        mode
        for node in todo
        for mode in sandboxes(node.stage, node.config, node.wired, config.sandbox)
        if any(map(has_tests, node.sources))
    }
    for mode in sorted(modes):
        from rewards.sandbox import require

        require(mode)


def _mentions_tests(rows: Path) -> bool:
    with rows.open("rb") as file:
        return any(b'"tests": {' in line for line in file)
