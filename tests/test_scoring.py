"""The scoring pool: order, duplicates, deadlines, kills, memory, threads, forks, and nothing left behind."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rewards.accuracy import EQUAL, Accuracy
from rewards.reward import Sample, Status
from rewards.scoring import ScoringPool, shared_pool

ROOT = Path(__file__).resolve().parents[1]
HANG = ("tests.stuck:equal_or_stuck", ("x+5", "stuck", ""))


@pytest.fixture(scope="module")
def pool() -> Iterator[ScoringPool]:
    with ScoringPool(workers=2, deadline=1.0, spare=0) as made:
        yield made


def test_order_is_kept_and_equal_items_share_one_verdict(pool: ScoringPool) -> None:
    items = [(f"x+{i % 7}", f"{i % 5}+x", "") for i in range(100)]
    verdicts = pool.run(EQUAL, items)
    assert [v.score for v in verdicts] == [float(i % 7 == i % 5) for i in range(100)]
    assert verdicts[0] is verdicts[35]


def test_a_stuck_item_costs_its_deadline_and_nothing_else(pool: ScoringPool) -> None:
    before = pool.kills
    verdicts = pool.run(HANG[0], [("x+1", "1+x", ""), HANG[1], ("x+2", "2+x", ""), ("x+3", "4+x", "")])
    assert [v.score for v in verdicts] == [1.0, 0.0, 1.0, 0.0]
    assert verdicts[1].status is Status.TIMEOUT
    assert pool.kills == before + 1


@pytest.mark.parametrize(
    ("task", "item", "status"),
    [
        ("os:_exit", (7,), Status.KILLED),
        ("os:abort", (), Status.KILLED),
        ("no.such.module:f", ("x",), Status.EXCEPTION),
        ("builtins:print", ("x",), Status.EXCEPTION),  # does not answer with a verdict, and must not break the pipe
        ("sys:exit", (), Status.EXCEPTION),
        ("builtins:bytearray", (1 << 33,), Status.OUT_OF_MEMORY),
    ],
)
def test_whatever_happens_in_a_worker_is_a_status(
    pool: ScoringPool, task: str, item: tuple[str, ...], status: Status
) -> None:
    verdict = pool.run(task, [item])[0]
    assert (verdict.score, verdict.status) == (0.0, status)
    assert pool.run(EQUAL, [("x+9", f"9+x+0{task[0]}", "")])  # the pool goes on


def test_many_threads_may_share_a_pool(pool: ScoringPool) -> None:
    results: dict[int, list[float | None]] = {}

    def score(number: int) -> None:
        items = [(f"y+{i}", f"{i + number % 2}+y", "") for i in range(20)]
        results[number] = [verdict.score for verdict in pool.run(EQUAL, items)]

    threads = [threading.Thread(target=score, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {number: [float(number % 2 == 0)] * 20 for number in range(6)}


def workers_of(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"rewards.worker" in line and line.split(b"\0")[3] == str(parent).encode() and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def test_closing_leaves_no_process_and_a_closed_pool_says_so() -> None:
    with ScoringPool(workers=1) as own:
        own.run(EQUAL, [("x+1", "1+x", "")])
        assert len(workers_of(os.getpid())) >= 2  # one, and the spare
        mine = {worker.process.pid for worker in own_fleet(own)}
    assert not mine & set(workers_of(os.getpid()))
    with pytest.raises(RuntimeError, match="closed"):
        own.run(EQUAL, [("x+1", "1+x", "")])


def test_no_more_workers_are_started_than_the_jobs_can_use() -> None:
    with ScoringPool(workers=100_000) as own:
        assert own.run(EQUAL, [("x+1", "1+x", ""), ("x+2", "2+x", "")])[0].score == 1.0
        assert len(own_fleet(own)) <= 3


def own_fleet(pool: ScoringPool) -> list[object]:
    assert pool.manager is not None
    return list(pool.manager.fleet)


def test_a_caller_that_waits_is_told_when_the_pool_closes() -> None:
    own = ScoringPool(workers=1, deadline=30.0)
    failures: list[str] = []

    def wait() -> None:
        try:
            own.run(*[HANG[0], [HANG[1]]])
        except RuntimeError as error:
            failures.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(1.5)
    own.close()
    thread.join(20)
    assert failures == ["the scoring pool was closed while it was scoring"]


def test_workers_that_cannot_start_are_an_error_and_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with ScoringPool(workers=1) as own, pytest.raises(RuntimeError, match="cannot be started"):
        own.run(EQUAL, [("x+1", "1+x", "")])
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with ScoringPool(workers=1) as own, pytest.raises(RuntimeError, match="failed: FileNotFoundError"):
        own.run(EQUAL, [("x+1", "1+x", "")])


@pytest.mark.parametrize(("workers", "deadline"), [(0, 1.0), (1, 0.0), (1, float("nan")), (1, float("inf"))])
def test_nonsense_is_refused(workers: int, deadline: float) -> None:
    with pytest.raises(ValueError, match="workers >= 1 and deadline > 0"):
        ScoringPool(workers=workers, deadline=deadline)


def test_a_pool_pickles_as_its_settings() -> None:
    copy = pickle.loads(pickle.dumps(ScoringPool(workers=3, deadline=4.0)))
    assert (copy.workers, copy.deadline) == (3, 4.0)


def _score_in_fork(own: ScoringPool, queue: multiprocessing.Queue[float | None]) -> None:
    queue.put(own.run(EQUAL, [("z+1", "1+z", "")])[0].score)
    own.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_gets_workers_of_its_own(pool: ScoringPool) -> None:
    pool.run(EQUAL, [("z+2", "2+z", "")])
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[float | None] = context.Queue()
    child = context.Process(target=_score_in_fork, args=(pool, queue))
    child.start()
    assert queue.get(timeout=60) == 1.0
    child.join(30)
    assert pool.run(EQUAL, [("z+3", "3+z", "")])[0].score == 1.0


def test_the_process_has_one_shared_pool() -> None:
    assert shared_pool() is shared_pool()


TRAINER = """
    import threading, time
    from rewards.scoring import ScoringPool
    pool = ScoringPool(workers=2, deadline=600.0)
    items = [("x+5", "stuck", ""), ("x+6", "stuck", "")]
    threading.Thread(target=pool.run, args=("tests.stuck:equal_or_stuck", items)).start()
    pool.run("tests.stuck:equal_or_stuck", [])
    time.sleep(3)
    print("stuck", flush=True)
    time.sleep(600)
