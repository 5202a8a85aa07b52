"""Where a step runs: in this process, in a child, or in several under `accelerate launch`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import Launch
from pipeline.failures import StepFailed as StepFailed
from pipeline.failures import raise_for, results
from pipeline.sharding import named_deepspeed
from pipeline.watch import RankWatch
from pipeline.worker import die_with_parent, outcome_from, perform, request_json
from stages import ranks
from stages.stage import Context, Inputs, Outcome, Placement, Stage, StageConfig

if TYPE_CHECKING:
    from pipeline.machines import Machine, MainMachine

ACCELERATE = "pipeline.accelerate_launch"
"""`accelerate launch`, and who died of what."""

ROOT = Path(__file__).resolve().parent.parent
"""Children start here, so that `-m pipeline.worker` finds the packages in a fresh clone too."""

SECONDS_TO_STOP = 20
"""How long children may take to stop after SIGINT before they are killed."""

SECONDS_TO_REPORT = 5
"""How long the other ranks have to say what they saw once one of them broke, before they are killed."""

POLL_SECONDS = 0.2

QUIET = "ignore::FutureWarning:torch.distributed.c10d_logger"
"""DeepSpeed calls torch by names that torch means to rename, and torch says so at each call on each rank."""

LEFT = ("result*.json", "rank-*.json", "exits.*.json")
"""Files of an earlier attempt in the launch folder of a step."""


def execute(
    stage: Stage,
    config: StageConfig,
    inputs: Inputs,
    out: Path,
    context: Context,
    launch: Launch,
    machines: MainMachine | None = None,
) -> Outcome:
    """Run one step where `launch` says; `machines` are those that help where it says several.

    Raises what the stage raises, and StepFailed for a child that just died.
    """
    if launch.here:
        return perform(stage, config, inputs, out, context)
    assert launch.machines == 1 or machines is not None, "machines.require_machine has seen to it"
    folder = context.work / ranks.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for old in [file for pattern in LEFT for file in folder.glob(pattern)]:
        old.unlink()
    request = folder / "request.json"
    request.write_text(json.dumps(request_json(stage, config, inputs, out, context)), encoding="utf-8")
    files = files_of(launch, context.placement)
    watch = RankWatch(folder, launch.timeout)
    if launch.machines == 1 or machines is None:
        code = start(command(launch, files, request), launch).wait(lambda: broken(folder) or watch.silent())
    else:
        helpers = machines.announce(request, launch, files, context.name)
        child = start(command(launch, files, request, machines.machine), launch)
        code = child.wait(lambda: broken(folder) or watch.silent() or helpers.lost())
        helpers.settle(code)
    return _outcome(folder, launch, code, watch.found)


def files_of(launch: Launch, placement: Placement) -> dict[str, str]:
    """Absolute paths of `launch.files`."""
    return {key: str(placement.extra[key]) for key in launch.files}


def command(
    launch: Launch, files: Mapping[str, str], request: Path, machine: Machine | None = None, module: str = ACCELERATE
) -> list[str]:
    """The command line of the child or children of a step, on `machine` where there are several.

    `files` holds the paths of `launch.files`. `module` is what launches ranks: with `accelerate.commands.launch` the
    line is one that also works without this package's launcher. Its working directory is ROOT.
    """
    worker = ["-m", "pipeline.worker", str(request)]
    if launch.processes == 1 and not files:
        return [sys.executable, *worker]
    line = [sys.executable, "-m", module]
    if "accelerate_config" in files:
        line += ["--config_file", files["accelerate_config"]]
        if named := named_deepspeed(Path(files["accelerate_config"])):  # accelerate would look from where it runs
            line += ["--deepspeed_config_file", str(named)]
    elif "deepspeed" in files:
        line += ["--use_deepspeed", "--deepspeed_config_file", files["deepspeed"]]
    else:
        line += ["--multi_gpu"]  # accelerate's word for torch's launcher: without a GPU, the ranks compute on the CPU
    line += ["--mixed_precision", launch.mixed_precision, "--dynamo_backend", "no"]
    line += ["--num_processes", str(launch.processes), "--num_machines", str(launch.machines)]
    if machine is None:
        return [*line, "--main_process_port", "0", *worker]
    line += ["--machine_rank", str(machine.rank), "--same_network", "--rdzv_backend", "static"]
    line += ["--main_process_ip", machine.main_host, "--main_process_port", str(machine.main_port)]
    if "deepspeed" in files or "accelerate_config" in files:
        line += ["--deepspeed_multinode_launcher", "standard"]  # the others want ssh from machine 0
    return [*line, *worker]


@dataclass(frozen=True, slots=True)
class Child:
    """The processes of a step on this machine, by the one that started them."""

    process: subprocess.Popen[bytes]

    def wait(self, broken: Callable[[], bool]) -> int:
        """Exit code. Once a rank has reported that it is `broken`, the rest has a while to end before it is killed.

        On SIGINT the child is told so, and may stop in peace before it is killed.
        """
        known: float | None = None
        try:
            while (code := self._ended(POLL_SECONDS)) is None:
                if known is None and broken():
                    known = time.monotonic()
                if known is not None and time.monotonic() - known > SECONDS_TO_REPORT:
                    self.process.kill()  # its ranks ask the kernel to die with it
            return code
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """SIGINT, some time, SIGKILL."""
        self.process.send_signal(signal.SIGINT)
        if self._ended(SECONDS_TO_STOP) is None:
            self.process.kill()
            self.process.wait()

    def _ended(self, seconds: float) -> int | None:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


def start(line: Sequence[str], launch: Launch) -> Child:
    """Start a command line of `command` at ROOT; it dies with this process."""
    return Child(subprocess.Popen(line, cwd=ROOT, env=_environment(launch), preexec_fn=die_with_parent))


def broken(folder: Path) -> bool:
    """Whether a rank has reported an error, or a launcher that one of its ranks has ended."""
    return any("error" in result for result in results(folder).values()) or any(folder.glob("exits.*.json"))


def _environment(launch: Launch) -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = {"OMP_NUM_THREADS": str(launch.threads)} if launch.threads else {}
    quiet = {"PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", QUIET)}
    return {**os.environ, **threads, **quiet, "PYTHONPATH": os.pathsep.join(paths)}


def _outcome(folder: Path, launch: Launch, code: int, silent: Sequence[int]) -> Outcome:
    raise_for(folder, launch.processes, launch.timeout, code, silent)
    result = results(folder).get(0)
    if code != 0 or result is None:
        raise StepFailed(f"the child process ended with exit code {code} and reported nothing")
    return outcome_from(result)
