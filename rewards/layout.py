"""Format: does the completion keep to the output convention?"""

from __future__ import annotations

from dataclasses import dataclass

from data.template import CONVENTIONS
from rewards.reward import Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One reasoning block, then one answer block, both filled, and nothing else (1 or 0).

    None where the convention has no layout (`none`). A convention without answer tags wants a box in
    mathematics.
    """

    box: bool = True
    """For a convention without answer tags: ask for a closed box around answers of mathematics."""

    def __call__(self, sample: Sample, /) -> float | None:
        convention = CONVENTIONS[sample.convention]
        if not convention.reasoning_open:
            return None
        parsed = sample.parsed()
        if not parsed.well_formed or sample.truncated:
            return 0.0
        if self.box and not convention.answer_open and sample.domain == "math":
            from rewards.extract import box_content

            shown = parsed.answer or ""
            start = shown.rfind("\\boxed")
            return float(start >= 0 and box_content(shown, start) is not None)
        return 1.0
