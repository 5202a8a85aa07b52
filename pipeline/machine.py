"""What this machine has, without torch: GPUs, memory, disk, and installed versions against those that are pinned."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30


def readable(size: float) -> str:
    """Bytes for people."""
    return f"{size / GIB:.1f} GiB" if size >= 0.05 * GIB else f"{size / 2**20:.1f} MiB"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, as its driver describes it."""

    name: str
    memory: int
    """Bytes."""
    capability: float
    """CUDA compute capability; bf16 and FlashAttention 2 need 8.0."""


@cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs that a step would see; none without a driver, or where CUDA_VISIBLE_DEVICES hides them."""
    if shutil.which("nvidia-smi") is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return ()
    query = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    found = [line.rsplit(",", 2) for line in done.stdout.splitlines() if line.count(",") >= 2]
    every = tuple(Gpu(name.strip(), int(memory) << 20, float(capability)) for name, memory, capability in found)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return every if visible is None else every[: len(visible.split(","))]


def memory(root: Path = Path("/")) -> tuple[int, int]:
    """(available, total) bytes of main memory; the limit of a control group counts where it is lower.

    Cached files of the group are available: the kernel gives them up first.
    """
    fields = _numbers(root / "proc/meminfo")
    available, total = (fields[key] << 10 for key in ("MemAvailable:", "MemTotal:"))
    group = root / "sys/fs/cgroup"
    limit = group / "memory.max"
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        used = int((group / "memory.current").read_text()) - _numbers(group / "memory.stat").get("inactive_file", 0)
        total = min(total, int(text))
        available = min(available, max(0, int(text) - used))
    return available, total


def _numbers(file: Path) -> dict[str, int]:
    """First word of each line to the number behind it."""
    words = (line.split() for line in file.read_text().splitlines())
    return {word[0]: int(word[1]) for word in words if len(word) > 1 and word[1].isdigit()}


def disk_free(path: Path) -> int:
    """Bytes free where `path` is, or will be."""
    place = next(part for part in (path, *path.parents) if part.exists())
    return shutil.disk_usage(place).free


@cache
def requirements() -> dict[str, tuple[Requirement, str]]:
    """Name to (requirement, extra that brings it or ""), as this project states them."""
    file = ROOT / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        stated = [(text, "") for text in project["dependencies"]]
        stated += [(text, extra) for extra, texts in project["optional-dependencies"].items() for text in texts]
    else:
        stated = [_with_extra(text) for text in importlib.metadata.requires("r1-pipeline") or []]
    return {Requirement(text).name: (Requirement(text), extra) for text, extra in stated}


def _with_extra(text: str) -> tuple[str, str]:
    found = re.search(r"extra\s*==\s*['\"]([^'\"]+)", text)
    return text.partition(";")[0], found[1] if found else ""


def installed(name: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def version_fault(name: str) -> str | None:
    """What is wrong with the installed version of a requirement of ours, and what to install; None if nothing is."""
    requirement, extra = requirements()[name]
    install = f"pip install 'r1-pipeline[{extra}]'" if extra else f"pip install '{requirement}'"
    version = installed(name)
    if version is None:
        return f"{name} is not installed; {install}"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{name} {version} is installed, {requirement.specifier} is needed; pip install '{requirement}'"
    return None
