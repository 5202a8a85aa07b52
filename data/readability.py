"""Whether a person can follow a chain of reasoning: one language, short paragraphs, no code blocks.

The three filters that DeepSeek-R1 applies to sampled chains (arXiv 2501.12948, section 2.3.3), as pure functions;
the paper gives no thresholds, so those here are choices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from data.curate import Kept
from data.language import amounts
from data.records import Row
from data.template import CONVENTIONS


@dataclass(frozen=True, kw_only=True, slots=True)
class Readability:
    """What is still readable."""

    least_language_share: float = 0.9
    """Share of the prose that must be in the row's language, formulas and code left out."""
    longest_paragraph: int = 2000
    """Characters between two line breaks, formulas and all."""
    code_blocks: bool = False
    """Whether fenced code may stand in the reasoning."""


def language_share(text: str, language: str) -> float:
    """Share of the prose of `text` that is in `language` (en or zh); 1 for a text without prose."""
    chinese, english = amounts(text)
    total = chinese + english
    return (chinese if language == "zh" else english) / total if total else 1.0


def unreadable(text: str, language: str, limits: Readability) -> str | None:
    """The first reason why `text` cannot be read well, None if there is none."""
    if language_share(text, language) < limits.least_language_share:
        return "mixed languages"
    if max(map(len, text.split("\n")), default=0) > limits.longest_paragraph:
        return "long paragraph"
    if not limits.code_blocks and "```" in text:
        return "code block"
    return None


def readable(rows: Iterable[Row], convention: str, limits: Readability | None = None) -> Kept:
    """Rows whose reasoning can be read; where the convention has no reasoning block, the whole completion counts.

    Code in the answer is no fault: a programming task asks for it.
    """
    limits = limits or Readability()
    layout = CONVENTIONS[convention]
    kept = Kept([], {"mixed languages": 0, "long paragraph": 0, "code block": 0})
    for row in rows:
        said = "\n".join(m["content"] for m in row.get("completion") or [] if m["role"] == "assistant")
        reasoning = layout.parse(said).reasoning
        reason = unreadable(said if reasoning is None else reasoning, row["language"], limits)
        if reason is None:
            kept.rows.append(row)
        else:
            kept.counts[reason] += 1
    return kept
