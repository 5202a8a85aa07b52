from __future__ import annotations

import json
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from data.records import read_json_lines
from rewards import program, sandbox, sandbox_worker
from rewards.program import Program, extract_program, find_entry_point, refuse_failing_sandbox
from rewards.reward import JudgingReward, Sample, Status, Verdict
from rewards.sandbox import SandboxError
from tests.sandbox_modes import MODES

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MBPP = DATA / "mbpp" / "mbpp.jsonl"
CONTESTS = DATA / "sandboxfusion_oj" / "code_eval_code_contests.jsonl"
NOT_REMOTE = {367, 533, 596, 601, 927}
"""MBPP rows whose tests need a class of the solution's, a type object as an argument, or sys.getsizeof."""

ADD: dict[str, object] = {
    "kind": "function",
    "entry_point": "add",
    "asserts": ["assert add(1, 2) == 3", "assert add(5, -5) == 0"],
}
SUM: dict[str, object] = {
    "kind": "stdio",
    "cases": [{"input": "1 2", "output": "3"}, {"input": "5 6 7\n", "output": "18\n"}],
}


def sample(source: str, tests: Any = ADD, convention: str = "none") -> Sample:
    return Sample(prompt="", completion=source, tests=tests, convention=convention, domain="code")


def judge(mode: str, source: str, tests: Any = ADD, **options: Any) -> Verdict:
    return Program(sandbox=mode, **options).judge(sample(source, tests))


def test_it_is_a_picklable_judging_reward() -> None:
    reward = Program(sandbox="weak", timeout=2.0)
    assert isinstance(reward, JudgingReward)
    assert pickle.loads(pickle.dumps(reward)) == reward
    assert pickle.loads(pickle.dumps(reward))(sample("def add(a, b): return a + b")) == 1.0


@pytest.mark.parametrize("mode", MODES)
def test_right_and_wrong(mode: str) -> None:
    assert judge(mode, "def add(a, b): return a + b") == Verdict(score=1.0, detail="2 of 2 passed: ok x2")
    wrong = judge(mode, "def add(a, b): return 3")
    assert (wrong.score, wrong.status, wrong.detail) == (0.0, Status.WRONG, "1 of 2 passed: ok, wrong")
    assert judge(mode, "print(sum(map(int, input().split())))", SUM).score == 1.0
    wrong = judge(mode, "print(3)", SUM)
    assert (wrong.score, wrong.status, wrong.detail) == (0.0, Status.WRONG, "1 of 2 passed: ok, wrong (line 1 differs)")
    check = {
        "kind": "function",
        "entry_point": "add",
        "check": "def check(candidate):\n    assert candidate(2, 2) == add(1, 3)",
    }
    assert judge(mode, "def add(a, b): return a + b", check).score == 1.0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("", Status.WRONG),
        ("x" * 300_000, Status.WRONG),
        ("def add(a, b) return", Status.EXCEPTION),
        ("\0", Status.EXCEPTION),
        ("def other(): pass", Status.EXCEPTION),
        ("add = 3", Status.EXCEPTION),
        ("def add(a, b): return 1 / 0", Status.EXCEPTION),
        ("def add(a, b): return add", Status.EXCEPTION),
        ("def add(a, b): return bytearray(1 << 40)", Status.OUT_OF_MEMORY),
        ("def add(a, b):\n    while True: pass", Status.TIMEOUT),
        ("while True: pass", Status.TIMEOUT),
        ("import time\ntime.sleep(9)", Status.TIMEOUT),
        ("import os\ndef add(a, b): os._exit(0)", Status.EXCEPTION),
        ("import ctypes\ndef add(a, b): ctypes.string_at(1)", Status.KILLED),
        ("def add(a, b):\n    return add(a, b)", Status.EXCEPTION),
    ],
)
def test_why_a_function_fails(mode: str, source: str, status: Status) -> None:
    verdict = judge(mode, source, timeout=0.15)
    assert (verdict.score, verdict.status) == (0.0, status), verdict


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("print(3", Status.EXCEPTION),
        ("raise ValueError('no')", Status.EXCEPTION),
        ("print(3); raise SystemExit(1)", Status.EXCEPTION),
        ("input(); input()", Status.EXCEPTION),
        ("bytearray(1 << 40)", Status.OUT_OF_MEMORY),
        ("while True: pass", Status.TIMEOUT),
        ("while True: print('x' * 10000)", Status.KILLED),
        ("import ctypes; ctypes.string_at(1)", Status.KILLED),
        ("pass", Status.WRONG),
    ],
)
def test_why_a_script_fails(mode: str, source: str, status: Status) -> None:
    verdict = judge(mode, source, SUM, timeout=0.15)
    assert (verdict.score, verdict.status) == (0.0, status), verdict
    assert "\n" not in verdict.detail


