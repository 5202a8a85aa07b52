"""What became of a step that ran as several ranks: who broke it, and what is merely a consequence of that."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages import ranks

LOST = re.compile(
    r"gloo|nccl|c10d|TCPStore|ProcessGroup|DistStoreError|DistNetworkError|DistBackendError", re.IGNORECASE
)
"""What torch's errors name when a rank finds that another one is gone."""
WAITED = re.compile(r"timed? ?out", re.IGNORECASE)
RESUME = "the others were stopped; run again to resume"


class StepFailed(RuntimeError):
    """A step broke, or a child process ended without an outcome."""


def raise_for(folder: Path, processes: int, timeout: int, code: int, silent: Sequence[int] = ()) -> None:
    """Raise the most telling error of the ranks whose files lie in `folder`, if there is one.

    ValueError for a user's mistake that any of them reported. StepFailed for the rest: first an error of a rank's own,
    then a rank that died without a word, then one that others waited for, then a lost connection. `code` is how the
    launcher ended; `timeout` how long ranks wait for each other, in seconds; `silent` are ranks that gave no sign of
    life for as long.
    """
    errors = {rank: result["error"] for rank, result in results(folder).items() if "error" in result}
    for error in errors.values():
        if error["user"]:
            raise ValueError(error["message"])
    lost = {rank for rank, error in errors.items() if processes > 1 and LOST.search(_said(error))}
    for rank, error in errors.items():
        if rank not in lost:
            raise StepFailed(error["traceback"].strip())
    if processes == 1 or (code == 0 and not errors):
        return
    mute = sorted(set(range(processes)) - set(errors))
    hung = [rank for rank in silent if rank in mute] or (
        mute if any(WAITED.search(_said(errors[rank])) for rank in lost) else []
    )
    if hung:
        raise StepFailed(_sentence(folder, hung[0], processes, f"did not answer for {timeout} s"))
    exits = _exits(folder)
    died = sorted(rank for rank in mute if exits.get(rank, -signal.SIGTERM) != -signal.SIGTERM)
    if died:
        raise StepFailed(_sentence(folder, died[0], processes, f"died ({_cause(exits[died[0]])})"))
    if lost:
        raise StepFailed(errors[min(lost)]["traceback"].strip())


def results(folder: Path) -> Mapping[int, Mapping[str, Any]]:
    """Rank to what it reported: result.json of rank 0, result.N.json of the others."""
    found = {}
    for file in sorted(folder.glob("result*.json")):
        rank = int(file.stem.partition(".")[2] or 0)
        found[rank] = json.loads(file.read_text(encoding="utf-8"))
    return dict(sorted(found.items()))


def _exits(folder: Path) -> dict[int, int]:
    """Rank to its exit code, of those that failed on any machine; below 0 is the signal that ended it."""
    found: dict[int, int] = {}
    for file in folder.glob("exits.*.json"):
        found |= {int(rank): code for rank, code in json.loads(file.read_text(encoding="utf-8")).items()}
    return found


def _sentence(folder: Path, rank: int, processes: int, fate: str) -> str:
    notes = ranks.told(folder)
    several = len({note["host"] for note in notes.values()}) > 1
    where = f" on {notes[rank]['host']}" if rank in notes and several else ""
    step = notes[rank]["optimiser_step"] if rank in notes else None
    when = "before optimiser step 1" if step is None else f"after optimiser step {step}"
    return f"rank {rank} of {processes}{where} {fate} {when}; {RESUME}"


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return f"signal {-code}" + (", often for want of memory" if -code == signal.SIGKILL else "")


def _said(error: Mapping[str, Any]) -> str:
    """The end of a traceback, from the type of the exception on."""
    return "\n".join(line for line in error["traceback"].splitlines() if not line.startswith(" "))
