"""Gates: bounds on the figures of an evaluation. Where one is not met, nothing is built on the checkpoint."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Self

from pydantic import model_validator

from stages.stage import Metric, StageConfig

FIGURES = (
    "accuracy",
    "format",
    "language",
    "safety",
    "preference",
    "safety_model",
    "unsafe_share",
    "truncated",
    "tokens",
)
"""What an evaluation may report under a fixed name, see stages/measures.py."""
FAMILIES = re.compile(r"accuracy\..+|(?:pass|maj)@(\d+)")


class Gate(StageConfig):
    """Bounds of one figure; the figure itself is compared, not its interval."""

    least: float | None = None
    most: float | None = None

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if self.least is None and self.most is None:
            raise ValueError("a gate needs least or most")
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ValueError(f"least = {self.least:g} is above most = {self.most:g}")
        return self

    def broken(self, value: float) -> str | None:
        """The bound that `value` breaks in words, None where it breaks none."""
        if self.least is not None and value < self.least:
            return f"below {self.least:g}"
        if self.most is not None and value > self.most:
            return f"above {self.most:g}"
        return None


def check_figures(gates: Mapping[str, Gate], samples: int) -> None:
    """Raise ValueError for a gate on a figure that an evaluation with so many samples a prompt does not report, and
    for a share that would have to be above 1 or below 0.
    """
    for name, gate in gates.items():
        family = FAMILIES.fullmatch(name)
        if name not in FIGURES and family is None:
            near = difflib.get_close_matches(name, FIGURES, n=1)
            known = [*FIGURES, "accuracy.DOMAIN", "accuracy.LANGUAGE", "pass@K", "maj@N"]
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"no figure is called {name!r}; {hint}")
        if family and family[1] is not None and name not in (measured := _of_samples(samples)):
            told = f"with samples: {samples} there is {', '.join(measured) or 'none of its kind'}"
            raise ValueError(f"{name} is not measured; {told}")
        if name not in ("tokens", "preference") and ((gate.least or 0) > 1 or (gate.most or 0) < 0):
            raise ValueError(f"{name} is a share, from 0 to 1; no share meets these bounds")


def _of_samples(samples: int) -> list[str]:
    """The figures that several samples of a prompt allow."""
    if samples == 1:
        return []
    return [*(f"pass@{2**i}" for i in range(samples.bit_length())), f"maj@{samples}"]


def unmet(gates: Mapping[str, Gate], metrics: Mapping[str, Metric]) -> list[str]:
    """A line for each gate that is not met; a figure that was not measured meets none."""
    lines = []
    for name, gate in gates.items():
        found = metrics.get(name)
        if found is None:
            lines.append(f"{name} was not measured (measured: {', '.join(sorted(metrics))})")
        elif broken := gate.broken(found.value):
            lines.append(f"{name} is {found.value:.3f} [{found.low:.3f}, {found.high:.3f}] of {found.n}, {broken}")
    return lines
