"""Artifacts on disk: find them, commit them whole or not at all, sweep up what a killed run left.

    RUN/artifacts/NAME-FINGERPRINT/   finished: record.json was written last, then the directory was renamed
    RUN/artifacts/.NAME-...partial/   being filled, beside its final place; removed by the next run
    RUN/work/NAME-FINGERPRINT/        what a killed step resumes from; removed once the step is committed

Artifacts of other fingerprints are kept, so that switching a threshold back finds them again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data.artifact import RECORD_NAME, Artifact, Contract, Kind
from pipeline.identity import Recipe
from stages.stage import Metric


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What record.json says about a finished artifact."""

    name: str
    kind: Kind
    fingerprint: str
    recipe: Recipe
    contract: Contract
    parents: tuple[str, ...]
    """Fingerprints of the inputs."""
    seed: int
    code: str
    """Version of the package, and the git revision where there is one."""
    started: str
    """UTC, ISO 8601."""
    seconds: float
    """Wall time of the making, earlier attempts of a resumed step included."""
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> Record | None:
        """The record of a finished artifact, or None. Raises ValueError for a damaged one."""
        file = directory / RECORD_NAME
        try:
            tree: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            tree["kind"] = Kind(tree["kind"])
            tree["contract"] = Contract(**tree["contract"])
            tree["parents"] = tuple(tree["parents"])
            tree["metrics"] = {name: Metric(**metric) for name, metric in tree["metrics"].items()}
            return cls(**tree)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{file}: not a record ({error}); delete the directory to make it again") from None

    def artifact(self, path: Path) -> Artifact:
        """The artifact that this record describes."""
        return Artifact(kind=self.kind, path=path, fingerprint=self.fingerprint, name=self.name, contract=self.contract)


@dataclass(frozen=True)
class RunStore:
    """The artifacts of one run directory. Whoever changes them holds its lock."""

    root: Path

    @property
    def artifacts(self) -> Path:
        """Folder of the finished artifacts."""
        return self.root / "artifacts"

    def path(self, name: str, fingerprint: str) -> Path:
        """Final place of an artifact."""
        return self.artifacts / f"{name}-{fingerprint}"

    def work(self, name: str, fingerprint: str) -> Path:
        """What a killed step resumes from."""
        return self.root / "work" / f"{name}-{fingerprint}"

    def find(self, name: str, fingerprint: str) -> Record | None:
        """The record of a finished artifact, or None."""
        return Record.read(self.path(name, fingerprint))

    def all(self, name: str) -> list[Record]:
        """Every finished artifact of a step, oldest first."""
        form = re.compile(re.escape(name) + r"-[0-9a-f]{12}")
        found = [Record.read(p) for p in self.artifacts.glob(f"{name}-*") if form.fullmatch(p.name)]
        return sorted((record for record in found if record), key=lambda record: record.started)

    def open(self, name: str, fingerprint: str) -> Path:
        """An empty directory to fill, beside its final place."""
        partial = self._beside(name, fingerprint, "partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        return partial

    def commit(self, partial: Path, record: Record) -> Path:
        """Write the record, then move the directory to its final place in one rename."""
        final = self.path(record.name, record.fingerprint)
        with (partial / RECORD_NAME).open("w", encoding="utf-8") as file:
            json.dump(asdict(record), file, indent=2, ensure_ascii=False, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        if final.exists():  # made again by force: keep the old one until the new one stands
            final.rename(self._beside(record.name, record.fingerprint, "replaced"))
        partial.rename(final)
        shutil.rmtree(self._beside(record.name, record.fingerprint, "replaced"), ignore_errors=True)
        shutil.rmtree(self.work(record.name, record.fingerprint), ignore_errors=True)
        return final

    def sweep(self) -> None:
        """Remove what a killed run left half-made; put back what it was about to replace."""
        for old in self.artifacts.glob(".*.replaced"):
            final = self.artifacts / old.name.removeprefix(".").removesuffix(".replaced")
            if final.exists():
                shutil.rmtree(old)
            else:
                old.rename(final)
        for partial in self.artifacts.glob(".*.partial"):
            shutil.rmtree(partial)
        for work in (self.root / "work").glob("*"):
            if (self.artifacts / work.name / RECORD_NAME).exists():
                shutil.rmtree(work)

    def _beside(self, name: str, fingerprint: str, what: str) -> Path:
        return self.artifacts / f".{name}-{fingerprint}.{what}"
