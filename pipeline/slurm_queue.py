"""What `r1 launch --submit` asks of Slurm: submit a chain of files, and know which jobs of a run are in the queue."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.atomic import write_text

JOBS = "jobs.json"
"""File of a launch: job id to the file that was submitted."""

PATIENCE = 60
"""Seconds that Slurm may take to answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Queued:
    """A job in the queue."""

    id: str
    name: str
    state: str


SCRIPT = """\
#!/usr/bin/env bash
# Submits the steps that were left when `r1 launch` wrote this: each waits until the one before it has succeeded.
set -euo pipefail
"""


def refuse(run_dir: Path) -> None:
    """Raise ValueError, one line, where there is no Slurm to submit to, or jobs of this run directory are queued."""
    if shutil.which("sbatch") is None:
        raise ValueError("--submit needs sbatch, which is not on the PATH: submit from a login node of the cluster")
    if there := queued(run_dir):
        listed = ", ".join(f"{job.id} ({job.name}, {job.state.lower()})" for job in there)
        raise ValueError(
            f"{run_dir}: its jobs are in the queue: {listed}; wait for them, or end them with: "
            f"scancel {' '.join(job.id for job in there)}"
        )


def submit(files: Sequence[Path], folder: Path, say: Callable[[str], None]) -> None:
    """Submit `files` so that each waits for the one before. The ids are printed, and kept in `folder`/jobs.json.

    Raises ValueError where Slurm refuses one; those before it stay submitted, and are named.
    """
    known: dict[str, str] = {}
    for file in files:
        try:
            job = _told(_line(file, list(known)[-1] if known else None)).strip().partition(";")[0]
        except ValueError as error:
            before = f"; the jobs before it stay in the queue, to end them: scancel {' '.join(known)}" if known else ""
            raise ValueError(f"{error}{before}") from None
        known[job] = str(file)
        write_text(folder / JOBS, json.dumps(known, indent=2) + "\n")
        say(f"{job}  {file}")


def submit_script(files: Sequence[Path]) -> str:
    """The same as a script, for a user who looks first."""
    first, *others = files
    lines = [shlex.join(_line(first, None))]
    lines += [shlex.join(_line(file, "JOB")).replace("afterok:JOB", 'afterok:"$job"') for file in others]
    return SCRIPT + "".join(f"job=$({line})\n" for line in lines) + 'echo "$job"\n'


def _line(file: Path, after: str | None) -> list[str]:
    """The command for one file. A job whose predecessor fails is cancelled: it would wait for ever."""
    wait = [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"] if after else []
    return ["sbatch", "--parsable", *wait, str(file)]


def queued(run_dir: Path) -> list[Queued]:
    """Jobs in the queue, running ones included, that work in `run_dir`: each has it as its working directory."""
    found = []
    for line in _told(["squeue", "--me", "--noheader", "--sort=i", "--format=%i|%T|%j|%Z"]).splitlines():
        job, state, name, where = line.strip().split("|", 3)
        if where == str(run_dir):
            found.append(Queued(id=job, name=name, state=state))
    return found


def job_is_over(job: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the job `job` cannot be writing any more: it is this one, started again, or Slurm says that it ended.

    False where Slurm gives no answer.
    """
    if job == environ.get("SLURM_JOB_ID"):
        return True
    if shutil.which("squeue") is None:
        return False
    line = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return False
    return not done.stdout.strip() if done.returncode == 0 else "Invalid job id" in done.stderr


def _told(line: Sequence[str]) -> str:
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ValueError(f"{' '.join(line)}: {reason}")
    return done.stdout
