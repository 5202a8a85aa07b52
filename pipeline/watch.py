"""Who gives no sign of life: a number in somebody's file that has stopped growing. Clocks are never compared."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages import ranks


@dataclass(slots=True)
class Watch:
    """Sees whether one number still changes."""

    patience: float
    """Seconds without a change after which it counts as silent."""
    last: Any = None
    since: float = field(default_factory=time.monotonic)

    def silent(self, number: Any) -> bool:
        """Whether nothing changed for too long; None is no news."""
        if number is not None and number != self.last:
            self.last, self.since = number, time.monotonic()
        return time.monotonic() - self.since > self.patience


@dataclass(slots=True)
class RankWatch:
    """Sees whether every rank of a step that has begun still lives."""

    folder: Path
    patience: float
    watches: dict[int, Watch] = field(default_factory=dict)
    looked: float = 0.0
    found: list[int] = field(default_factory=list)
    """The ranks that have fallen silent, once some have."""

    def silent(self) -> bool:
        """Whether some rank has; looks once a second."""
        if not self.found and time.monotonic() - self.looked >= ranks.BEAT_SECONDS:
            self.looked = time.monotonic()
            for rank, note in sorted(ranks.told(self.folder).items()):
                silent = self.watches.setdefault(rank, Watch(self.patience)).silent(note["beat"])
                if silent and not note["ended"]:
                    self.found.append(rank)
        return bool(self.found)
