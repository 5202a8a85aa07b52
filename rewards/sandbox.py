r"""Isolation for untrusted programs: run them, and prove at start that the isolation holds.

    require("bubblewrap")                                  # raises, naming what does not hold
    run_script(source, b"1 2\n", sandbox="bubblewrap", limits=Limits())

Left out on purpose: what a right answer is (rewards/program.py).
"""

from __future__ import annotations

import logging

from rewards.sandbox_command import Mode, check_mode
from rewards.sandbox_pool import close
from rewards.sandbox_run import Check, Limits, Run, run_functions, run_script
from rewards.sandbox_selftest import TOLERATED, Line, self_test
from rewards.sandbox_worker import SandboxError

__all__ = [
    "Check",
    "Limits",
    "Line",
    "Mode",
    "Run",
    "SandboxError",
    "close",
    "fault",
    "require",
    "run_functions",
    "run_script",
    "self_test",
]

log = logging.getLogger(__name__)


def fault(mode: str, lines: list[Line]) -> str | None:
    """What of a self-test's `lines` keeps `mode` from being trusted, in one line; None if nothing does."""
    tolerated = TOLERATED[check_mode(mode)]
    broken = next(((name, detail) for name, ok, detail in lines if not ok and name not in tolerated), None)
    return None if broken is None else f"sandbox: {mode} does not hold here: {': '.join(broken)}"


def require(mode: str) -> None:
    """Refuse to go on unless programs can be isolated as `mode` promises; log what `weak` leaves open.

    Raises ValueError naming the first line of the self-test that fails.
    """
    lines = self_test(mode)
    if wrong := fault(mode, lines):
        raise ValueError(wrong)
    if mode == "weak":
        log.warning(
            "sandbox: weak: programs share this machine's process table and kernel objects; "
            "where a model is not a toy, prefer `sandbox: bubblewrap` (docs/sandbox.md)"
        )
    for name, ok, detail in lines:
        if not ok:
            log.warning("sandbox: %s: not enforced here: %s: %s", mode, name, detail)
