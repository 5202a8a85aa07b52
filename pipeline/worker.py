"""Runs one step from a request; `python -m pipeline.worker request.json` does so in a process of its own.

The request names the stage's function and config class, so a child needs no table of stages. Under several
processes each runs the stage, and the first reports the outcome; the runner that started them commits it.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.artifact import Artifact, Contract
from pipeline.atomic import write_text
from stages import ranks
from stages.stage import Context, Inputs, Metric, Outcome, Placement, Stage, StageConfig


def request_json(stage: Stage, config: StageConfig, inputs: Inputs, out: Path, context: Context) -> dict[str, Any]:
    """What a child needs to run one step, as plain data."""
    return {
        "run": f"{stage.run.__module__}:{stage.run.__qualname__}",
        "config_class": f"{stage.config.__module__}:{stage.config.__qualname__}",
        "torch": stage.torch,
        "config": config.model_dump(mode="json"),
        "inputs": {name: [artifact.to_json() for artifact in artifacts] for name, artifacts in inputs.items()},
        "out": str(out),
        "context": {**asdict(context), "work": str(context.work)},
    }


def perform(stage: Stage, config: StageConfig, inputs: Inputs, out: Path, context: Context) -> Outcome:
    """Run one step in this process, its random generators and threads set first and the threads put back after it."""
    if not stage.torch:
        prepare_process(context, stage.torch)
        return stage.run(config, inputs, out, context)
    import torch

    threads = torch.get_num_threads()
    prepare_process(context, stage.torch)
    try:
        return stage.run(config, inputs, out, context)
    finally:
        torch.set_num_threads(threads)


def prepare_process(context: Context, uses_torch: bool) -> None:
    """Seed every generator and set the threads, so that a step does not depend on what ran before it."""
    random.seed(context.seed)
    if not uses_torch:
        return
    import numpy
    import torch

    numpy.random.seed(context.seed)
    torch.manual_seed(context.seed)
    if not torch.cuda.is_available():  # accelerate imports DeepSpeed where it is installed, which then warns
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if context.placement.threads:
        torch.set_num_threads(context.placement.threads)


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """An outcome as plain data; metrics and tallies that came as numpy or torch scalars become numbers."""
    return {
        "contract": asdict(outcome.contract),
        "metrics": {
            name: {"value": float(m.value), "n": int(m.n), "low": float(m.low), "high": float(m.high)}
            for name, m in outcome.metrics.items()
        },
        "counts": {name: int(count) for name, count in outcome.counts.items()},
        "timings": {name: float(seconds) for name, seconds in outcome.timings.items()},
    }


def outcome_from(tree: Mapping[str, Any]) -> Outcome:
    """Inverse of `outcome_json`."""
    return Outcome(
        contract=Contract(**tree["contract"]),
        metrics={name: Metric(**metric) for name, metric in tree["metrics"].items()},
        counts=tree["counts"],
        timings=tree["timings"],
    )


def main(request_file: Path) -> int:
    """Run a request and write result.json beside it; the exit code says whether it worked."""
    die_with_parent()
    request = json.loads(request_file.read_text(encoding="utf-8"))
    context = request["context"]
    context = Context(**{**context, "work": Path(context["work"]), "placement": Placement(**context["placement"])})
    ranks.begin(context.work)
    try:
        inputs = {name: [Artifact.from_json(a) for a in found] for name, found in request["inputs"].items()}
        config = _resolve(request["config_class"]).model_validate(request["config"])
        prepare_process(context, request["torch"])
        result = outcome_json(_resolve(request["run"])(config, inputs, Path(request["out"]), context))
        ranks.leave()
    except Exception as error:
        trace = traceback.format_exc()
        result = {"error": {"user": isinstance(error, ValueError), "message": str(error), "traceback": trace}}
        if not isinstance(error, ValueError):
            sys.stderr.write(trace)
    except KeyboardInterrupt:
        return 130
    finally:
        ranks.end(context.work)
    rank = int(os.environ.get("RANK", "0"))
    if rank == 0 or "error" in result:
        file = request_file.with_name("result.json" if rank == 0 else f"result.{rank}.json")
        write_text(file, json.dumps(result))
    return 1 if "error" in result else 0


def _resolve(place: str) -> Any:
    module, _, name = place.partition(":")
    value: Any = importlib.import_module(module)
    for part in name.split("."):
        value = getattr(value, part)
    return value


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the one that started it dies, so that kill -9 leaves no orphan."""
    if sys.platform != "linux":
        return
    import ctypes
    import signal

    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # 1 is PR_SET_PDEATHSIG


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
