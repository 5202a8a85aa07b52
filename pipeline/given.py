"""Given checkpoints as artifacts: a directory identified by its content, or a pinned repository of the Hub."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from data.artifact import Artifact, Kind, fingerprint, hash_file, hash_path
from data.contract import model_contract
from pipeline.atomic import write_text
from pipeline.config import UNPINNED, ModelSource
from pipeline.contract import check_disk
from pipeline.store import Record
from pipeline.whole_weights import check_weights


@dataclass
class HashCache:
    """SHA-256 of files, remembered by path, size and modification time: weights are large and seldom change."""

    file: Path
    known: dict[str, tuple[int, int, str]] = field(default_factory=dict)

    @classmethod
    def load(cls, file: Path) -> HashCache:
        """What an earlier run remembered; empty where there is nothing to read."""
        try:
            entries = json.loads(file.read_text(encoding="utf-8"))
            return cls(file, {str(path): (int(a), int(b), str(c)) for path, (a, b, c) in entries.items()})
        except (OSError, ValueError, TypeError, AttributeError):
            return cls(file)

    def hash_one(self, file: Path) -> str:
        """Like data.artifact.hash_file."""
        stat = file.stat()
        size, mtime, digest = self.known.get(str(file), (-1, -1, ""))
        if (size, mtime) != (stat.st_size, stat.st_mtime_ns):
            digest = hash_file(file)
            self.known[str(file)] = (stat.st_size, stat.st_mtime_ns, digest)
        return digest

    def save(self) -> None:
        """Remember for the next run."""
        write_text(self.file, json.dumps(self.known))


def model_fingerprint(source: ModelSource, base_dir: Path, name: str, cache: HashCache) -> str:
    """Identity of a given checkpoint. Raises ValueError where the directory holds no model."""
    if source.hub:
        _pinned(source, name)
        return fingerprint({"hub": source.hub, "revision": source.revision})
    return fingerprint({"content": hash_path(_directory(source, base_dir, name), cache.hash_one)})


def given_model(source: ModelSource, base_dir: Path, name: str, identity: str) -> Artifact:
    """The checkpoint on disk, downloaded first if it is the Hub's. Raises ValueError if it contradicts its record."""
    path = _download(source, name) if source.hub else _directory(source, base_dir, name)
    record = Record.read(path)
    if record is None:
        return Artifact(kind=Kind.MODEL, path=path, fingerprint=identity, name=name, contract=model_contract(path))
    made = Artifact(kind=record.kind, path=path, fingerprint=identity, name=name, contract=record.contract)
    if made.kind is not Kind.MODEL:
        raise ValueError(f"models.{name}: {path} holds a {made.kind}")
    check_disk(made)
    return made


def described_model(source: ModelSource, base_dir: Path, name: str) -> Artifact:
    """The checkpoint as far as its small files tell, for checks: weights of the Hub are not fetched, nothing is hashed.

    Raises ValueError as `given_model` does, and for a repository that is not pinned.
    """
    if source.path:
        return given_model(source, base_dir, name, "0" * 12)
    _pinned(source, name)
    path = _download(source, name, ["*.json", "*.jinja", "*.txt", "*.model"])
    return Artifact(kind=Kind.MODEL, path=path, fingerprint="0" * 12, name=name, contract=model_contract(path))


def _pinned(source: ModelSource, name: str) -> None:
    if source.revision == UNPINNED:
        raise ValueError(
            f"models.{name}.revision: {source.hub} is not pinned: "
            "set its revision to the commit that you trust (40 hex digits)"
        )


def _directory(source: ModelSource, base_dir: Path, name: str) -> Path:
    assert source.path is not None
    path = (base_dir / Path(source.path).expanduser()).resolve()
    if not path.is_dir():
        raise ValueError(f"models.{name}.path: there is no directory {path}")
    if not (path / "config.json").is_file():
        raise ValueError(f"models.{name}.path: {path} is not a checkpoint: it has no config.json")
    check_weights(path, f"models.{name}.path")
    return path


def _download(source: ModelSource, name: str, patterns: list[str] | None = None) -> Path:
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    assert source.hub is not None
    try:
        return Path(snapshot_download(repo_id=source.hub, revision=source.revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, HTTPError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"models.{name}.hub: {source.hub} cannot be fetched: {reason}") from None
