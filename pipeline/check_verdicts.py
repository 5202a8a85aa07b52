"""Check of what people said: files of verdicts can be read, and their corrections follow the run's convention."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.template import CONVENTIONS
from data.verdicts import read_verdicts
from pipeline.check_findings import Finding, fail, fine, warn
from pipeline.check_subject import Subject
from stages.review import ReviewConfig


def verdicts(subject: Subject) -> Iterator[Finding]:
    """A run would stop at its step of stage `review`, maybe hours later."""
    convention, read = CONVENTIONS[subject.config.convention], 0
    for node in subject.nodes:
        if not isinstance(node.config, ReviewConfig):
            continue
        file = Path(node.config.reviewed)
        try:
            found = read_verdicts(file)
        except ValueError as error:
            yield fail(f"{node.where}: {error}")
            continue
        if not found:
            yield warn(f"{node.where}: the run will wait for verdicts there: there is none in {file} yet")
        read += len(found)
        for line, said in found.values():
            if said.completion is not None and (fault := convention.fault(said.completion)):
                yield fail(f"{node.where}: {file}:{line}: the correction of {said.id!r} cannot be used: {fault}")
                break
    yield fine(f"{read} verdicts of people" if read else "no verdicts of people")
