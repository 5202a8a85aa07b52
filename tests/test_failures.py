"""Out of what several ranks left behind, the one line that says who broke the step."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.failures import StepFailed, raise_for, results
from pipeline.watch import RankWatch
from stages import ranks

CLOSED = "RuntimeError: [third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1234"
WAITED = "RuntimeError: [third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 8000ms for recv"
KILLED, STOPPED = -signal.SIGKILL, -signal.SIGTERM


def left(
    folder: Path,
    *,
    said: dict[int, str] | None = None,
    user: bool = False,
    exits: dict[int, int] | None = None,
    steps: dict[int, tuple[int, str]] | None = None,
) -> Path:
    """A launch folder: last lines of tracebacks, exit codes, optimiser steps and hosts, by rank."""
    for rank, line in (said or {}).items():
        trace = f'Traceback (most recent call last):\n  File "torch/distributed/c10d.py", line 1\n    call()\n{line}\n'
        error = {"user": user, "message": line.partition(": ")[2], "traceback": trace}
        name = f"result.{rank}.json" if rank else "result.json"
        (folder / name).write_text(json.dumps({"error": error}))
    (folder / "exits.0.json").write_text(json.dumps(exits or {}))
    for rank, (step, host) in (steps or {}).items():
        (folder / f"rank-{rank}.json").write_text(json.dumps({"optimiser_step": step, "host": host, "pid": 1}))
    return folder


def line(folder: Path, processes: int = 2) -> str:
    with pytest.raises(StepFailed) as caught:
        raise_for(folder, processes, timeout=8, code=1)
    return str(caught.value)


def test_a_rank_that_was_killed_is_named_with_its_step(tmp_path: Path) -> None:
    found = line(left(tmp_path, exits={1: KILLED, 0: STOPPED}, steps={0: (7, "a"), 1: (6, "a")}))
    assert found == (
        "rank 1 of 2 died (signal 9, often for want of memory) after optimiser step 6; the others were stopped; "
        "run again to resume"
    )


def test_what_others_saw_of_it_is_only_a_consequence(tmp_path: Path) -> None:
    found = line(left(tmp_path, said={0: CLOSED}, exits={0: 1, 1: -signal.SIGSEGV}, steps={1: (6, "a")}))
    assert found.startswith("rank 1 of 2 died (signal 11) after optimiser step 6;")


def test_a_rank_that_left_by_itself(tmp_path: Path) -> None:
    found = line(left(tmp_path, exits={1: 7, 0: STOPPED}))
    assert found.startswith("rank 1 of 2 died (exit code 7) before optimiser step 1;")


def test_several_machines_are_told_apart(tmp_path: Path) -> None:
    left(tmp_path, exits={0: STOPPED}, steps={0: (3, "east"), 3: (2, "west")})
    (tmp_path / "exits.1.json").write_text(json.dumps({3: KILLED, 2: STOPPED}))
    assert line(tmp_path, 4).startswith("rank 3 of 4 on west died (signal 9, ")


def test_a_rank_that_others_waited_for(tmp_path: Path) -> None:
    """The launcher had to kill it in the end, which is not why the step broke."""
    found = line(left(tmp_path, said={0: WAITED}, exits={0: 1, 1: KILLED}, steps={0: (3, "a"), 1: (2, "a")}))
    assert found.startswith("rank 1 of 2 did not answer for 8 s after optimiser step 2; the others were stopped;")


def test_a_rank_that_gave_no_sign_of_life(tmp_path: Path) -> None:
    left(tmp_path, steps={0: (3, "a"), 1: (3, "a")})
    with pytest.raises(StepFailed, match=r"^rank 1 of 2 did not answer for 8 s after optimiser step 3;"):
        raise_for(tmp_path, 2, timeout=8, code=-9, silent=[1])


def test_a_number_that_stops_growing(tmp_path: Path) -> None:
    def say(rank: int, beat: int, ended: bool = False) -> None:
        (tmp_path / f"rank-{rank}.json").write_text(json.dumps({"beat": beat, "ended": ended}))

    watch = RankWatch(tmp_path, patience=0.2)
    say(0, 1)
    assert not watch.silent()
    for beat in range(2, 6):
        say(0, beat)
        say(1, 1)
        say(2, 1, ended=True)
        time.sleep(0.1)
        watch.looked = 0.0
        watch.silent()
    assert watch.found == [1]


def test_an_error_of_a_rank_s_own_comes_before_lost_connections(tmp_path: Path) -> None:
    found = line(left(tmp_path, said={0: CLOSED, 1: "KeyError: 'reward'"}, exits={0: 1, 1: 1}))
    assert found.splitlines()[-1] == "KeyError: 'reward'"


def test_a_timeout_of_something_else_blames_no_rank(tmp_path: Path) -> None:
    found = line(left(tmp_path, said={0: "httpx.ReadTimeout: timed out"}, exits={0: 1, 1: STOPPED}))
    assert found.splitlines()[-1] == "httpx.ReadTimeout: timed out"


def test_all_lost_each_other(tmp_path: Path) -> None:
    found = line(left(tmp_path, said={0: WAITED, 1: CLOSED}, exits={0: 1, 1: 1}))
    assert found.splitlines()[-1] == WAITED


def test_a_user_s_mistake_is_one(tmp_path: Path) -> None:
    left(tmp_path, said={1: "ValueError: row 3 is empty"}, user=True)
    with pytest.raises(ValueError, match=r"^row 3 is empty$"):
        raise_for(tmp_path, 2, timeout=8, code=1)


@pytest.mark.parametrize("processes", [1, 2])
def test_nothing_to_tell(tmp_path: Path, processes: int) -> None:
    raise_for(tmp_path, processes, timeout=8, code=0)
    assert not results(tmp_path)


def test_ranks_tell_where_they_are_and_one_process_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    ranks.tell(tmp_path, 1)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("RANK", "3")
    ranks.tell(tmp_path, 1)
    ranks.tell(tmp_path, 2)
    ranks.end(tmp_path)
    told: Any = ranks.told(tmp_path / ranks.FOLDER)
    assert {rank: note["optimiser_step"] for rank, note in told.items()} == {3: 2}
    assert told[3]["ended"]
