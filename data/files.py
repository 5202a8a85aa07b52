"""Raw values out of data files: JSON lines, JSON, CSV, parquet and plain text, each also gzipped.

Left out on purpose: what the values mean (the adapters) and which rows are taken (sources.py).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

Value = Any
"""A JSON value, or a ValueError that says why this one line cannot be read."""


def resolve(path: object, base_dir: Path) -> list[Path]:
    """The files that a `path` entry names: one file, a list, or a glob pattern, relative to `base_dir`.

    A list keeps its order; a pattern is sorted. Raises ValueError for a name that matches nothing.
    """
    names = path if isinstance(path, list) else [path]
    files: list[Path] = []
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"path must be a file name, a pattern or a list of them, got {name!r}")
        target = base_dir / name
        if any(mark in name for mark in "*?["):
            anchor = Path(target.anchor)
            found = sorted(p for p in anchor.glob(str(target.relative_to(anchor))) if p.is_file())
        else:
            found = [target] if target.is_file() else []
        if not found:
            raise ValueError(f"path: no file {name!r} (looked for {target})")
        files += found
    if not files:
        raise ValueError("path is an empty list")
    return files


def read(path: Path) -> Iterator[tuple[str, Value]]:
    """Place ("train.jsonl:17") and value of each row of a file.

    A line that cannot be read comes as a ValueError value, so that the caller decides whether it is
    fatal; a file that cannot be read at all raises ValueError.
    """
    suffixes = [s.lower() for s in path.suffixes]
    zipped = suffixes[-1:] == [".gz"]
    kind = (suffixes[:-1] if zipped else suffixes)[-1:]
    reader = READERS.get(kind[0]) if kind else None
    if reader is None:
        raise ValueError(f"{path}: unknown format; known are {', '.join(READERS)}, each also with .gz")
    try:
        with gzip.open(path, "rb") if zipped else path.open("rb") as file:
            yield from reader(cast(IO[bytes], file), path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error})") from None


def _json_lines(file: IO[bytes], path: Path) -> Iterator[tuple[str, Value]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield where, _parse(line, where)


def _json(file: IO[bytes], path: Path) -> Iterator[tuple[str, Value]]:
    """A list of rows; a file that does not begin with `[` is read as JSON lines, as many `.json` data sets are."""
    content = file.read()
    if not content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from _json_lines(io.BytesIO(content), path)
        return
    values = _parse(content, str(path))
    if isinstance(values, ValueError):
        raise values
    for number, value in enumerate(values, start=1):
        yield f"{path}: item {number}", value


def _parse(content: bytes, where: str) -> Value:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return ValueError(f"{where}: not UTF-8")
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        return ValueError(f"{where}: not JSON ({error.msg} at {line}column {error.colno})")
    except RecursionError:
        return ValueError(f"{where}: not JSON (nested too deeply)")


def _csv(file: IO[bytes], path: Path) -> Iterator[tuple[str, Value]]:
    rows = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not UTF-8 (after line {rows.line_num})") from None
        except csv.Error as error:
            raise ValueError(f"{path}:{rows.line_num + 1}: not CSV ({error})") from None
        where = f"{path}:{rows.line_num}"
        if None in row or None in row.values():
            yield where, ValueError(f"{where}: the number of fields differs from the header's")
        else:
            yield where, row


def _parquet(file: IO[bytes], path: Path) -> Iterator[tuple[str, Value]]:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        table = pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not parquet ({str(error).splitlines()[0]})") from None
    number = 0
    for batch in table.iter_batches(batch_size=1024):
        for value in batch.to_pylist():
            number += 1
            yield f"{path}: row {number}", value


def _plain(file: IO[bytes], path: Path) -> Iterator[tuple[str, Value]]:
    """The whole file as one document."""
    content = file.read()
    try:
        yield str(path), {"text": content.decode("utf-8-sig")}
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        where = f"{path}:{line}"
        yield where, ValueError(f"{where}: not UTF-8")


READERS: Mapping[str, Callable[[IO[bytes], Path], Iterator[tuple[str, Value]]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".txt": _plain,
    ".md": _plain,
}
