"""Which rows a mix of rewards can judge: a gold that cannot be read is an error of the data and trains nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data.records import Row

NEITHER = "unusable: neither answer nor tests"
ANSWER = "unusable: an answer that cannot be read"
TESTS = "unusable: tests that cannot be read"

_VERIFY_ANSWER = ("accuracy", "correctness")
_VERIFY_TESTS = ("program", "correctness")


def checkable(
    rows: Sequence[Row], specs: Sequence[Mapping[str, Any]], counts: dict[str, int], *, verified: bool
) -> list[Row]:
    """The rows whose golds the rewards of `specs` can read; the others are counted in `counts` by reason.

    `verified`: whether a row must have an answer or tests. Golds that no reward of the mix reads are left alone.
    Nothing is run.
    """
    usable = []
    for row in rows:
        reason = _fault(row, specs, verified)
        if reason is None:
            usable.append(row)
        else:
            counts[reason] = counts.get(reason, 0) + 1
    return usable


def _fault(row: Row, specs: Sequence[Mapping[str, Any]], verified: bool) -> str | None:
    from rewards.accuracy import prepare_gold
    from rewards.program_tests import prepare_tests

    answer, tests = row.get("answer"), row.get("tests")
    if verified and answer is None and tests is None:
        return NEITHER
    readers = {spec.get("name") for spec in specs if _applies(spec, row)}
    by_tests_alone = tests is not None and "accuracy" not in readers  # correctness looks at tests first
    try:
        if tests is not None and readers.intersection(_VERIFY_TESTS):
            prepare_tests(tests)
    except ValueError:
        return TESTS
    try:
        if answer is not None and readers.intersection(_VERIFY_ANSWER) and not by_tests_alone:
            prepare_gold(answer)
    except ValueError:
        return ANSWER
    return None


def _applies(spec: Mapping[str, Any], row: Row) -> bool:
    domains = spec.get("domains")
    return not domains or row["domain"] in ([domains] if isinstance(domains, str) else domains)
