"""The key `reviewed:` names a file of verdicts beside the configuration, identified by what it decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.verdicts import identity, read_verdicts
from stages.stage import StageConfig

if TYPE_CHECKING:
    from pipeline.jobs import Job
    from pipeline.step import Node

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


def before_people(jobs: Sequence[Job], nodes: Sequence[Node]) -> tuple[list[Job], str]:
    """The jobs before the first that would wait for verdicts, and one line about it; all of them and "" where none is.

    What comes after it cannot be written yet: places of checkpoints hold fingerprints, which verdicts decide.
    Raises ValueError with that line where it is the first.
    """
    configs = {node.name: node.config for node in nodes}
    for at, job in enumerate(jobs):
        file = getattr(configs[job.step], KEY, None)
        if file is not None and not read_verdicts(Path(file)):
            said = f"{job.step} waits for verdicts: there is none in {file}; launch again when people have judged"
            if at == 0:
                raise ValueError(said)
            return list(jobs[:at]), said
    return list(jobs), ""
