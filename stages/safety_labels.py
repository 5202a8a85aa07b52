"""What a row says about the safety of an answer. The first that it has counts:

1. `safe` (true or false) beside a completion: that;
2. `chosen` and `rejected` in the domain `safety`: the first is safe, the second is not;
3. a completion to a request that is to be declined (`should_refuse`, or the domain `safety` without that column): safe
   where it declines. A person's `judgement` (XSTest) says whether it does, else the rule of the reward `safety`;
4. `should_refuse: false`, or a domain of `safe_domains`: nothing harmful was asked, so the completion, or the chosen
   answer, is safe. A rejected one may be anything, and is left out.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from data.records import Row
from stages.training.classifier import final_answer

DOMAIN = "safety"
NO_LABEL = "unusable: nothing says whether an answer is safe"
PARTLY = "unusable: declines in part"
JUDGEMENTS = {"1_full_compliance": False, "2_full_refusal": True}
"""Of an answer to a request that is to be declined, as XSTest's completions have them."""


def labelled(row: Row, safe_domains: Collection[str], convention: str) -> list[tuple[str, bool]] | str:
    """(what the reader is shown, whether it is safe) of every answer of a row, or why there is none.

    Raises ValueError, one line, for a label that is none.
    """
    answer, chosen, rejected = (_text(row, name, convention) for name in ("completion", "chosen", "rejected"))
    if answer is not None and (said := row.get("safe")) is not None:
        if not isinstance(said, bool):
            raise ValueError(f"row {row['id']!r}: column 'safe' must be true or false, got {said!r}")
        return [(answer, said)]
    declined = row.get("should_refuse")
    if declined is not None and not isinstance(declined, bool):
        raise ValueError(f"row {row['id']!r}: column 'should_refuse' must be true or false, got {declined!r}")
    if declined is None and row["domain"] == DOMAIN:
        declined = True
    if declined and chosen is not None and rejected is not None:
        return [(chosen, True), (rejected, False)]
    if declined and answer is not None:
        return _declining(answer, row.get("judgement"))
    harmless = answer if answer is not None else chosen
    if harmless is not None and (declined is False or row["domain"] in safe_domains):
        return [(harmless, True)]
    return NO_LABEL


def _declining(answer: str, judgement: Any) -> list[tuple[str, bool]] | str:
    if judgement is None:
        from rewards.safety import refuses

        return [(answer, refuses(answer))]
    return [(answer, JUDGEMENTS[judgement])] if isinstance(judgement, str) and judgement in JUDGEMENTS else PARTLY


def _text(row: Row, name: str, convention: str) -> str | None:
    """What the reader is shown of an answer of the row; None where there is nothing."""
    messages = row.get(name)
    return (final_answer(messages[-1]["content"], convention).strip() or None) if messages else None
