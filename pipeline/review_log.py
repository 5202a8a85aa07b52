"""The file of verdicts while it is being written: every line is on the disk before its writer hears that it is.

Several windows and several processes may write at once. Each write happens under a lock of the file, after reading
what others have added; whoever saw less of a row than is there now is told so, and nothing is overwritten unawares.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.verdicts import Choice, Verdict, parse

_BEGINS = b'{"id": "'
"""How every line of `Verdict.to_json` begins."""


class Conflict(Exception):
    """Somebody else has judged the row since it was shown."""


class ReviewLog:
    """Verdicts of one file by row key. One thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open or begin the file. Raises ValueError naming file and line of what is malformed.

        A last line that was cut off (the power failed, the disk was full) is removed; `cut` then says so.
        """
        self.path = path
        self.cut = ""
        self._said: dict[str, list[Verdict]] = {}
        self._read, self._lines, self._hash = 0, 0, hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise ValueError(f"{path}: not a file")
        with self._locked() as handle:
            self._mend(handle)
        self._sync_folder()

    def current(self, key: str) -> Verdict | None:
        """What is said about a row now."""
        said = self._said.get(key, [])
        return said[-1] if said and said[-1].verdict is not Choice.UNDO else None

    def revision(self, key: str) -> int:
        """How often something has been said about a row."""
        return len(self._said.get(key, []))

    def refresh(self) -> None:
        """Read what others have added. Raises ValueError for a malformed line."""
        with self._locked() as handle:
            self._catch_up(handle)

    def append(self, verdict: Verdict, revision: int) -> None:
        """Write one line, or nothing: Conflict if the row is at another revision, OSError if the disk refuses."""
        with self._locked() as handle:
            self._catch_up(handle)
            if self.revision(verdict.id) != revision:
                raise Conflict
            size = os.fstat(handle).st_size
            line = json.dumps(verdict.to_json(), ensure_ascii=False) + "\n"
            gap = "" if size == 0 or os.pread(handle, 1, size - 1) == b"\n" else "\n"
            try:
                _write(handle, (gap + line).encode())
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, size)
                raise
            self._catch_up(handle)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle
        finally:
            os.close(handle)

    def _catch_up(self, handle: int, end: int | None = None) -> None:
        """Parse the lines that are new; all of them where those that were read are others now (an editor wrote it)."""
        size = os.fstat(handle).st_size if end is None else end
        if hashlib.sha256(os.pread(handle, self._read, 0)).digest() != self._hash.digest():
            self._said, self._read, self._lines, self._hash = {}, 0, 0, hashlib.sha256()
        new = os.pread(handle, size - self._read, self._read)
        for line in io.BytesIO(new):
            if line.strip():
                verdict = _parsed(line, f"{self.path}:{self._lines + 1}")
                self._said.setdefault(verdict.id, []).append(verdict)
            self._lines += line.endswith(b"\n")
            self._read += len(line)
            self._hash.update(line)

    def _mend(self, handle: int) -> None:
        """Read the file and end it with a whole line. What is no beginning of a verdict is not ours to cut."""
        size = os.fstat(handle).st_size
        content = os.pread(handle, size, 0)
        last = content.rpartition(b"\n")[2]
        self._catch_up(handle, size - len(last))
        if last:
            begun = last[: len(_BEGINS)] == _BEGINS[: len(last)]
            try:
                self._catch_up(handle)
            except ValueError:
                if not begun or _is_json(last):
                    raise
                os.ftruncate(handle, size - len(last))
                self.cut = last.decode("utf-8", "replace")
            else:
                _write(handle, b"\n")
                self._catch_up(handle)
            os.fsync(handle)

    def _sync_folder(self) -> None:
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _parsed(line: bytes, where: str) -> Verdict:
    try:
        return parse(json.loads(line.decode("utf-8")), where)
    except UnicodeDecodeError:
        raise ValueError(f"{where}: not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise ValueError(f"{where}: not JSON (nested too deeply)") from None


def _write(handle: int, data: bytes) -> None:
    """All of it: one call of write may take less."""
    while data:
        data = data[os.write(handle, data) :]
