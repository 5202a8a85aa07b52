"""The command `r1 review`: people judge rows on a page of this machine, or see them listed."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
import webbrowser
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.review_log import ReviewLog
    from pipeline.review_target import Target
    from stages.stage import Stage


def add(commands: Any) -> None:
    """Its arguments."""
    review = commands.add_parser("review", help="judge rows: keep, drop or correct them, on a page of this machine")
    review.add_argument("target", type=Path, metavar="FILE|RUN_DIR[/STEP]", help="rows, an artifact, or a run's step")
    review.add_argument("--out", type=Path, metavar="VERDICTS.jsonl", help="default: where the run looks for it")
    review.add_argument("--reviewer", help="who judges (default: the name of the account)")
    review.add_argument("--convention", help="output convention (default: that of the run)")
    review.add_argument("--port", type=_port, default=0, help="of the page on 127.0.0.1 (default: a free one)")
    review.add_argument("--no-browser", action="store_true", help="only print the address of the page")
    review.add_argument("--list", action="store_true", help="print every row with its verdict, and serve nothing")
    review.set_defaults(command=_review)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 65535, got {text!r}")
    return int(text)


def _review(arguments: argparse.Namespace, table: Mapping[str, Stage]) -> int:
    from pipeline.review_log import ReviewLog
    from pipeline.review_server import ReviewServer
    from pipeline.review_session import Session
    from pipeline.review_target import resolve

    target = resolve(arguments.target, arguments.out, arguments.convention, table)
    if arguments.list:
        print("\n".join(_listed(target)))
        return 0
    log = ReviewLog(target.out)
    if log.cut:
        print(f"r1: the last line of {target.out} was cut off and is removed: {log.cut[:80]!r}", file=sys.stderr)
    with ReviewServer(Session(target, log, arguments.reviewer or _account()), arguments.port) as server:
        try:
            print(f"Rows: {len(target.items)} of {target.source}\nVerdicts: {target.out} ({_progress(target, log)})")
            print(f"Page: {server.url}\nCtrl-C ends it; the same command goes on.", flush=True)
            if not arguments.no_browser and _has_screen():
                webbrowser.open(server.url)
            server.serve_forever()
        except KeyboardInterrupt:
            log.refresh()
            print(f"\n{_progress(target, log)}: {target.out}")
    return 0


def _progress(target: Target, log: ReviewLog) -> str:
    return f"{sum(log.current(item.key) is not None for item in target.items)} of {len(target.items)}"


def _account() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return None


def _has_screen() -> bool:
    """Where there is none, webbrowser would start a browser for terminals and wait for it."""
    return sys.platform == "darwin" or any(os.environ.get(key) for key in ("DISPLAY", "WAYLAND_DISPLAY"))


def _listed(target: Target) -> Iterator[str]:
    """One line a row: id, verdict, why it is there. Reads the file of verdicts, and writes nothing."""
    from data.records import user_text
    from data.verdicts import read_verdicts

    said = read_verdicts(target.out)
    width = max(len(item.key) for item in target.items)
    for item in target.items:
        found = said.get(item.key)
        stale = " (another text)" if found and found[1].seen not in (None, item.digest) else ""
        why = ", ".join(item.doubts) or " ".join(user_text(item.row).split())
        word = f"{found[1].verdict}{stale}" if found else "-"
        yield "".join(c if c.isprintable() else "?" for c in f"{item.key:{width}}  {word:7}  {why[:80]}")
    judged = sum(item.key in said for item in target.items)
    yield f"{judged} of {len(target.items)} have a verdict in {target.out}"
