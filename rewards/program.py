"""The reward for code: the program in the answer must pass its row's unit tests, run in the sandbox.

Isolation alone does not make a grade honest: a program that shares a process, a file or an argument list with the
expected values can read them, or pretend. So a function is called from another process and returns plain data,
and a whole program's output is compared here. Left out on purpose: languages other than Python.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from typing import get_args

from rewards.program_output import difference
from rewards.program_tests import FunctionTests, StdioTests, find_entry_point, prepare_tests
from rewards.reward import Sample, Status, Verdict
from rewards.sandbox_command import Mode
from rewards.sandbox_run import Check, Limits, Run, run_functions, run_script
from rewards.sandbox_worker import Exit, SandboxError

__all__ = ["Program", "SandboxError", "extract_program", "find_entry_point", "prepare_tests", "refuse_failing_sandbox"]

MAX_SOURCE = 200_000
"""Characters; nobody reads a longer answer."""
MAX_SANDBOX_ERRORS = 0.01
"""The largest share of a batch that a failing sandbox may leave without a score."""

_FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)

Outcome = tuple[Status, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """Scores 1 for a program that passes all its tests, else 0; None for a row without (usable) tests.

    Raises ValueError where the sandbox cannot be had; a sandbox that fails is a verdict without a score.
    """

    sandbox: str = "bubblewrap"
    timeout: float = 5.0
    """Seconds of processor time for all asserts of a function, or for one case of a whole program. The wall clock
    allows twice as much, so that a busy machine does not decide what a program is worth."""
    total_timeout: float = 30.0
    """Seconds of wall time for all cases of a whole program together."""
    memory_mb: int = 1024
    partial_credit: bool = False
    """Score the share of tests passed instead of all or nothing."""

    def __post_init__(self) -> None:
        if self.sandbox not in get_args(Mode):
            raise ValueError(f"program: sandbox must be one of {', '.join(get_args(Mode))}, got {self.sandbox!r}")
        for name in ("timeout", "total_timeout", "memory_mb"):
            if not getattr(self, name) > 0:
                raise ValueError(f"program: {name} must be positive, got {getattr(self, name)!r}")

    def __call__(self, sample: Sample, /) -> float | None:
        return self.judge(sample).score

    def judge(self, sample: Sample, /) -> Verdict:
        """The score with its reason; the detail lists the tests' outcomes in order."""
        if sample.tests is None:
            return Verdict(score=None, status=Status.NOT_APPLICABLE, detail="the row has no tests")
        try:
            tests = prepare_tests(sample.tests)
        except ValueError as error:
            return Verdict(score=None, status=Status.UNPARSED_GOLD, detail=str(error))
        source = extract_program(sample.parsed().answer or "")
        if not source or len(source) > MAX_SOURCE:
            return Verdict(score=0.0, status=Status.WRONG, detail="too long" if source else "no program")
        for _ in range(2):  # what the sandbox did wrong once it may do right the second time
            try:
                return self._test(source, tests)
            except SandboxError as error:
                problem = str(error)
        return Verdict(score=None, status=Status.SANDBOX_ERROR, detail=problem)

    def judge_many(self, samples: Sequence[Sample], workers: int = 2) -> list[Verdict]:
        """Verdicts in the order of `samples`, from `workers` sandboxes at once; equal programs and tests run once."""
        keys = [
            (extract_program(s.parsed().answer or ""), json.dumps(s.tests, sort_keys=True, default=repr))
            for s in samples
        ]
        distinct = dict(zip(keys, samples, strict=True))
        with ThreadPoolExecutor(max(1, workers)) as threads:
            verdicts = dict(zip(distinct, threads.map(self.judge, distinct.values()), strict=True))
        return [verdicts[key] for key in keys]

    def _test(self, source: str, tests: FunctionTests | StdioTests) -> Verdict:
        limits = Limits(seconds=self.timeout, memory_mb=self.memory_mb)
        if isinstance(tests, StdioTests):
            return self._grade(self._script(source, tests, limits), len(tests.cases))
        check = run_functions(
            source,
            entry_point=tests.entry_point,
            setup=tests.setup,
            tests=tests.tests,
            sandbox=self.sandbox,
            limits=limits,
        )
        fault = next(
            (detail for outcome, detail in check.outcomes if outcome == "row" or (outcome == "done" and detail)), None
        )
        if fault is not None:
            return Verdict(score=None, status=Status.UNPARSED_GOLD, detail=f"tests: {fault}")
        return self._grade(_function_outcomes(check, len(tests.tests)), len(tests.tests))

    def _script(self, source: str, tests: StdioTests, limits: Limits) -> list[Outcome]:
        """Outcomes of the cases up to the first that fails, or of all where each counts."""
        outcomes: list[Outcome] = []
        end = time.monotonic() + self.total_timeout
        for given, expected in tests.cases:
            left = end - time.monotonic()
            if left <= 0:
                outcomes.append((Status.TIMEOUT, f"more than {self.total_timeout:g} s for all cases"))
                break
            # Nobody needs much more than the expected output, and reading it takes our own time and memory.
            cap = replace(limits, output_bytes=len(expected.encode()) * 4 + 65_536)
            run = run_script(source, given.encode(), sandbox=self.sandbox, limits=cap)
            outcomes.append(_script_outcome(run, expected))
            if outcomes[-1][0] is not Status.OK and not self.partial_credit:
                break
        return outcomes

    def _grade(self, outcomes: Sequence[Outcome], total: int) -> Verdict:
        passed = sum(status is Status.OK for status, _ in outcomes)
        listed = [str(status) for status, _ in outcomes] + ["not run"] * (total - len(outcomes))
        runs = ((name, len(list(group))) for name, group in groupby(listed))
        detail = f"{passed} of {total} passed: " + ", ".join(f"{name} x{n}" if n > 1 else name for name, n in runs)
        status, reason = next(((s, r) for s, r in outcomes if s is not Status.OK), (Status.OK, ""))
        share = passed / total
        return Verdict(
            score=share if self.partial_credit else float(passed == total),
            status=status,
            detail=f"{detail} ({reason})" if reason else detail,
        )


