"""A real Slurm of two nodes on this machine, in a folder of its own: munged, slurmctld and two slurmd, no systemd."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun")
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
NODES = ("n1", "n2")

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=2,sched_min_interval=0,defer_batch
SlurmdParameters=config_overrides
KillWait=5
MinJobAge=300
{nodes}
PartitionName=all Nodes={names} Default=YES State=UP MaxTime=INFINITE OverSubscribe=FORCE:4
"""


@dataclass(frozen=True)
class Cluster:
    """Two nodes that answer; `environment` is what the commands of Slurm need to find them."""

    folder: Path
    environment: dict[str, str]

    def ask(self, *line: str) -> str:
        """What a command of Slurm prints; fails the test where it fails."""
        done = subprocess.run(line, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        return done.stdout

    def queue(self) -> list[str]:
        """Ids of the jobs that are queued or running."""
        return self.ask("squeue", "--noheader", "--format=%i").split()

    def wait(self, until: Callable[[], bool], seconds: float) -> None:
        """Fails the test, with the logs of the daemons, where `until` is not true in time."""
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, f"not in {seconds} s\n{self.told()}"
            time.sleep(0.1)

    def told(self) -> str:
        """The ends of the logs of the daemons and the state of queue and nodes."""
        ends = [f"{log.name}:\n{log.read_text(errors='replace')[-1500:]}" for log in sorted(self.folder.glob("*.log"))]
        for line in (["squeue"], ["scontrol", "show", "nodes"]):
            done = subprocess.run(line, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
            ends.append(done.stdout + done.stderr)
        return "\n".join(ends)


def require() -> None:
    """Skip the test where Slurm is not installed or may not be started."""
    missing = [name for name in PROGRAMS if not shutil.which(name, path=PATH)]
    if missing:
        pytest.skip(f"needs Slurm (apt-get install slurm-wlm munge): no {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("the daemons of Slurm are started as root")


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Start the daemons, wait until both nodes are idle, and leave nothing behind."""
    require()
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # pytest's own folders are too long for the path of a socket
    folder.chmod(0o755)
    children: list[subprocess.Popen[bytes]] = []
    try:
        environment = _configure(folder)
        for line in _daemons(folder):
            log = (folder / f"{line[0]}.out").open("ab")
            children.append(
                subprocess.Popen(line, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)
            )
            if line[0] == "munged":
                _until(lambda: (folder / "munge.sock").exists(), "munged gives no socket", folder)
        made = Cluster(folder, environment)
        made.wait(lambda: _answers(made) == ["idle"] * len(NODES), 60)
        yield made
        made.ask("scancel", "--user=root")
        made.wait(lambda: not made.queue(), 30)
    finally:
        for child in reversed(children):
            child.terminate()
        for child in children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        _end_leftovers(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path) -> dict[str, str]:
    """Write slurm.conf and a key of its own for munge; the environment that points there."""
    controller, *ports = _free_ports(1 + len(NODES))
    host = socket.gethostname().partition(".")[0]  # as Slurm cuts it
    cores = max(4, 2 * (os.cpu_count() or 1))
    nodes = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cores} State=UNKNOWN"
        for name, port in zip(NODES, ports, strict=True)
    ]
    text = CONF.format(
        host=host,
        controller=controller,
        folder=folder,
        nodes="\n".join(nodes),
        names=",".join(NODES),
    )
    (folder / "slurm.conf").write_text(text, encoding="utf-8")
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
        "PATH": PATH,
        "SLURM_CONF": str(folder / "slurm.conf"),
    }


def _daemons(folder: Path) -> list[list[str]]:
    conf = str(folder / "slurm.conf")
    munge = {"socket": "munge.sock", "key-file": "munge.key", "pid-file": "munge.pid", "log-file": "munge.log"}
    munge |= {"seed-file": "munge.seed"}
    return [
        ["munged", "--foreground", "--force", *(f"--{name}={folder / file}" for name, file in munge.items())],
        ["slurmctld", "-D", "-f", conf],
        *(["slurmd", "-D", "-N", name, "-f", conf] for name in NODES),
    ]


def _free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def _until(reached: Callable[[], bool], message: str, folder: Path) -> None:
    deadline = time.monotonic() + 20
    while not reached():
        told = "".join(file.read_text(errors="replace") for file in folder.glob("munged*"))
        assert time.monotonic() < deadline, f"{message}: {told}"
        time.sleep(0.05)


def _answers(made: Cluster) -> list[str]:
    line = ["sinfo", "--noheader", "--Node", "--format=%T"]
    done = subprocess.run(line, env=made.environment, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.split()


def _end_leftovers(folder: Path) -> None:
    """slurmstepd outlives its slurmd; those of this cluster name its folder in their environment."""
    marker = f"SLURM_CONF={folder}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (process / "environ").read_bytes() and int(process.name) != os.getpid():
                os.kill(int(process.name), 9)
        except (OSError, ValueError):
            continue
