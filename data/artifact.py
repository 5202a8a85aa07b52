"""An artifact is a finished checkpoint or dataset on disk; its fingerprint says how it was made.

Standard library only. Left out on purpose: finding and committing artifacts (pipeline/store.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path

RECORD_NAME = "record.json"
"""Written last into an artifact's directory: a directory that has it is whole."""

ROWS_NAME = "rows.jsonl"
"""The rows of a dataset artifact, one JSON object a line (columns: data/records.py)."""


class Kind(StrEnum):
    """What a step makes."""

    MODEL = "model"
    DATASET = "dataset"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contract:
    """What an artifact was made under. None means "this kind of artifact does not say".

    A released 7B model shipped with a chat template that differed between its stages; joining
    two artifacts whose contracts disagree is refused for that reason.
    """

    convention: str | None = None
    """Name of the output convention (data/template.py) of the completions in it or learned by it."""
    tokenizer: str | None = None
    """Hash of the vocabulary and merges."""
    chat_template: str | None = None
    """Hash of the chat template's text."""
    eos: str | None = None
    pad: str | None = None

    def conflicts(self, other: Contract) -> list[str]:
        """Names of the fields on which both say something and what they say differs."""
        return [
            f.name
            for f in fields(self)
            if None not in (mine := getattr(self, f.name), theirs := getattr(other, f.name)) and mine != theirs
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A finished thing on disk. Never a promise: whoever holds one can read it."""

    kind: Kind
    path: Path
    fingerprint: str
    """Identity of how it was made; two artifacts with one fingerprint are interchangeable."""
    name: str = ""
    """The step or source in the configuration that it came from; for messages only."""
    contract: Contract = field(default_factory=Contract)

    def to_json(self) -> dict[str, object]:
        """Plain data, for handing an artifact to a child process."""
        return {**asdict(self), "path": str(self.path)}

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Artifact:
        """Inverse of `to_json`."""
        plain = dict(value)
        contract = plain.pop("contract")
        assert isinstance(contract, dict)
        return cls(
            kind=Kind(str(plain["kind"])),
            path=Path(str(plain["path"])),
            fingerprint=str(plain["fingerprint"]),
            name=str(plain["name"]),
            contract=Contract(**contract),
        )


def fingerprint(value: object) -> str:
    """First 12 hex digits of the SHA-256 of `value`'s canonical JSON.

    Raises TypeError or ValueError for anything without a stable JSON form (a Path, a set, a NaN):
    guessing one would give the same recipe two identities.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_path(path: Path, hash_one: Callable[[Path], str] = hash_file) -> str:
    """Content hash of a file, or of every file below a directory with its relative name.

    Hidden files and `record.json` are left out: they say where and when, not what. `hash_one` may remember the
    hashes of files that it has seen.
    """
    if path.is_file():
        return hash_one(path)
    parts = {
        file.relative_to(path).as_posix(): hash_one(file)
        for file in sorted(path.rglob("*"))
        if file.is_file()
        and file.name != RECORD_NAME
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
