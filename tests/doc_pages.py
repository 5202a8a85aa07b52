"""Reads the pages under docs/ and README.md: fenced blocks, tables of keys, links, commands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(path for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")] if path.is_file())

_FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_CUT = re.compile(r";|&&|\|\|?")
_BEFORE = re.compile(r"^\s*(?:(?:do|then|\$|[A-Z_]+=\S*)\s+)*")
_ROW = re.compile(r"^\| `([^`|]+)` \| ([^|]*) \|", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    info: tuple[str, ...]
    """Words behind the fence: language, then marks such as `config` or `file=rows.jsonl`."""
    text: str

    @property
    def label(self) -> str:
        """Place of the block, for the name of a test."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*wanted: str) -> list[Block]:
    """Fenced blocks of all pages whose info string begins with the words `wanted`."""
    found = [block for page in PAGES for block in blocks_of(page)]
    return [block for block in found if block.info[: len(wanted)] == wanted]


def blocks_of(page: Path) -> Iterator[Block]:
    """Fenced blocks of one page, in order."""
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        yield Block(page, text.count("\n", 0, match.start()) + 1, tuple(match[1].split()), match[2])


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Targets of the links of a page, those to other sites left out."""
    return [target for target in _LINK.findall(prose(page)) if "://" not in target]


def anchors(page: Path) -> set[str]:
    """Names that headings can be linked by."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def inline_code(page: Path) -> list[str]:
    """Texts between single backticks."""
    return _INLINE.findall(prose(page))


def commands() -> list[tuple[str, str]]:
    """Place and text of every command in a shell block: continued lines joined, lists cut, comments left out."""
    found = []
    for block in [b for page in PAGES for b in blocks_of(page) if b.info[:1] in (("bash",), ("sh",))]:
        for line in block.text.replace("\\\n", " ").splitlines():
            for part in _CUT.split(line.partition(" #")[0]):
                if command := _BEFORE.sub("", part).strip():
                    found.append((block.label, command))
    return found


def table_rows(text: str) -> dict[str, str]:
    """First column to second of every table row whose first cell is one piece of code."""
    return {name: value.strip() for name, value in _ROW.findall(text)}


def keys(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Dotted key to default, as the tables write it, of every field of a configuration and of those inside it."""
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else shown(field.get_default(call_default_factory=True))
        found[prefix + name] = default
        many = {"tuple[": "[]", "dict[": ".NAME"}
        mark = next((mark for start, mark in many.items() if str(field.annotation).startswith(start)), "")
        for inner in models_in(field.annotation):
            found |= keys(inner, f"{prefix}{name}{mark}.")
    return found


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Configurations inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in models_in(part)]


def shown(value: Any) -> str:
    """A default as YAML would have it; a configuration inside is told by its own keys."""
    assert value is not PydanticUndefined
    match value:
        case BaseModel():
            return "below"
        case None:
            return "`null`"
        case bool():
            return f"`{str(value).lower()}`"
        case tuple() | list():
            return f"`[{', '.join(map(str, value))}]`"
        case Mapping():
            return "`{}`" if not value else f"`{dict(value)}`"
        case "":
            return '`""`'
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
