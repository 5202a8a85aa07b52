"""Read what is wired to a step."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from data.artifact import ROWS_NAME, Artifact
from data.records import Row, read_rows
from stages.stage import Inputs


def rows_of(artifacts: Sequence[Artifact]) -> Iterator[Row]:
    """All rows, artifact after artifact in the order of the configuration."""
    for artifact in artifacts:
        yield from read_rows(artifact.path / ROWS_NAME)


def path_of(inputs: Inputs, name: str) -> str | None:
    """Directory of the model that is wired to an optional input."""
    return next((str(artifact.path) for artifact in inputs.get(name, ())), None)


def wired(inputs: Inputs) -> frozenset[str]:
    """Names of the inputs that something is wired to."""
    return frozenset(name for name, artifacts in inputs.items() if artifacts)


def check_together(key: str, is_set: bool, name: str, wired: Collection[str]) -> None:
    """Raise ValueError where `key` is set and the input `name` that it works on is not wired, or the reverse."""
    if is_set != (name in wired):
        there, missing = (key, f"{name}_from") if is_set else (f"{name}_from", key)
        raise ValueError(f"{key} and {name}_from belong together; {there} is there and {missing} is not")
