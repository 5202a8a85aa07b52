"""Where a step runs: in this process, in a child, or in several under `accelerate launch`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Launch
from pipeline.worker import die_with_parent, outcome_from, perform, request_json
from stages.stage import Context, Inputs, Outcome, Stage, StageConfig

ROOT = Path(__file__).resolve().parent.parent
"""Children start here, so that `-m pipeline.worker` finds the packages in a fresh clone too."""

SECONDS_TO_STOP = 20
"""How long children may take to stop after SIGINT before they are killed."""


class StepFailed(RuntimeError):
    """A child process ended without an outcome."""


def execute(stage: Stage, config: StageConfig, inputs: Inputs, out: Path, context: Context, launch: Launch) -> Outcome:
    """Run one step where `launch` says. Raises what the stage raises, or StepFailed for a child that just died."""
    if launch.here:
        return perform(stage, config, inputs, out, context)
    folder = context.work / "launch"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("result*.json"):
        old.unlink()
    request = folder / "request.json"
    request.write_text(json.dumps(request_json(stage, config, inputs, out, context)), encoding="utf-8")
    code = _wait(command(launch, context, request), _environment(launch))
    return _outcome(folder, code)


def command(launch: Launch, context: Context, request: Path) -> list[str]:
    """The command line of the child or children."""
    if launch.processes == 1 and not launch.files:
        return [sys.executable, "-m", "pipeline.worker", str(request)]
    extra = context.placement.extra
    line = [sys.executable, "-m", "accelerate.commands.launch"]
    if "accelerate_config" in extra:
        line += ["--config_file", str(extra["accelerate_config"])]
    elif "deepspeed" in extra:
        line += ["--use_deepspeed", "--deepspeed_config_file", str(extra["deepspeed"])]
    elif not _has_gpu():
        # accelerate starts several CPU processes through MPI only; torchrun needs nothing.
        line = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        return [*line, f"--nproc_per_node={launch.processes}", "-m", "pipeline.worker", str(request)]
    else:
        line += ["--multi_gpu", "--mixed_precision", launch.mixed_precision]
    return [*line, "--num_processes", str(launch.processes), "-m", "pipeline.worker", str(request)]


def _has_gpu() -> bool:
    return Path("/proc/driver/nvidia").exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != ""


def _environment(launch: Launch) -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = {"OMP_NUM_THREADS": str(launch.threads)} if launch.threads else {}
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths)}


def _wait(line: Sequence[str], environment: dict[str, str]) -> int:
    """Exit code of the child. On SIGINT it is told so, and may stop in peace before it is killed."""
    child = subprocess.Popen(line, cwd=ROOT, env=environment, preexec_fn=die_with_parent)
    try:
        return child.wait()
    except BaseException:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        raise


def _outcome(folder: Path, code: int) -> Outcome:
    results: list[dict[str, Any]] = [
        json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("result*.json"))
    ]
    for result in results:
        if "error" in result:
            error = result["error"]
            raise ValueError(error["message"]) if error["user"] else StepFailed(error["traceback"].strip())
    if code != 0 or not results:
        raise StepFailed(f"the child process ended with exit code {code} and reported nothing")
    return outcome_from(results[0])
