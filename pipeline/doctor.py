"""`r1 doctor`: what this machine has. A line fails where the demo could not run; others say what to install for more.

Versions are read from the metadata of the packages; nothing heavy is imported. The sandbox is tried, line by line.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline import machine
from pipeline.check import Line
from pipeline.check_findings import Level
from pipeline.machine import GIB
from rewards.sandbox_command import Mode

DEMO_DISK, DEMO_MEMORY = 1 * GIB, 3 * GIB
"""What `make demo` takes, with room to spare."""
SHM = 1 * GIB
"""Below this much of /dev/shm, NCCL and data loaders of many processes fail."""
MODES: Mapping[Mode, Level] = {"bubblewrap": Level.WARN, "weak": Level.FAIL}
"""How bad it is where a sandbox does not hold: the demo asks for `weak`."""
FILES = 4096
"""Open files that one process of a vLLM server or a scoring pool may want."""


def examine() -> Iterator[Line]:
    """One line about each thing, those that the demo needs first."""
    yield from _python()
    yield from _libraries()
    yield from _hardware()
    yield from _limits()
    yield from _isolation()
    yield from _cluster()


def _python() -> Iterator[Line]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Line(Level.OK, "python", f"{version} at {sys.executable}")


def _libraries() -> Iterator[Line]:
    """Those that the demo needs fail; extras only say what brings them."""
    for name, (requirement, extra) in machine.requirements().items():
        if extra == "dev":
            continue
        fault = machine.version_fault(name)
        if fault is None:
            yield Line(Level.OK, name, f"{machine.installed(name)} ({requirement.specifier})")
        else:
            yield Line(Level.WARN if extra else Level.FAIL, name, fault)
    if version := machine.installed("flash-attn"):
        yield Line(Level.OK, "flash-attn", version)
    else:
        yield Line(Level.WARN, "flash-attn", "not installed; attention: flash_attention_2 needs it, sdpa does not")


def _hardware() -> Iterator[Line]:
    cores = len(os.sched_getaffinity(0))
    yield Line(Level.OK, "cpu", f"{cores} cores may be used of {os.cpu_count()}")
    available, total = machine.memory()
    said = f"{available / GIB:.1f} GiB available of {total / GIB:.1f}"
    enough = available >= DEMO_MEMORY
    hint = "" if enough else f"; the demo needs {DEMO_MEMORY / GIB:.0f} GiB"
    yield Line(Level.OK if enough else Level.FAIL, "memory", said + hint)
    cards = machine.gpus()
    if not cards:
        yield Line(Level.WARN, "gpu", "none is seen (nvidia-smi); models beyond a few million parameters need one")
    for number, card in enumerate(cards):
        bf16 = "bf16" if card.capability >= 8 else "no bf16: use fp16"
        yield Line(Level.OK, "gpu", f"{number}: {card.name}, {card.memory / GIB:.0f} GiB, {bf16}")


def _limits() -> Iterator[Line]:
    free = machine.disk_free(Path.cwd())
    enough = free >= DEMO_DISK
    hint = "" if enough else f"; the demo needs {DEMO_DISK / GIB:.0f} GiB"
    yield Line(Level.OK if enough else Level.FAIL, "disk", f"{free / GIB:.1f} GiB free at {Path.cwd()}{hint}")
    if Path("/dev/shm").is_dir():
        size = shutil.disk_usage("/dev/shm").total
        small = size < SHM
        hint = "; many GPUs need more: docker run --shm-size=16g" if small else ""
        yield Line(Level.WARN if small else Level.OK, "/dev/shm", f"{size / GIB:.2f} GiB{hint}")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    few = files != resource.RLIM_INFINITY and files < FILES
    yield Line(
        Level.WARN if few else Level.OK,
        "open files",
        f"{_number(files)}" + (f"; servers want {FILES} or more: ulimit -n 65536" if few else ""),
    )
    yield Line(Level.OK, "processes", f"{_number(resource.getrlimit(resource.RLIMIT_NPROC)[0])} for this user")
    threads, policy = os.environ.get("OMP_NUM_THREADS"), os.environ.get("OMP_WAIT_POLICY")
    said = f"OMP_NUM_THREADS={threads or 'unset'}, OMP_WAIT_POLICY={policy or 'unset'}"
    spinning = (policy or "").lower() != "passive"
    hint = "; on a shared CPU set OMP_WAIT_POLICY=passive, or threads that wait take the cores of those that compute"
    yield Line(Level.WARN if spinning else Level.OK, "openmp", said + (hint if spinning else ""))


def _number(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)


def _isolation() -> Iterator[Line]:
    """Both modes line by line."""
    from rewards.sandbox import self_test
    from rewards.sandbox_selftest import TOLERATED

    found = shutil.which("bwrap")
    if found is None:
        yield Line(Level.WARN, "bubblewrap", "not found; sandbox: bubblewrap needs it: apt-get install bubblewrap")
    else:
        yield Line(Level.OK, "bubblewrap", found)
    for mode, bad in MODES.items():
        if mode == "bubblewrap" and found is None:
            continue
        try:
            lines = self_test(mode)
        except ValueError as error:
            yield Line(bad, mode, str(error))
            continue
        for name, held, detail in lines:
            level = Level.OK if held else Level.WARN if name in TOLERATED[mode] else bad
            yield Line(level, mode, f"{name}: {detail}")


def _cluster() -> Iterator[Line]:
    slurm = [name for name in ("sbatch", "srun", "scancel") if shutil.which(name)]
    said = ", ".join(slurm) if slurm else "no sbatch here: runs start on this machine only"
    yield Line(Level.OK, "slurm", said)
