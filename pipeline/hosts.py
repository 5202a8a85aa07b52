"""A run on several machines without a scheduler: one script a machine, and one that starts them all through ssh.

The machines share a file system that holds the run directory, this program and its environment.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from pipeline.launcher import ROOT
from pipeline.slurm import Places

MACHINE = """\
#!/usr/bin/env bash
# {name}: machine {rank} of {count}{host}. Written by `r1 launch` from {source}.
# Start the scripts of all machines; machine 0 runs the steps, the others help. Started again, the run goes on.
set -euo pipefail
cd {root}
exec > >(tee -a {log}) 2>&1
exec {command}
"""

START = """\
#!/usr/bin/env bash
# {name}: starts every machine and waits; when one fails, all end. Written by `r1 launch` from {source}.
set -euo pipefail
read -ra ssh <<<"${{SSH:-ssh -tt -o BatchMode=yes}}" # with a terminal, so that a machine stops when its ssh does
pids=()
trap 'kill "${{pids[@]}}" 2>/dev/null || true' EXIT
{lines}
for _ in "${{pids[@]}}"; do wait -n; done # the first failure ends this script
"""


def command(places: Places, rank: int, main: str) -> list[str]:
    """The command of one machine; `main` is HOST:PORT of machine 0."""
    line = [sys.executable, "-m", "pipeline", "run", str(places.config), "--run-dir", str(places.run_dir)]
    return [*line, "--machine-rank", str(rank), "--main-address", main]


def machine_script(places: Places, rank: int, count: int, main: str, host: str | None = None) -> str:
    """The script of one machine."""
    return MACHINE.format(
        name=places.name,
        rank=rank,
        count=count,
        host=f" ({host})" if host else "",
        source=places.source,
        root=shlex.quote(str(ROOT)),
        log=shlex.quote(str(places.logs / f"machine-{rank}.log")),
        command=shlex.join(command(places, rank, main)),
    )


def start_script(places: Places, hosts: Sequence[str], scripts: Sequence[str]) -> str:
    """A script that starts `scripts` on `hosts` and ends when the run does."""
    lines = [
        f'"${{ssh[@]}}" {shlex.quote(host)} bash {shlex.quote(shlex.quote(script))} &\npids+=("$!")'
        for host, script in zip(hosts, scripts, strict=True)
    ]
    return START.format(name=places.name, source=places.source, lines="\n".join(lines))
