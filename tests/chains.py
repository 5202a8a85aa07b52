"""Run a configuration as a user does, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BAR = re.compile(r"[\w.: ]+:( +\d+%\|.*\||) *[\d.]+\w*(/[\d.]+\w*)? \[[\d:]+[^\]]*\] *")
"""A progress bar, and nothing behind it."""

CHECKPOINTS = ("cold_start", "sft_mix", "reasoning_rl", "sft_final", "general_rl", "distillation")


def command(config: Path, run_dir: Path, *overrides: str) -> list[str]:
    sets = [part for override in overrides for part in ("--set", override)]
    return [sys.executable, "-m", "pipeline", "run", str(config), "--run-dir", str(run_dir), *sets]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}


def run(config: Path, run_dir: Path, *overrides: str) -> tuple[dict[str, Any], str]:
    """(summary.json, what was printed); fails the test where the run fails. `said` reads what went to stderr."""
    done = subprocess.run(
        command(config, run_dir, *overrides), cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    _errors(run_dir).write_text(done.stderr)
    return json.loads((run_dir / "summary.json").read_text()), done.stdout


def _errors(run_dir: Path) -> Path:
    return run_dir.with_name(f"{run_dir.name}.stderr")


def said(run_dir: Path) -> list[str]:
    """What the last `run` said on stderr besides its progress bars."""
    lines = re.split(r"[\r\n]+", _errors(run_dir).read_text())
    return [line for line in lines if line.strip() and not BAR.fullmatch(line)]


def kill_when(config: Path, run_dir: Path, reached: Callable[[], bool]) -> None:
    """Start the run and kill -9 it as soon as `reached`; fails the test where it ends before."""
    child = subprocess.Popen(
        command(config, run_dir), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 600
    while not reached():
        assert child.poll() is None, f"the run ended with {child.returncode} before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()


def entries(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in summary["steps"]}


def artifact(run_dir: Path, step: str) -> Path:
    """The one artifact of a step."""
    found = [path for path in (run_dir / "artifacts").glob(f"{step}-*") if (path / "record.json").exists()]
    found = [path for path in found if path.name.rpartition("-")[0] == step]
    assert len(found) == 1, found
    return found[0]


def on_two_ranks(launcher: Sequence[str], module: str, folder: Path) -> tuple[Any, Any]:
    """What two ranks of `module`, started by the module `launcher` with its options, leave as rank0.json and rank1.json
    in `folder`; fails the test where one of them fails."""
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "-m", module, str(folder)],
        cwd=ROOT,
        env={**environment(), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1))
    return first, second
