"""Waits until vLLM servers answer: `python -m pipeline.health --urls URL... [--pids PID...] [--timeout SECONDS]`.

Loading a large model takes minutes, and a server that died while loading never answers: with `--pids` its end is the
end of the waiting. Exit code 0 when all answer /health, 1 with one line otherwise.
"""

from __future__ import annotations

import argparse
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

PAUSE = 1.0
"""Seconds between two questions."""


def main(argv: Sequence[str] | None = None) -> int:
    """Wait; see the module."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.health", description="Wait until vLLM servers answer.")
    parser.add_argument("--urls", nargs="+", required=True, metavar="URL")
    parser.add_argument("--pids", nargs="*", type=int, default=[], metavar="PID", help="processes that must stay alive")
    parser.add_argument("--timeout", type=float, default=3600, metavar="SECONDS", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    if problem := wait(arguments.urls, arguments.pids, arguments.timeout):
        print(f"r1: {problem}", file=sys.stderr)
        return 1
    return 0


def wait(urls: Sequence[str], pids: Sequence[int], timeout: float) -> str | None:
    """Why not all of `urls` answer, or None when they do. `timeout` in seconds."""
    deadline = time.monotonic() + timeout
    left = list(urls)
    while left:
        left = [url for url in left if not _answers(url)]
        if gone := [pid for pid in pids if left and not _alive(pid)]:
            return f"a vLLM server ended before it answered (process {gone[0]}); its log says why"
        if left and time.monotonic() > deadline:
            return f"no answer from {left[0]}/health within {timeout:g} s"
        time.sleep(PAUSE if left else 0)
    return None


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=10) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
