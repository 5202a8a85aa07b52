"""How many programs a second does the sandbox grade, and what does isolation cost over a bare subprocess?

    python benchmarks/sandbox_throughput.py [--mode bubblewrap|weak] [--tasks 300] [--workers 2] [--data mbpp.jsonl]

Programs are MBPP's own solutions under their tests (a built-in set of functions where the file is absent), every
one different. The peer runs solution and asserts together in `python3 -I -S -c`, with no isolation, as many at once,
with the interpreter that the sandbox uses. Both take the same programs, in turns, in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tqdm import tqdm  # noqa: E402

from rewards.program import Program, find_entry_point  # noqa: E402
from rewards.reward import Sample  # noqa: E402
from rewards.sandbox_command import interpreter  # noqa: E402

ROUND = 50
MBPP = ROOT.parent / "shared" / "data" / "mbpp" / "mbpp.jsonl"


def mbpp_tasks(path: Path, count: int) -> list[Sample]:
    """The first `count` problems whose tests call a function of the solution."""
    tasks = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        entry_point = find_entry_point(row["test_list"], row["code"])
        if entry_point is not None:
            tasks.append(_task(row["code"], entry_point, row["test_list"], row["test_setup_code"]))
    return tasks[:count]


def generated_tasks(count: int) -> list[Sample]:
    """Small functions, no two alike."""
    source = "def f(values):\n    return sorted(value * {n} % 97 for value in values)"
    check = "assert f(list(range({a}))) == sorted(value * {n} % 97 for value in range({a}))"
    return [_task(source.format(n=n), "f", [check.format(n=n, a=a) for a in (1, 10, 100)]) for n in range(2, count + 2)]


def _task(source: str, entry_point: str, asserts: Sequence[str], setup: str = "") -> Sample:
    tests = {"kind": "function", "entry_point": entry_point, "asserts": list(asserts), "setup": setup}
    return Sample(prompt="", completion=source, tests=tests, domain="code", convention="none")


def bare(samples: Sequence[Sample], workers: int) -> list[bool]:
    """Whether solution and asserts together end well, in a subprocess without isolation."""
    python = str(interpreter()[0])

    def one(sample: Sample) -> bool:
        tests: Any = sample.tests
        program = "\n".join([tests["setup"], sample.completion, *tests["asserts"]])
        return subprocess.run([python, "-I", "-S", "-c", program], capture_output=True, timeout=60).returncode == 0

    with ThreadPoolExecutor(workers) as threads:
        return list(threads.map(one, samples))


def timed(what: Callable[[], Sequence[bool]]) -> tuple[float, int]:
    """Seconds, and how many passed."""
    start = time.perf_counter()
    passed = sum(what())
    return time.perf_counter() - start, passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--mode", default="bubblewrap" if shutil.which("bwrap") else "weak", choices=["bubblewrap", "weak"]
    )
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", type=Path, default=MBPP)
    options = parser.parse_args()
    tasks = mbpp_tasks(options.data, options.tasks) if options.data.exists() else generated_tasks(options.tasks)
    reward = Program(sandbox=options.mode, timeout=10.0)

    def graded(samples: Sequence[Sample]) -> list[bool]:
        return [verdict.score == 1.0 for verdict in reward.judge_many(samples, workers=options.workers)]

    start = time.perf_counter()
    graded(tasks[: options.workers])
    first = time.perf_counter() - start
    ours = theirs = 0.0
    passed = peer_passed = 0
    with tqdm(total=len(tasks), unit="task") as bar:
        for at in range(0, len(tasks), ROUND):
            batch = tasks[at : at + ROUND]
            seconds, right = timed(lambda batch=batch: graded(batch))  # type: ignore[misc]
            peer_seconds, peer_right = timed(lambda batch=batch: bare(batch, options.workers))  # type: ignore[misc]
            ours, theirs, passed, peer_passed = (
                ours + seconds, theirs + peer_seconds, passed + right, peer_passed + peer_right,
            )  # fmt: skip
            bar.update(len(batch))
    figures = {
        "mode": options.mode,
        "tasks": len(tasks),
        "workers": options.workers,
        "cores": len(os.sched_getaffinity(0)),
        "tasks_per_second": round(len(tasks) / ours, 1),
        "bare_subprocess_tasks_per_second": round(len(tasks) / theirs, 1),
        "ratio_to_bare_subprocess": round(theirs / ours, 2),
        "first_tasks_seconds": round(first, 3),
        "passed": passed,
        "passed_bare": peer_passed,
    }
    print(json.dumps({"benchmark": "sandbox_throughput", "figures": figures}))


if __name__ == "__main__":
    main()
