"""The key `reviewed:` names a file of verdicts beside the configuration, identified by what it decides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.verdicts import identity
from stages.stage import StageConfig

KEY = "reviewed"


def anchored(step: Mapping[str, Any], base_dir: Path) -> dict[str, Any]:
    """The step with its file of verdicts made absolute."""
    file = step.get(KEY)
    return {**step, KEY: str(base_dir / Path(file).expanduser())} if isinstance(file, str) and file else dict(step)


def identified(dumped: dict[str, Any]) -> dict[str, Any]:
    """A dumped configuration in which what people decided stands for their file; one that is not there decides nothing.

    Raises ValueError naming file and line of a malformed verdict.
    """
    return {**dumped, KEY: identity(Path(dumped[KEY]))} if KEY in dumped else dumped


def check_unchanged(config: StageConfig, recipe: Mapping[str, Any]) -> None:
    """Raise ValueError where verdicts came while the step ran, or before it in the same run: its fingerprint,
    which was settled when the run began, would name others than it may have read.
    """
    file = getattr(config, KEY, None)
    if file is not None and identity(Path(file)) != recipe["config"][KEY]:
        raise ValueError(f"{file} has changed since this run began; the same command goes on with what it says now")