def extract_program(answer: str) -> str:
    """The source in an answer: its last fenced Python block, else its last fenced block, else all of it."""
    blocks = _FENCE.findall(answer)
    python = [body for language, body in blocks if language.lower() in ("python", "py", "python3")]
    bodies = python or [body for _, body in blocks]
    return str(bodies[-1]).strip("\n") if bodies else answer.strip()


def refuse_failing_sandbox(verdicts: Sequence[Verdict]) -> None:
    """Raise SandboxError if more than 1 % of a batch has no score because the sandbox failed."""
    failed = [verdict for verdict in verdicts if verdict.status is Status.SANDBOX_ERROR]
    if len(failed) > MAX_SANDBOX_ERRORS * len(verdicts):
        raise SandboxError(f"the sandbox failed for {len(failed)} of {len(verdicts)} programs: {failed[0].detail}")


def _function_outcomes(check: Check, total: int) -> list[Outcome]:
    outcomes = [_function_outcome(*pair, check.candidate) for pair in check.outcomes if pair[0] != "done"][:total]
    if len(outcomes) < total:  # the checker was cut off in the next test
        outcomes.append((Status.TIMEOUT, "") if check.timed_out else (Status.KILLED, "the tests could not be finished"))
    return outcomes


def _function_outcome(outcome: str, detail: str, candidate: Exit) -> Outcome:
    match outcome:
        case "ok":
            return Status.OK, ""
        case "wrong":
            return Status.WRONG, detail
        case "gone":
            return _ending(candidate) or (Status.EXCEPTION, detail)
        case _:
            return _exception(detail)


def _script_outcome(run: Run, expected: str) -> Outcome:
    if run.timed_out:
        return Status.TIMEOUT, ""
    if run.overflowed:
        return Status.KILLED, "printed too much"
    if ending := _ending(run.exit):
        return ending
    if run.exit.code:
        lines = run.errors.decode(errors="replace").strip().splitlines()
        return _exception(lines[-1][:200] if lines else f"exit code {run.exit.code}")
    found = difference(run.output.decode(errors="replace"), expected)
    return (Status.WRONG, found) if found else (Status.OK, "")


def _ending(exit_: Exit) -> Outcome | None:
    """What a signal that ended a process means; None if none did."""
    if not exit_.signal:
        return None
    if exit_.signal == signal.SIGXCPU:
        return Status.TIMEOUT, "processor time"
    return Status.KILLED, f"signal {exit_.signal}"


def _exception(line: str) -> Outcome:
    return (Status.OUT_OF_MEMORY if line.startswith("MemoryError") else Status.EXCEPTION), line
