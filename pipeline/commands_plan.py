"""The command `r1 plan`: parameters, memory, tokens, FLOPs and hours of every step, before anything runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stages.stage import Stage


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    plan = commands.add_parser("plan", help="memory, tokens, FLOPs and hours of every step, on paper")
    plan.add_argument("config", type=Path, metavar="CONFIG")
    plan.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override one key, as in launch.processes=8; may be repeated",
    )
    plan.add_argument("--gpu", default="h100", metavar="NAME", help="accelerator (default: %(default)s)")
    plan.add_argument("--gpu-memory", type=float, metavar="GIB", help="its memory (default: the accelerator's own)")
    plan.add_argument("--gpus", type=int, metavar="N", help="training processes (default: launch.processes)")
    plan.add_argument("--mean-tokens", type=int, metavar="N", help="mean length (default: half of the most allowed)")
    plan.add_argument("--longest-tokens", type=int, metavar="N", help="longest length (default: the most allowed)")
    plan.add_argument("--prompt-tokens", type=int, default=256, metavar="N", help="default: %(default)s")
    plan.add_argument(
        "--rows",
        action="append",
        default=[],
        metavar="[DATA=]N",
        help="rows of a data set whose size is not stated (default: 10000); may be repeated",
    )
    plan.add_argument("--mfu", type=float, default=0.35, metavar="SHARE", help="of the peak (default: %(default)s)")
    plan.add_argument("--sampling-rate", type=float, metavar="N", help="tokens per second of one accelerator")
    plan.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="config.json of a given model whose sizes are not built in; may be repeated",
    )
    plan.add_argument("--json", action="store_true", help="print JSON")
    plan.set_defaults(command=_plan)


def _plan(arguments: argparse.Namespace, table: Mapping[str, Stage]) -> int:
    from pipeline.config import load
    from pipeline.estimates import Hardware, plan
    from pipeline.graph import build
    from pipeline.hardware import gpu_named
    from pipeline.plan_table import as_json, text

    for flag in ("gpus", "mean_tokens", "longest_tokens", "prompt_tokens", "mfu", "sampling_rate"):
        value = getattr(arguments, flag)
        if value is not None and value <= 0:
            raise ValueError(f"--{flag.replace('_', '-')}: expected a number above 0, got {value:g}")
    hardware = Hardware(
        gpu=gpu_named(arguments.gpu, arguments.gpu_memory),
        accelerators=arguments.gpus,
        mfu=arguments.mfu,
        rate=arguments.sampling_rate,
    )
    assumptions = _assumptions(arguments)
    configs = {name: Path(value) for name, value in (_pair(text, "--model") for text in arguments.model)}
    config = load(arguments.config, arguments.overrides)
    made = plan(config, build(config, table, arguments.config), hardware, assumptions, configs)
    print(json.dumps(as_json(made, assumptions), indent=2) if arguments.json else text(made, assumptions))
    return 0


def _assumptions(arguments: argparse.Namespace) -> Any:
    from pipeline.workload import Assumptions

    rows, rows_of = 10_000, {}
    for given in arguments.rows:
        name, _, number = given.rpartition("=")
        if not number.isdigit() or int(number) < 1:
            raise ValueError(f"--rows {given}: expected N or DATA=N, a whole number above 0")
        if name:
            rows_of[name] = int(number)
        else:
            rows = int(number)
    return Assumptions(
        mean_tokens=arguments.mean_tokens,
        longest_tokens=arguments.longest_tokens,
        prompt_tokens=arguments.prompt_tokens,
        rows=rows,
        rows_of=rows_of,
    )


def _pair(given: str, flag: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals or not name or not value:
        raise ValueError(f"{flag} {given}: expected NAME=PATH")
    return name, value
