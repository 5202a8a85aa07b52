"""The commands `r1 check` and `r1 doctor`: one line a check; exit code 2 where one fails."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.check import Line
    from stages.stage import Stage


def add(commands: Any) -> None:
    """Their arguments."""
    check = commands.add_parser("check", help="everything that can be known to fail before a run, in seconds")
    check.add_argument("config", type=Path, metavar="CONFIG")
    check.add_argument("--run-dir", type=Path, help="where artifacts would go (default: runs/NAME)")
    check.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="override one key"
    )
    check.set_defaults(command=_check)
    doctor = commands.add_parser("doctor", help="what this machine has, and what is missing to run the demo")
    doctor.set_defaults(command=_doctor)


def _check(arguments: argparse.Namespace, table: Mapping[str, Stage]) -> int:
    from pipeline.check import check

    return _printed(check(arguments.config, arguments.overrides, table, arguments.run_dir))


def _doctor(arguments: argparse.Namespace, table: Mapping[str, Stage]) -> int:
    from pipeline.doctor import examine

    return _printed(examine())


def _printed(lines: Iterable[Line]) -> int:
    failed = 0
    for line in lines:
        print(line, flush=True)
        failed += line.level == "FAIL"
    return 2 if failed else 0
