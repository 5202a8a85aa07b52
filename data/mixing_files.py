"""Mixtures of rows that lie in files: one pass remembers where each row begins, then rows are read as they are drawn.

    for phase, row in mix_files([Path("medical.jsonl"), Path("finance.jsonl")], [phase], seed=0): ...

The stream is that of mixing.py, and memory grows by some dozens of bytes a row, whatever a row holds
(benchmarks/mixing.py measures 2,000,000). Left out: compressed files, which cannot be read from the middle.
"""

from __future__ import annotations

import itertools
import json
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from data.mixing import Length, Numbers, Phase, group_of, numbers, plan_phases
from data.records import Row, validate

OPEN_FILES = 64
"""Files that are open at once, however many the rows lie in."""

MOST_FILES = 65535
"""As two bytes a row can number."""


class RowFiles:
    """Rows of JSON-lines files by number: where they begin, to which group they belong, how long they are."""

    def __init__(self, paths: Sequence[Path], key: str, length: Length | None) -> None:
        """Reads every row once. Raises ValueError naming file and line of a malformed one, and for too many files."""
        self.paths = list(paths)
        if len(self.paths) > MOST_FILES:
            raise ValueError(f"{len(self.paths)} files, at most {MOST_FILES} are mixed; join some")
        self.groups: dict[str, Numbers] = {}
        self.offsets, self.files, self.lengths = numbers(), array("H"), array("Q")
        for at, path in enumerate(self.paths):
            for offset, row in _rows(path):
                self.groups.setdefault(group_of(row, key), numbers()).append(len(self.offsets))
                self.offsets.append(offset)
                self.files.append(at)
                if length is not None:
                    self.lengths.append(max(0, length(row)))

    def read(self, order: Iterator[tuple[str, int]]) -> Iterator[tuple[str, Row]]:
        """The rows of these numbers, each with what stands before its number."""
        opened: OrderedDict[int, BinaryIO] = OrderedDict()  # the last used comes last
        try:
            for told, number in order:
                at = self.files[number]
                file = opened.pop(at, None) or self.paths[at].open("rb")
                opened[at] = file
                if len(opened) > OPEN_FILES:
                    opened.popitem(last=False)[1].close()
                file.seek(self.offsets[number])
                yield told, json.loads(file.readline())
        finally:
            for file in opened.values():
                file.close()


def mix_files(
    paths: Sequence[Path],
    phases: Sequence[Phase],
    seed: int,
    *,
    key: str = "domain",
    length: Length | None = None,
    start: int = 0,
) -> Iterator[tuple[str, Row]]:
    """`data.mixing.mix_phases` over the rows of files, file after file: the same rows in the same order."""
    files = RowFiles(paths, key, length)
    sizes: Callable[[int], int] | None = None if length is None else files.lengths.__getitem__
    orders = plan_phases(files.groups, phases, seed, key=key, length=sizes)
    files.groups.clear()
    drawn = ((phase.name, n) for phase, order in zip(phases, orders, strict=True) for n in order)
    return files.read(itertools.islice(drawn, start, None))


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Offset in bytes and row of every line that is not empty."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    raise ValueError(f"{path}:{number}: not JSON") from None
                yield offset, validate(value, f"{path}:{number}")
            offset += len(line)
