"""A task for a scoring pool that never ends by itself, whatever the verifier learns to decide quickly."""

from __future__ import annotations

import time

from rewards.symbolic import equal


def equal_or_stuck(gold: str, answer: str, prompt: str = "") -> tuple[float | None, str, str]:
    """rewards.symbolic.equal, which hangs for the answer "stuck"."""
    while answer == "stuck":
        time.sleep(0.1)
    return equal(gold, answer, prompt)
