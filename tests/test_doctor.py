"""`r1 doctor`: lines that fail are those without which the demo cannot run; the others say what to install."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import rewards.sandbox
from pipeline import cli, doctor, machine
from pipeline.check_findings import Level
from pipeline.machine import Gpu
from stages import STAGES

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30


@pytest.fixture
def isolated(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[str, bool, str]]]:
    """Self-tests of the sandboxes, to be changed; a mode that is not there cannot be had."""
    lines = {mode: [("starts", True, "Python 3.11")] for mode in ("bubblewrap", "weak")}

    def self_test(mode: str) -> list[tuple[str, bool, str]]:
        if mode not in lines:
            raise ValueError(f"sandbox: no {mode} here")
        return lines[mode]

    monkeypatch.setattr(rewards.sandbox, "self_test", self_test)
    return lines


def told(level: Level) -> list[str]:
    return [f"{line.name}: {line.detail}" for line in doctor.examine() if line.level is level]


def test_the_demo_can_run_here_and_every_line_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    """With the real self-test of both sandboxes."""
    assert cli.main(["doctor"], STAGES) == 0
    out = capsys.readouterr().out
    names = {line[6:18].strip() for line in out.splitlines()}
    assert {"python", "torch", "trl", "vllm", "deepspeed", "flash-attn", "cpu", "memory", "gpu", "disk"} <= names
    assert {"open files", "processes", "openmp", "bubblewrap", "weak", "slurm"} <= names
    assert "ok    weak          network refused: refused: " in out


def test_a_library_that_the_demo_needs_fails(monkeypatch: pytest.MonkeyPatch, isolated: object) -> None:
    real = machine.installed
    other = {"torch": None, "transformers": "4.40.0", "vllm": "0.5", "flash-attn": "2.8.0"}
    monkeypatch.setattr(machine, "installed", lambda name: other[name] if name in other else real(name))
    assert told(Level.FAIL) == [
        "torch: torch is not installed; pip install 'torch>=2.6'",
        "transformers: transformers 4.40.0 is installed, <5.18,>=5.10 is needed; "
        "pip install 'transformers<5.18,>=5.10'",
    ]
    warned = "vllm: vllm 0.5 is installed, <=0.31,>=0.22 is needed; pip install 'vllm<=0.31,>=0.22'"
    assert warned in told(Level.WARN)
    assert "flash-attn: 2.8.0" in told(Level.OK)


def test_a_machine_that_is_too_small(monkeypatch: pytest.MonkeyPatch, isolated: object) -> None:
    small = SimpleNamespace(total=GIB // 16, used=0, free=GIB // 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: small)
    monkeypatch.setattr(machine, "memory", lambda: (GIB, 2 * GIB))
    monkeypatch.setattr(machine, "gpus", tuple)
    monkeypatch.setattr(resource, "getrlimit", lambda what: (256, 256))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert told(Level.FAIL) == [
        "memory: 1.0 GiB available of 2.0; the demo needs 3 GiB",
        f"disk: 0.5 GiB free at {Path.cwd()}; the demo needs 1 GiB",
    ]
    warned = told(Level.WARN)
    assert "/dev/shm: 0.06 GiB; many GPUs need more: docker run --shm-size=16g" in warned
    assert "open files: 256; servers want 4096 or more: ulimit -n 65536" in warned
    assert "gpu: none is seen (nvidia-smi); models beyond a few million parameters need one" in warned
    assert any(line.startswith("openmp: OMP_NUM_THREADS=2, OMP_WAIT_POLICY=unset; on a shared CPU") for line in warned)


def test_gpus_and_cluster(monkeypatch: pytest.MonkeyPatch, isolated: object) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: (Gpu("Tesla T4", 16 * GIB, 7.5), Gpu("H100", 80 * GIB, 9.0)))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(resource, "getrlimit", lambda what: (resource.RLIM_INFINITY,) * 2)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    fine = told(Level.OK)
    assert "gpu: 0: Tesla T4, 16 GiB, no bf16: use fp16" in fine
    assert "gpu: 1: H100, 80 GiB, bf16" in fine
    assert "open files: unlimited" in fine
    assert "slurm: no sbatch here: runs start on this machine only" in fine
    missing = "bubblewrap: not found; sandbox: bubblewrap needs it: apt-get install bubblewrap"
    assert missing in told(Level.WARN)


def test_sandboxes_line_by_line(
    monkeypatch: pytest.MonkeyPatch, isolated: dict[str, list[tuple[str, bool, str]]]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    isolated["bubblewrap"].append(("network refused", False, "DONE"))
    isolated["weak"] += [("host files unreadable", False, "DONE"), ("memory limited", False, "DONE")]
    assert told(Level.FAIL) == ["weak: memory limited: DONE"], "the demo asks for no more than weak"
    assert {"bubblewrap: network refused: DONE", "weak: host files unreadable: DONE"} <= set(told(Level.WARN))
    del isolated["weak"], isolated["bubblewrap"]
    assert told(Level.FAIL) == ["weak: sandbox: no weak here"]
    assert "bubblewrap: sandbox: no bubblewrap here" in told(Level.WARN)


def driver(folder: Path, body: str) -> str:
    """A PATH with an nvidia-smi that runs `body`."""
    file = folder / "nvidia-smi"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_gpus_are_read_off_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = machine.gpus.__wrapped__
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", driver(tmp_path, "echo 'NVIDIA H100, 81559, 9.0'; echo 'NVIDIA H100, 81559, 9.0'"))
    assert seen() == (Gpu("NVIDIA H100", 81559 << 20, 9.0),) * 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert len(seen()) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert seen() == ()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", driver(tmp_path, "exit 9"))
    assert seen() == ()
    monkeypatch.setenv("PATH", "/nonexistent")
    assert seen() == ()


def test_memory_of_a_control_group(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  8192 kB\nMemFree:  1 kB\nMemAvailable:  4096 kB\n")
    assert machine.memory(tmp_path) == (4 << 20, 8 << 20)
    (group / "memory.max").write_text("max\n")
    assert machine.memory(tmp_path) == (4 << 20, 8 << 20)
    (group / "memory.max").write_text(f"{3 << 20}\n")
    (group / "memory.current").write_text(f"{3 << 20}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {1 << 20}\n")
    assert machine.memory(tmp_path) == (1 << 20, 3 << 20), "cached files are given up"


def test_requirements_come_from_the_metadata_where_there_is_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = machine.requirements.__wrapped__
    here = stated()
    texts = ["torch>=2.6", "vllm<=0.31,>=0.22; extra == 'vllm'"]
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setattr(machine.importlib.metadata, "requires", lambda name: texts)
    found = stated()
    assert [str(requirement) for requirement, _ in found.values()] == ["torch>=2.6", "vllm<=0.31,>=0.22"]
    assert {name: extra for name, (_, extra) in found.items()} == {"torch": "", "vllm": "vllm"}
    assert here["vllm"][0].specifier == found["vllm"][0].specifier


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, rewards.sandbox\nfrom pipeline import doctor\n"
        "rewards.sandbox.self_test = lambda mode: []\n"
        "assert len(list(doctor.examine())) > 15\n"
        "print([m for m in ('torch', 'transformers', 'trl', 'vllm', 'deepspeed') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