def test_processor_time_is_a_timeout() -> None:
    assert judge("weak", "def add(a, b):\n    while True: pass", timeout=0.9).status is Status.TIMEOUT


def test_rows_without_usable_tests_have_no_score() -> None:
    assert judge("weak", "x", None) == Verdict(score=None, status=Status.NOT_APPLICABLE, detail="the row has no tests")
    malformed = judge("weak", "x", {"kind": "functions"})
    assert (malformed.score, malformed.status) == (None, Status.UNPARSED_GOLD)
    assert "did you mean 'function'" in malformed.detail
    broken = judge("weak", "def add(a, b): return 1", {**ADD, "setup": "import nothing_like_it"})
    assert (broken.score, broken.status) == (None, Status.UNPARSED_GOLD)
    idle = judge("weak", "def add(a, b): return 1", {**ADD, "asserts": ["assert True"]})
    assert (idle.score, idle.status, idle.detail) == (
        None,
        Status.UNPARSED_GOLD,
        "tests: no test calls the entry point",
    )


def test_tests_as_json_text() -> None:
    assert judge("weak", "def add(a, b): return a + b", json.dumps(ADD)).score == 1.0


def test_the_answer_is_what_counts() -> None:
    right, wrong = "```python\ndef add(a, b):\n    return a + b\n```", "def add(a, b): return 0"
    reward = Program(sandbox="weak")
    laid_out = "<think>\n{}\n</think>\n<answer>\n{}\n</answer>"
    assert reward(sample(laid_out.format("simple", right), convention="think_answer")) == 1.0
    assert reward(sample(laid_out.format(right, wrong), convention="think_answer")) == 0.0
    assert reward(sample(f"<think>\n{right}", convention="think_answer")) == 0.0


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        ("x = 1", "x = 1"),
        ("```python\nx = 1\n```", "x = 1"),
        ("Here:\n```py\nx = 1\n```\nIt works.", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("```python\nx = 0\n```\nBetter:\n```python\nx = 1\n```", "x = 1"),
        ("```python\nx = 1\n```\nIt prints\n```text\n1\n```", "x = 1"),
        ("```python\nx = 1", "x = 1"),
        ("```python\n    x = 1\n```", "    x = 1"),
        ("```Python title=a.py\r\nx = 1\n```", "x = 1"),
        ("", ""),
    ],
)
def test_extraction(answer: str, program: str) -> None:
    assert extract_program(answer) == program


def test_partial_credit_is_off_unless_configured() -> None:
    tests = {**ADD, "asserts": [f"assert add({n}, 0) == {n}" for n in range(4)]}
    source = "def add(a, b): return a if a < 3 else 0"
    assert judge("weak", source, tests).score == 0.0
    assert judge("weak", source, tests, partial_credit=True) == Verdict(
        score=0.75, status=Status.WRONG, detail="3 of 4 passed: ok x3, wrong"
    )
    third = {"kind": "stdio", "cases": [{"input": str(n), "output": "1"} for n in range(3)]}
    assert judge("weak", "print(input())", third).detail == "0 of 3 passed: wrong, not run x2 (line 1 differs)"
    partial = judge("weak", "print(input())", third, partial_credit=True)
    assert partial.score == pytest.approx(1 / 3)
    assert partial.detail == "1 of 3 passed: wrong, ok, wrong (line 1 differs)"


