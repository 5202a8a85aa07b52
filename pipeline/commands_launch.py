"""`r1 launch`: write, show or submit what starts a run on a cluster with Slurm, or on machines without."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.jobs import Job
    from pipeline.site import Site
    from pipeline.slurm import Places
    from stages.stage import Stage

FLAGS = ("partition", "account", "time", "gpus_per_node", "vllm_nodes")
"""Flags that stand for the key of `slurm:` with the same name."""


def add(commands: Any) -> None:
    """Add the command to the parser of `r1`."""
    launch = commands.add_parser("launch", help="write or submit what starts a run on a cluster or several machines")
    launch.add_argument("config", type=Path, metavar="CONFIG")
    launch.add_argument("--run-dir", type=Path, help="where artifacts and reports go (default: runs/NAME)")
    launch.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    launch.add_argument("--out", type=Path, metavar="DIR", help="where the files go (default: RUN_DIR/launch)")
    launch.add_argument("--dry-run", action="store_true", help="print every file and command, write and start nothing")
    launch.add_argument("--nodes", type=int, metavar="N", help="machines of a training step: launch.machines")
    launch.add_argument(
        "--gpus-per-node", type=int, metavar="N", help="GPUs of a node; above 0 also its training processes"
    )
    where = launch.add_mutually_exclusive_group()
    where.add_argument("--slurm", action="store_true", help="files for sbatch")
    where.add_argument("--hosts", metavar="A,B,...", help="scripts that start the run on these machines through ssh")
    launch.add_argument("--port", type=int, default=29500, help="free on machine 0, without Slurm (%(default)s)")
    launch.add_argument("--submit", action="store_true", help="with --slurm: submit the files")
    shape = launch.add_mutually_exclusive_group()
    shape.add_argument("--per-step", action="store_true", help="a job for each step, one after the other (default)")
    shape.add_argument("--one-allocation", action="store_true", help="one job that runs all steps")
    launch.add_argument("--site", type=Path, metavar="FILE", help="YAML file with keys of `slurm:`")
    launch.add_argument("--partition", help="partition of the jobs")
    launch.add_argument("--account", help="account that pays for them")
    launch.add_argument("--time", help="limit of one job, as sbatch takes it")
    launch.add_argument("--vllm-nodes", type=int, metavar="N", help="nodes for vLLM servers; 0 shares the step's own")
    launch.set_defaults(command=_launch)


def _launch(arguments: argparse.Namespace, table: Mapping[str, Stage]) -> int:
    from pipeline.config import dump, load
    from pipeline.graph import build
    from pipeline.jobs import plan_jobs
    from pipeline.reviewed import before_people
    from pipeline.servers import with_places
    from pipeline.site import read_site
    from pipeline.slurm import Places
    from pipeline.step import Role, resolved_step

    _check_flags(arguments)
    config = with_places(load(arguments.config, arguments.overrides + _wide(arguments)))
    nodes = build(config, table, arguments.config)
    site = read_site(config.slurm, arguments.site, {key: getattr(arguments, key) for key in FLAGS})
    run_dir = (arguments.run_dir or Path("runs") / config.name).resolve()
    out = (arguments.out or run_dir / "launch").resolve()
    jobs, waits = before_people(plan_jobs(config, nodes, run_dir), nodes)
    site.check(node.name for node in nodes)
    if not jobs:
        print(f"Nothing to launch: every step in {run_dir} is current.")
        return 0
    if waits:
        print(waits)
    source = arguments.config.expanduser().resolve()
    places = Places(name=config.name, source=source, config=out / "config.json", run_dir=run_dir, logs=out / "logs")
    steps = [resolved_step(node, config) for node in nodes if node.role is Role.STEP]
    files = {places.config: dump(config, steps)}
    if arguments.slurm:
        return _slurm(arguments, jobs, site, places, files)
    return _machines(arguments, jobs, places, files)


def _check_flags(arguments: argparse.Namespace) -> None:
    if not arguments.slurm:
        flags = {"--submit": arguments.submit, "--per-step": arguments.per_step, "--site": arguments.site}
        flags |= {"--one-allocation": arguments.one_allocation, "--vllm-nodes": arguments.vllm_nodes is not None}
        flags |= {f"--{key}": getattr(arguments, key) for key in ("partition", "account", "time")}
        for flag, given in flags.items():
            if given:
                raise ValueError(f"{flag} needs --slurm")
    for flag, value, least in (("--nodes", arguments.nodes, 1), ("--gpus-per-node", arguments.gpus_per_node, 0)):
        if value is not None and value < least:
            raise ValueError(f"{flag}: expected a number from {least}, got {value}")


def _wide(arguments: argparse.Namespace) -> list[str]:
    """--nodes, --hosts and --gpus-per-node as overrides of `launch:`, which a step's own `launch:` keys still beat."""
    nodes, gpus = arguments.nodes, arguments.gpus_per_node
    if nodes is None and arguments.hosts:
        nodes = len(arguments.hosts.split(","))
    found = [f"launch.machines={nodes}"] if nodes is not None else []
    if gpus:
        from pipeline.config import load

        machines = nodes or load(arguments.config, arguments.overrides).launch.machines
        found.append(f"launch.processes={machines * gpus}")
    return found


