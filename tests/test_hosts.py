"""Two machines without Slurm: the written scripts run for real, here as two shells of one machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from pipeline.cli import main
from stages import STAGES
from tests.chains import ROOT, environment

pytestmark = [pytest.mark.slow, pytest.mark.alone]

ONE_STEP = {
    "sandbox": "weak",
    "models": {"base": {"path": str(ROOT / "data" / "tiny" / "base"), "evaluate": False}},
    "data": {"chains": {"source": "tiny", "split": "cold_start", "rows": 16}},
    "steps": [
        {"name": "cold_start", "stage": "cold_start", "init_from": "base", "data_from": "chains", "batch_size": 8}
    ],
    "launch": {"processes": 2, "machines": 2, "threads": 1},
}
HERE = '#!/usr/bin/env bash\nset -euo pipefail\nhost=$1\nshift\n{first}\nexec bash -c "$*"\n'
"""Stands in for ssh: runs what another machine is told to run on this one."""


def start(folder: Path, first: str) -> subprocess.CompletedProcess[str]:
    """Write the scripts for two machines and run the one that starts them."""
    folder.mkdir(exist_ok=True)
    config, ssh = folder / "one.yaml", folder / "ssh.sh"
    config.write_text(yaml.safe_dump(ONE_STEP))
    ssh.write_text(HERE.format(first=first))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = ["launch", str(config), "--run-dir", str(folder / "my run"), "--hosts", "localhost,127.0.0.1"]
    assert main([*line, "--port", str(port)], STAGES) == 0
    script = folder / "my run" / "launch" / "start.sh"
    env = {**environment(), "SSH": f"bash {ssh}"}
    return subprocess.run(["bash", script], env=env, capture_output=True, text=True, timeout=150, check=False)


def test_two_machines_run_a_step_together(tmp_path: Path) -> None:
    done = start(tmp_path, "")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "my run" / "summary.json").read_text())
    assert [entry["status"] for entry in summary["steps"]] == ["done", "done"]
    logs = tmp_path / "my run" / "launch" / "logs"
    assert "cold_start: done in" in (logs / "machine-0.log").read_text()
    assert "machine 1: cold_start done" in (logs / "machine-1.log").read_text()


def test_a_machine_that_cannot_be_reached_ends_the_others(tmp_path: Path) -> None:
    done = start(tmp_path, 'if [ "$host" = 127.0.0.1 ]; then sleep 2; echo "no route to $host" >&2; exit 7; fi')
    assert done.returncode == 7
    assert "no route to 127.0.0.1" in done.stderr
    assert not list((tmp_path / "my run" / "artifacts").glob("cold_start-*"))
    deadline = time.monotonic() + 20
    while any(str(tmp_path) in _line(p) for p in Path("/proc").glob("[0-9]*") if int(p.name) != os.getpid()):
        assert time.monotonic() < deadline, "machine 0 goes on alone"
        time.sleep(0.1)


def _line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
