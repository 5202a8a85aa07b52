"""The columns that every dataset has, validated once; reading and writing them as JSON lines.

The layout is the ecosystem's conversational format (`prompt` and `completion` are lists of messages), so
whatever loads with TRL's trainers loads here, and what is written here loads there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]

DOMAINS = ("math", "code", "science", "logic", "general", "safety")
"""The domains that the recipe knows; a user's own names are as good."""

COLUMNS: Mapping[str, tuple[type, ...]] = {
    "id": (str,),
    "prompt": (list,),
    "completion": (list,),
    "chosen": (list,),
    "rejected": (list,),
    "domain": (str,),
    "language": (str,),
    "answer": (str,),
    "tests": (dict,),
    "difficulty": (int, float),
    "source": (str,),
}
REQUIRED = ("id", "prompt", "domain", "language")
ROLES = ("system", "user", "assistant", "tool")


def validate(row: object, where: str, *, raw: bool = False) -> Row:
    """Return `row` if its columns are as they must be. `where` names it in a message ("file.jsonl:17").

    `raw` says that it may be a row of raw text, which has a column `text` instead of a prompt. Columns of the user's
    own pass unchanged. Raises ValueError with one line.
    """
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object, got {type(row).__name__}")
    raw = raw and row.get("text") is not None and is_text(row)
    for name in REQUIRED:
        if row.get(name) is None and not (raw and name == "prompt"):
            raise ValueError(f"{where}: the column {name!r} is missing")
    if raw and not isinstance(row["text"], str):
        raise ValueError(f"{where}: column 'text' must be str, got {type(row['text']).__name__}")
    if raw:
        _check_text(row["text"], f"{where}: column 'text'")
    for name, types in COLUMNS.items():
        value = row.get(name)
        if value is not None and (not isinstance(value, types) or isinstance(value, bool)):
            wanted = " or ".join(t.__name__ for t in types)
            raise ValueError(f"{where}: column {name!r} must be {wanted}, got {type(value).__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{where}: column {name!r} must be a finite number, got {value}")
        if isinstance(value, str):
            _check_text(value, f"{where}: column {name!r}")
    for name in ("prompt", "completion", "chosen", "rejected"):
        if row.get(name) is not None:
            _check_messages(row[name], f"{where}: column {name!r}")
            if name != "prompt" and row[name][-1]["role"] != "assistant":
                raise ValueError(f"{where}: column {name!r} must end with what the assistant says")
    return row


def is_text(row: Mapping[str, Any]) -> bool:
    """Whether a row is raw text to pre-train on: one without a prompt."""
    return row.get("prompt") is None


def _check_messages(messages: list[Any], where: str) -> None:
    if not messages:
        raise ValueError(f"{where} is an empty list of messages")
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise ValueError(f"{where}: each message needs a role out of {', '.join(ROLES)}")
        if not isinstance(message.get("content"), str):
            raise ValueError(f"{where}: the content of a message must be text")
        _check_text(message["content"], where)


def _check_text(text: str, where: str) -> None:
    r"""Raise ValueError for half a character: JSON can write one (`"\ud800"`), UTF-8 and a tokenizer cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} holds half a character (U+{ord(text[error.start]):04X})") from None


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a JSON-lines file, validated. Raises ValueError naming file and line."""
    for number, value in read_json_lines(path):
        yield validate(value, f"{path}:{number}", raw=True)


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Line number (from 1) and value of each non-empty line. Raises ValueError naming file and line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError:
                raise ValueError(f"{path}:{number}: not UTF-8") from None
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: not JSON ({error.msg} at column {error.colno})") from None
            except RecursionError:
                raise ValueError(f"{path}:{number}: not JSON (nested too deeply)") from None
            yield number, value


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSON lines, whole or not at all; returns how many."""
    partial = path.with_name(path.name + ".partial")
    count = 0
    with partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    partial.replace(path)
    return count


def with_unique_ids(rows: Iterable[Row]) -> list[Row]:
    """The rows, each with an id of its own: a second "7", from another file say, becomes "7@2"."""
    taken: set[str] = set()
    numbers: dict[str, int] = {}  # the last that was given under each id: those before it stay taken
    made = []
    for row in rows:
        name, number = row["id"], numbers.get(row["id"], 0) + 1
        while (key := name if number == 1 else f"{name}@{number}") in taken:
            number += 1
        numbers[name] = number
        taken.add(key)
        made.append(row if number == 1 else {**row, "id": key})
    return made


OF_COMPLETION = ("chosen", "rejected", "safe", "judgement", "review")
"""Columns that speak of the completion that a row came with: another one does not inherit them."""


def without_completion(row: Mapping[str, Any]) -> Row:
    """The question of a row, to which another completion can be given."""
    return {name: value for name, value in row.items() if name != "completion" and name not in OF_COMPLETION}


def original_prompt(row: Mapping[str, Any]) -> Any:
    """The prompt of a row, or of the row that a copy was made of (data/augment.py)."""
    return (row.get("origin_prompt") if "augmentation" in row else None) or row["prompt"]


def prompt_origin(row: Mapping[str, Any]) -> str:
    """The same for a row and its copies (data/augment.py): the prompt of the original, as JSON."""
    return json.dumps(original_prompt(row), sort_keys=True, ensure_ascii=False)


def user_text(row: Mapping[str, Any]) -> str:
    """Content of the last user message of the prompt; "" where there is none."""
    return next((m["content"] for m in reversed(row["prompt"]) if m["role"] == "user"), "")