def _slurm(arguments: argparse.Namespace, jobs: list[Job], site: Site, places: Places, files: dict[Path, str]) -> int:
    from pipeline.slurm import allocation_file, step_file
    from pipeline.slurm_queue import refuse, submit, submit_script

    out = places.config.parent
    if arguments.one_allocation:
        written = {out / "all.sbatch": allocation_file(jobs, site, places)}
    else:
        names = {out / f"{job.number:02d}-{job.step}.sbatch": job for job in jobs}
        written = {file: step_file(job, site.of(job.step), places) for file, job in names.items()}
    script = {out / "submit.sh": submit_script(list(written))}
    if arguments.submit and not arguments.dry_run:
        refuse(places.run_dir)  # before files that queued jobs will read are written anew
    _write({**files, **written, **script}, places, arguments.dry_run)
    if arguments.submit and not arguments.dry_run:
        submit(list(written), out, say=lambda line: print(line, flush=True))
    else:
        print(f"Submit with: bash {shlex.quote(str(out / 'submit.sh'))}, or with --submit")
    return 0


def _machines(arguments: argparse.Namespace, jobs: list[Job], places: Places, files: dict[Path, str]) -> int:
    from pipeline.hosts import command, machine_script, start_script
    from pipeline.launcher import ROOT

    hosts = arguments.hosts.split(",") if arguments.hosts is not None else None
    count = max(job.machines for job in jobs)
    if hosts is not None and not all(hosts):
        raise ValueError(f"--hosts: a name is empty in {arguments.hosts!r}")
    if hosts is not None and len(hosts) != count:
        raise ValueError(f"--hosts names {len(hosts)} machines, launch.machines is {count}")
    if served := next((job for job in jobs if job.server), None):
        assert served.server is not None
        raise ValueError(
            f"{served.step}: without Slurm its vLLM servers are yours to start (launch/vllm_server.sh CHECKPOINT); "
            f"give their urls: --set {served.server.key}.urls=[http://HOST:8000]"
        )
    out = places.config.parent
    main = f"{hosts[0] if hosts else 'MACHINE_0'}:{arguments.port}"
    if hosts is None:
        _write(files, places, arguments.dry_run)
        for rank in range(count):
            print(f"On machine {rank}:  cd {shlex.quote(str(ROOT))} && {shlex.join(command(places, rank, main))}")
        return 0
    scripts = {out / f"machine-{n}.sh": machine_script(places, n, count, main, host) for n, host in enumerate(hosts)}
    start = {out / "start.sh": start_script(places, hosts, list(map(str, scripts)))}
    _write({**files, **scripts, **start}, places, arguments.dry_run)
    print(f"Start with: bash {shlex.quote(str(out / 'start.sh'))}")
    return 0


def _write(files: Mapping[Path, str], places: Places, dry_run: bool) -> None:
    """Write the files, or print them."""
    from pipeline.atomic import write_text

    if dry_run:
        for file, text in files.items():
            print(f"# {file}\n{text}")
        return
    places.logs.mkdir(parents=True, exist_ok=True)
    places.run_dir.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        write_text(file, text)
        print(file)
