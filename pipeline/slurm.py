"""Jobs as files for sbatch: short shell that starts programs, with every value filled in here.

The shell knows the one thing that cannot be known before: which nodes a job was given. See docs/slurm.md.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.jobs import Job
from pipeline.launcher import ROOT
from pipeline.servers import MODEL
from pipeline.site import Site

HEAD = """\
#!/usr/bin/env bash
# {what}. Written by `r1 launch` from {source};
# change that one, not this file. Started again after a kill or a time limit, it goes on where it stopped.
"""

ALLOCATION = """\
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")

# on FIRST COUNT COMMAND...: one task on each of COUNT nodes; if one fails, all end
on() {
  local names
  names=$(IFS=, && echo "${hosts[*]:$1:$2}")
  srun --overlap --nodes="$2" --ntasks="$2" --ntasks-per-node=1 --nodelist="$names" --kill-on-bad-exit=1 "${@:3}"
}
"""

ADDRESS = """\
port=$((20000 + SLURM_JOB_ID % 20000)) # of machine 0; servers have those behind it

# The address of a node: its name in Slurm need not be one that the network knows.
address() { scontrol show node "$1" | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2; }
"""

SERVE = """\
# serve FIRST COUNT CHECKPOINT [OPTION...]: a vLLM server on each of COUNT nodes; sets urls when all of them answer
serve() {
  local at
  servers=() urls=()
  for ((at = $1; at < $1 + $2; at++)); do
    srun --overlap --nodes=1 --ntasks=1 --nodelist="${hosts[at]}" --output=LOGS/"vllm-%j-$at.out" \\
      VLLM serve "$3" --port "$((port + 1 + at))" --logprobs-mode processed_logprobs \\
      OPTIONS "${@:4}" &
    servers+=("$!")
    urls+=("http://$(address "${hosts[at]}"):$((port + 1 + at))")
  done
  PYTHON -m pipeline.health --pids "${servers[@]}" --urls "${urls[@]}"
}
stop() {
  kill "${servers[@]}" 2>/dev/null || true
  wait "${servers[@]}" || true
}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where the files of a launch lie; absolute paths."""

    name: str
    """Of the run."""
    source: Path
    """The configuration that the user wrote."""
    config: Path
    """The resolved configuration that the jobs run, so that editing the other one changes no queued job."""
    run_dir: Path
    logs: Path


def step_file(job: Job, site: Site, places: Places) -> str:
    """The sbatch file of one job."""
    return _file([(job, site)], places, f"{places.name}: {job.step}", job.step)


def allocation_file(jobs: Sequence[Job], site: Site, places: Places) -> str:
    """One sbatch file that runs all jobs, in an allocation large enough for the largest; no step has its own values."""
    return _file([(job, site) for job in jobs], places, f"{places.name}: all steps in one allocation", "all")


def gpus(job: Job, site: Site) -> int:
    """GPUs that a job asks for on each node. Raises ValueError where the copies of its servers do not fill them."""
    tensor = site.tensor_parallel_size if job.server else 1
    count = site.gpus_per_node if site.gpus_per_node is not None else max(job.devices, tensor)
    if count % tensor:
        raise ValueError(f"{job.step}: slurm.tensor_parallel_size = {tensor} does not divide {count} GPUs of a node")
    return count


def _nodes(job: Job, site: Site) -> int:
    return job.machines + (site.vllm_nodes if job.server else 0)


def _file(jobs: Sequence[tuple[Job, Site]], places: Places, what: str, label: str) -> str:
    site = jobs[0][1]
    top = ["set -euo pipefail", *site.setup]
    if site.cpus_per_task:
        top.append(f"export SRUN_CPUS_PER_TASK={site.cpus_per_task} # srun does not take it from sbatch")
    parts = [
        HEAD.format(what=what, source=places.source) + "".join(f"#SBATCH {o}\n" for o in _options(jobs, places, label)),
        "\n".join([*top, f"cd {shlex.quote(str(ROOT))}"]) + "\n",
        ALLOCATION,
    ]
    if any(job.machines > 1 or job.server for job, _ in jobs):
        parts.append(ADDRESS)
    if served := next((job for job, _ in jobs if job.server), None):
        parts.append(_serve(served, site, places))
    line = [sys.executable, "-m", "pipeline", "run", str(places.config), "--run-dir", str(places.run_dir)]
    parts.append(f"r1=({shlex.join(line)})\n")
    parts += [_body(job, own) for job, own in jobs]
    return "\n".join(parts)


def _options(jobs: Sequence[tuple[Job, Site]], places: Places, label: str) -> list[str]:
    site = jobs[0][1]
    wanted = max(gpus(job, own) for job, own in jobs)
    given = {
        "job-name": f"r1-{places.name}-{label}",
        "chdir": str(places.run_dir),
        "output": str(places.logs / f"{label}-%j.out"),
        "nodes": str(max(_nodes(job, own) for job, own in jobs)),
        "ntasks-per-node": "1",
        "gpus-per-node": str(wanted) if wanted else None,
        "cpus-per-task": str(site.cpus_per_task) if site.cpus_per_task else None,
        "mem": site.memory,
        "time": site.time,
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
    }
    lines = [f"--{key}={shlex.quote(value)}" for key, value in given.items() if value is not None]
    return [*lines, "--requeue", "--open-mode=append", *site.options]


def _serve(job: Job, site: Site, places: Places) -> str:
    tensor = site.tensor_parallel_size
    copies = max(1, gpus(job, site) // tensor)
    split = ["--tensor-parallel-size", str(tensor)] if tensor > 1 else []
    split += ["--data-parallel-size", str(copies)] if copies > 1 else []
    program = site.vllm or str(Path(sys.executable).with_name("vllm"))
    return (
        SERVE.replace("VLLM", shlex.quote(program))
        .replace("OPTIONS", shlex.join(["--served-model-name", MODEL, *split, *site.vllm_options]))
        .replace("LOGS", shlex.quote(str(places.logs)))
        .replace("PYTHON", shlex.quote(sys.executable))
    )


def _body(job: Job, site: Site) -> str:
    """Shell that runs one step, with its servers around it."""
    line = f'on 0 {job.machines} "${{r1[@]}}" --only {shlex.quote(job.step)}'
    if not job.evaluates:
        line += f" --set steps.{job.step}.evaluate=false"
    if job.machines > 1:  # each starts its own `accelerate launch`; SLURM_NODEID says which machine it is
        line += ' \\\n  --main-address "$(address "${hosts[0]}"):$port"'
    if job.server:
        line += f' \\\n  --set "{job.server.key}.urls=[$(IFS=, && echo "${{urls[*]}}")]"'
    line += "\n"
    if not job.server:
        return line
    first, count = (job.machines, site.vllm_nodes) if site.vllm_nodes else (0, 1)
    serve = f"serve {first} {count} {shlex.quote(str(job.server.checkpoint))}"
    if job.server.follows:  # endpoints that take weights, for anyone who reaches the port
        serve = f"VLLM_SERVER_DEV_MODE=1 {serve}"
    if job.server.follows == "nccl":
        serve += """ --weight-transfer-config '{"backend": "nccl"}'"""
    return f"{serve}\n{line}stop\n"