def test_all_cases_together_have_a_deadline() -> None:
    cases = {"kind": "stdio", "cases": [{"input": "", "output": "1"}] * 50}
    verdict = judge("weak", "import time; time.sleep(0.2); print(1)", cases, total_timeout=0.5)
    assert verdict.status is Status.TIMEOUT
    assert "more than 0.5 s for all cases" in verdict.detail


@pytest.mark.parametrize("options", [{"timeout": 0}, {"memory_mb": -1}, {"total_timeout": float("nan")}])
def test_limits_must_be_positive(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be positive"):
        Program(**options)


def test_unknown_sandbox_is_refused() -> None:
    with pytest.raises(ValueError, match="sandbox must be one of bubblewrap, weak, got 'none'"):
        Program(sandbox="none")


def test_many_keep_their_order_and_duplicates_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    real, lock = program.run_functions, threading.Lock()

    def counting(source: str, **options: Any) -> Any:
        with lock:
            runs.append(source)
        return real(source, **options)

    monkeypatch.setattr(program, "run_functions", counting)
    right, wrong, crash = "def add(a, b): return a + b", "def add(a, b): return a - b", "1 / 0"
    batch = [right, wrong, crash, right, wrong, right, f"```python\n{right}\n```"]
    verdicts = Program(sandbox="weak").judge_many([sample(source) for source in batch], workers=3)
    assert [verdict.score for verdict in verdicts] == [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    assert sorted(runs) == sorted([right, wrong, crash])
    assert Program(sandbox="weak").judge_many([]) == []


def test_a_sandbox_that_fails_once_is_tried_again() -> None:
    source = "def add(a, b): return a + b"
    sandbox.close()
    assert judge("weak", source).score == 1.0
    from rewards.sandbox_pool import POOLS

    with POOLS["weak"].slot() as slot:
        slot.worker("candidate")._process.kill()
    assert judge("weak", source).score == 1.0


def test_a_sandbox_that_keeps_failing_is_nobodys_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.close()
    monkeypatch.setattr(sandbox_worker, "BOOTSTRAP", "raise SystemExit('out of order')")
    verdict = judge("weak", "def add(a, b): return a + b")
    assert verdict == Verdict(score=None, status=Status.SANDBOX_ERROR, detail="the sandbox did not start: out of order")


def test_more_than_one_percent_of_sandbox_errors_stops_the_step() -> None:
    fine, failed = Verdict(score=1.0), Verdict(score=None, status=Status.SANDBOX_ERROR, detail="why")
    refuse_failing_sandbox([])
    refuse_failing_sandbox([fine] * 99 + [failed])
    with pytest.raises(SandboxError, match="failed for 2 of 100 programs: why"):
        refuse_failing_sandbox([fine] * 98 + [failed] * 2)


def mbpp_samples(step: int, solution: str | None = None) -> dict[int, Sample]:
    if not MBPP.exists():
        pytest.skip(f"MBPP is not at {MBPP}")
    samples = {}
    for number, row in read_json_lines(MBPP):
        if number % step:
            continue
        entry_point = find_entry_point(row["test_list"], row["code"])
        tests = {
            "kind": "function",
            "entry_point": entry_point or "missing",
            "asserts": row["test_list"],
            "setup": row["test_setup_code"],
        }
        samples[row["task_id"]] = sample(solution.format(entry_point) if solution else row["code"], tests)
    return samples


def refused(mode: str, samples: dict[int, Sample]) -> set[int]:
    verdicts = Program(sandbox=mode).judge_many(list(samples.values()))
    return {task for task, verdict in zip(samples, verdicts, strict=True) if verdict.score != 1.0}


@pytest.mark.parametrize("mode", MODES)
def test_mbpp_golds_pass(mode: str) -> None:
    samples = mbpp_samples(step=12)
    assert refused(mode, samples) == NOT_REMOTE & samples.keys()


def test_mbpp_is_not_passed_by_doing_nothing() -> None:
    for solution in ("def {}(*args, **kwargs):\n    return None", "def {}(*args, **kwargs): raise SystemExit(0)"):
        samples = mbpp_samples(step=24, solution=solution)
        assert refused("weak", samples) == samples.keys()


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("mode", MODES)
def test_all_mbpp_golds_but_five_pass_and_doing_nothing_passes_none(mode: str) -> None:
    golds = mbpp_samples(step=1)
    assert len(golds) == 974
    assert refused(mode, golds) == NOT_REMOTE
    idle = mbpp_samples(step=1, solution="def {}(*args, **kwargs):\n    return None")
    assert refused(mode, idle) == idle.keys()


DIGIT_JUMP = """
from collections import deque
def main():
    s = input().strip()
    places = {}
    for i, digit in enumerate(s):
        places.setdefault(digit, []).append(i)
    distance = {0: 0}
    queue = deque([0])
    while queue:
        i = queue.popleft()
        for j in [i - 1, i + 1, *places.pop(s[i], [])]:
            if 0 <= j < len(s) and j not in distance:
                distance[j] = distance[i] + 1
                queue.append(j)
    print(distance[len(s) - 1])
main()
"""
T_SHIRTS = """
from collections import Counter
n = int(input())
before = Counter(input() for _ in range(n))
after = Counter(input() for _ in range(n))
print(sum((before - after).values()))
"""
KINGDOMS = """
import sys
def main():
    words = iter(sys.stdin.read().split())
    n = int(next(words))
    alive = [1 - float(next(words)) for _ in range(n)]
    near = [[] for _ in range(n)]
    for _ in range(n - 1):
        a, b = int(next(words)), int(next(words))
        near[a].append(b)
        near[b].append(a)
    expected = sum(alive) - sum(alive[a] * alive[b] for a in range(n) for b in near[a]) / 2
    for _ in range(int(next(words))):
        a, p = int(next(words)), 1 - float(next(words))
        expected += (p - alive[a]) * (1 - sum(alive[b] for b in near[a]))
        alive[a] = p
        print(expected)
main()
"""
MODULO = """
import math
for _ in range(int(input())):
    a, b, q = map(int, input().split())
    period = a * b // math.gcd(a, b)
    sums = [0]
    for x in range(period):
        sums.append(sums[-1] + (x % a % b != x % b % a))
    def count(n):
        return (n + 1) // period * sums[-1] + sums[(n + 1) % period]
    print(*(count(r) - count(l - 1) for l, r in (map(int, input().split()) for _ in range(q))))
"""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("number", "solution"), [(2, DIGIT_JUMP), (3, T_SHIRTS), (5, KINGDOMS), (19, MODULO)])
def test_contest_problems_run(mode: str, number: int, solution: str) -> None:
    """Real cases, solved here; the third has numbers with a fraction."""
    if not CONTESTS.exists():
        pytest.skip(f"the contest problems are not at {CONTESTS}")
    row = next(row for _, row in read_json_lines(CONTESTS) if row["id"] == number)
    cases = [{"input": c["input"]["stdin"], "output": c["output"]["stdout"]} for c in json.loads(row["test"])]
    tests = {"kind": "stdio", "cases": cases[:12]}
    verdict = judge(mode, solution, tests)
    assert verdict.score == 1.0, verdict
    assert judge(mode, "print(0)", tests).score == 0.0
    assert judge(mode, "pass", tests).score == 0.0
