"""What people said about rows: a file of JSON lines that only grows, in which the last word on a row counts.

A row is known by its id, and by a hash of the text that the person saw: sampled anew, "7#2" is another text under
the same id, and what was said about the old one must not touch it. What verdicts do to rows is in stages/review.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from data.adapters import nearest
from data.artifact import fingerprint
from data.records import Row, read_json_lines


class Choice(StrEnum):
    """What may be said about a row."""

    KEEP = "keep"
    DROP = "drop"
    CORRECT = "correct"
    """Keep it with another text."""
    SKIP = "skip"
    """Seen and left open: the same as no verdict, except that the page does not ask again."""
    UNDO = "undo"
    """Withdraws what was said before."""


DECISIONS = (Choice.KEEP, Choice.DROP, Choice.CORRECT)
"""Those that decide."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One line of the file."""

    id: str
    verdict: Choice
    completion: str | None = None
    """The whole corrected text, tags included; with `correct` only."""
    seen: str | None = None
    """`digest` of the row that was judged; None believes that the row is still the same."""
    reviewer: str | None = None
    time: str | None = None
    """ISO 8601."""

    def to_json(self) -> dict[str, str]:
        """The line as plain data, without what is not set."""
        return {key: str(value) for key in self.__slots__ if (value := getattr(self, key)) is not None}


def digest(row: Mapping[str, Any]) -> str:
    """12 hex digits that stand for everything of a row that a verdict is about."""
    return fingerprint([row.get(name) for name in ("prompt", "completion", "chosen", "rejected")])


def keyed(rows: Iterable[Row]) -> Iterator[tuple[str, str, Row]]:
    """Key, digest and row of each. The key is the id; a second text under the same id gets "@2" behind it.

    Exact copies share a key, so that one verdict is about all of them.
    """
    taken: dict[str, str] = {}
    known: dict[tuple[str, str], str] = {}
    numbers: dict[str, int] = {}  # the last that was tried under each id: those before it stay taken
    for row in rows:
        name, seen = str(row["id"]), digest(row)
        while (name, seen) not in known:
            numbers[name] = number = numbers.get(name, 0) + 1
            key = name if number == 1 else f"{name}@{number}"
            if taken.setdefault(key, seen) == seen:
                known[name, seen] = key
        yield known[name, seen], seen, row


def parse(value: object, where: str) -> Verdict:
    """One line as a verdict. Raises ValueError that begins with `where` ("verdicts.jsonl:17")."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, got {type(value).__name__}")
    for key, said in value.items():
        if key not in Verdict.__slots__:
            raise ValueError(f"{where}: unknown key {key!r}{nearest(str(key), Verdict.__slots__)}")
        if said is not None and not isinstance(said, str):
            raise ValueError(f"{where}: {key} must be text, got {type(said).__name__}")
        _check_text(said or "", f"{where}: {key}")
    for key in ("id", "verdict"):
        if not value.get(key):
            raise ValueError(f"{where}: the key {key!r} is missing")
    choice = value["verdict"]
    if choice not in list(Choice):
        raise ValueError(f"{where}: unknown verdict {choice!r}{nearest(choice, [str(known) for known in Choice])}")
    if (value.get("completion") is not None) != (choice == Choice.CORRECT):
        missing = "the corrected text is missing (key 'completion')"
        raise ValueError(f"{where}: {missing if choice == Choice.CORRECT else f'{choice!r} takes no completion'}")
    if value.get("time") is not None:
        try:
            datetime.fromisoformat(value["time"])
        except ValueError:
            raise ValueError(f"{where}: time must be ISO 8601, got {value['time']!r}") from None
    return Verdict(**{**value, "verdict": Choice(choice)})


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} holds half a character (U+{ord(text[error.start]):04X})") from None


def read_verdicts(path: Path) -> dict[str, tuple[int, Verdict]]:
    """Row key to line number and last verdict, withdrawn ones left out, in the order in which rows were first judged.

    A file that is not there says nothing. Raises ValueError naming file and line.
    """
    found: dict[str, tuple[int, Verdict]] = {}
    if path.is_dir():
        raise ValueError(f"{path}: a folder, not a file of verdicts")
    if path.exists():
        for number, value in read_json_lines(path):
            verdict = parse(value, f"{path}:{number}")
            found[verdict.id] = (number, verdict)
    return {key: (line, said) for key, (line, said) in found.items() if said.verdict is not Choice.UNDO}


def identity(path: Path) -> dict[str, Any]:
    """What of a file of verdicts decides what is made with it: those that decide, with who and when.

    Raises ValueError as `read_verdicts` does.
    """
    decided = {key: said for key, (_, said) in read_verdicts(path).items() if said.verdict in DECISIONS}
    counts = {str(choice): sum(said.verdict is choice for said in decided.values()) for choice in DECISIONS}
    return counts | {"content": fingerprint({key: said.to_json() for key, said in decided.items()})}
