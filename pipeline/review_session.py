"""What the review page asks for and tells: rows as plain data, verdicts into the file. HTTP is review_server.py's."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from data.verdicts import Choice, Verdict, parse
from pipeline.review_log import Conflict, ReviewLog
from pipeline.review_target import Item, Target
from stages.review import correction_fault

Answer = tuple[int, dict[str, Any]]
"""HTTP status and what is answered as JSON."""

ASKED = {"key": str, "verdict": str, "revision": int}
"""What every verdict of the page says; `completion` beside it where it corrects."""


@dataclass
class Session:
    """One `r1 review`: the rows, and the file that verdicts go to."""

    target: Target
    log: ReviewLog
    reviewer: str | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def state(self, at: str | None, after: str | None, choice: str | None) -> Answer:
        """The row number `at` from 0; or the first without a verdict, from number `after` on where it is given and
        then from the start; or the first with the verdict `choice`. 404 for a number that is no row's.
        """
        with self._lock:
            try:
                self.log.refresh()
            except (ValueError, OSError) as error:
                return 409, {"error": str(error)}
            items = self.target.items
            number: int | None
            if at is not None:
                if not at.isdecimal() or len(at) > 9 or int(at) >= len(items):
                    return 404, {"error": f"there is no row {at[:20]!r}; there are {len(items)}"}
                number = int(at)
            elif choice is not None:
                number = self._first(range(len(items)), choice)
            else:
                start = int(after) if after is not None and after.isdecimal() and len(after) < 10 else 0
                start %= len(items)
                number = self._first([*range(start, len(items)), *range(start)], None)
            return 200, {**self._progress(), "row": None if number is None else self._row(number)}

    def judge(self, body: bytes) -> Answer:
        """Write one verdict. 400 for what is none, 409 where somebody else was first, 422 for a text that cannot be
        used; `error` then says why in one line, and nothing is written.
        """
        try:
            said = json.loads(body.decode("utf-8"))
        except (ValueError, RecursionError):
            return 400, {"error": "not JSON"}
        if not isinstance(said, dict) or any(type(said.get(key)) is not kind for key, kind in ASKED.items()):
            return 400, {"error": f"expected an object with {', '.join(ASKED)}"}
        item = next((item for item in self.target.items if item.key == said["key"]), None)
        if item is None:
            return 400, {"error": f"there is no row {said['key'][:60]!r}"}
        line = {
            "id": item.key,
            "verdict": said["verdict"],
            "completion": said.get("completion"),
            "seen": item.digest,
            "reviewer": self.reviewer,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            verdict = parse(line, "this verdict")
        except ValueError as error:
            return 400, {"error": str(error)}
        if fault := self._fault(item, verdict):
            return 422, {"error": fault}
        return self._write(verdict, said["revision"])

    def _fault(self, item: Item, verdict: Verdict) -> str | None:
        text = verdict.completion
        if text is not None and item.row.get("completion") and text == item.row["completion"][-1]["content"]:
            return "nothing was changed; keep the row instead"
        return correction_fault(item.row, text, self.target.convention)

    def _write(self, verdict: Verdict, revision: int) -> Answer:
        with self._lock:
            try:
                self.log.append(verdict, revision)
            except Conflict:
                now = self.log.current(verdict.id)
                who = f" by {now.reviewer}" if now and now.reviewer else ""
                word = f"{now.verdict}{who}" if now else "no verdict"
                return 409, {"error": f"another window was first: {word}. Say it again to replace that"}
            except (ValueError, OSError) as error:
                return 500, {"error": f"nothing was written: {error}"}
            return 200, self._progress()

    def _first(self, numbers: Sequence[int], choice: str | None) -> int | None:
        """The first of `numbers` whose row has the verdict `choice`, or none."""
        for number in numbers:
            said = self.log.current(self.target.items[number].key)
            if (None if said is None else str(said.verdict)) == choice:
                return number
        return None

    def _progress(self) -> dict[str, Any]:
        said = [self.log.current(item.key) for item in self.target.items]
        counts = Counter(str(verdict.verdict) for verdict in said if verdict)
        total = len(self.target.items)
        return {
            "name": self.target.name,
            "out": str(self.target.out),
            "convention": self.target.convention.name,
            "total": total,
            "done": counts.total(),
            "counts": {str(c): counts[str(c)] for c in (Choice.KEEP, Choice.DROP, Choice.CORRECT, Choice.SKIP)},
        }

    def _row(self, number: int) -> dict[str, Any]:
        item = self.target.items[number]
        said = self.log.current(item.key)
        return {
            "at": number,
            "key": item.key,
            "revision": self.log.revision(item.key),
            "verdict": said.to_json() if said else None,
            "doubts": list(item.doubts),
            **described(item.row, self.target),
        }


def described(row: Mapping[str, Any], target: Target) -> dict[str, Any]:
    """A row taken apart for a reader: prompt, chain, answer, gold, scores, facts."""
    stated = row.get("provenance")
    provenance: Mapping[str, Any] = stated if isinstance(stated, dict) else {}
    completion = row.get("completion") or []
    text = completion[-1]["content"] if completion else None
    parsed = target.convention.parse(text or "")
    shown = ("domain", "language", "difficulty", "source", "id")
    facts = {name: row[name] for name in shown if row.get(name) is not None}
    facts |= {name: provenance[name] for name in ("tokens", "checkpoint") if name in provenance}
    return {
        "language": row["language"],
        "prompt": row["prompt"],
        "turns": completion[:-1],
        "completion": text,
        "reasoning": parsed.reasoning if parsed.well_formed else None,
        "answer": parsed.answer if parsed.well_formed else None,
        "fault": target.convention.fault(text) if text is not None else None,
        "chosen": row.get("chosen"),
        "rejected": row.get("rejected"),
        "reason": row.get("reason"),
        "gold": row.get("answer"),
        "tests": None if row.get("tests") is None else json.dumps(row["tests"], ensure_ascii=False, indent=2),
        "scores": provenance.get("scores") if isinstance(provenance.get("scores"), dict) else {},
        "total": provenance.get("total"),
        "facts": facts,
    }