"""


def test_nothing_survives_a_trainer_that_is_killed() -> None:
    trainer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(TRAINER)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == "stuck\n"
    assert len(workers_of(trainer.pid)) >= 2
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    for _ in range(50):
        if not workers_of(trainer.pid):
            break
        time.sleep(0.1)
    assert workers_of(trainer.pid) == []
    trainer.stdout.close()


@pytest.mark.slow
@pytest.mark.alone
def test_memory_stays_bounded_over_100_000_samples() -> None:
    def resident() -> int:
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") >> 20

    reward = Accuracy()
    with ScoringPool(workers=2) as own:
        sizes = []
        for block in range(100):
            golds = [block * 1000 + i for i in range(1000)]
            pairs = [(f"x+{g}", f"{g}+x") if g % 10 == 0 else (str(g), str(g)) for g in golds]  # a tenth needs algebra
            samples = [Sample(prompt="", completion=a, answer=g, convention="none") for g, a in pairs]
            assert sum(v.score or 0 for v in reward.judge_batch(samples, own)) == 1000
            sizes.append(resident())
        children = [int(Path(f"/proc/{w.process.pid}/statm").read_text().split()[1]) * 4 >> 10 for w in own_fleet(own)]
    assert sizes[-1] - sizes[40] < 60
    assert max(children) < 300
