"""Several machines in one run: who is who, what the first tells the others, and how each ends."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import machines
from pipeline.config import Launch
from pipeline.failures import StepFailed
from pipeline.machines import Machine, MainMachine, follow, machine_of, this_machine
from tests.toy_project import ROOT, call, one, plan_of, project, steps

MAIN, HELPER = (Machine(rank=rank, main_host="127.0.0.1", main_port=29700) for rank in (0, 1))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(machines, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(machines, "FAREWELL_SECONDS", 0.5)
    for name in ("R1_MACHINE_RANK", "R1_MAIN_ADDRESS", "SLURM_NODEID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("rank", "address", "environ"),
    [
        (1, "node0:29500", {}),
        (None, None, {"R1_MACHINE_RANK": "1", "R1_MAIN_ADDRESS": "node0:29500"}),
        (None, None, {"SLURM_NODEID": "1", "R1_MAIN_ADDRESS": "node0:29500"}),
        (1, None, {"SLURM_NODEID": "0", "R1_MAIN_ADDRESS": "node0:29500"}),
    ],
)
def test_flags_come_before_variables(rank: int | None, address: str | None, environ: dict[str, str]) -> None:
    assert this_machine(rank, address, environ) == Machine(rank=1, main_host="node0", main_port=29500)


def test_a_plain_run_inside_a_job_is_on_one_machine() -> None:
    assert this_machine(None, None, {"SLURM_NODEID": "0"}) is None


def test_addresses_of_ipv6() -> None:
    assert this_machine(0, "[::1]:29500", {}) == Machine(rank=0, main_host="::1", main_port=29500)


@pytest.mark.parametrize(
    ("rank", "address", "message"),
    [
        (1, None, "--machine-rank and --main-address belong together"),
        (None, "a:1", "--machine-rank and --main-address belong together"),
        (-1, "a:1", "the machine rank is a number from 0, got '-1'"),
        (0, "a", "the main address is HOST:PORT, got 'a'"),
        (0, "a:x", "the main address is HOST:PORT, got 'a:x'"),
        (0, "a:70000", "the main address is HOST:PORT, got 'a:70000'"),
    ],
)
def test_what_cannot_be_read(rank: int | None, address: str | None, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        this_machine(rank, address, {})
    assert str(caught.value).startswith(message)


def test_a_machine_too_many(tmp_path: Path) -> None:
    nodes = plan_of(project(tmp_path, launch={"processes": 2, "machines": 2}))
    assert machine_of(1, "a:1", nodes) is not None
    with pytest.raises(ValueError, match=r"^this is machine 2, counted from 0, but launch.machines is 2$"):
        machine_of(2, "a:1", nodes)


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Starts a follower in a thread; what it says and how it ends is put into the result."""
    threads = []

    def begin(timeout: int = 20) -> dict[str, Any]:
        heard: dict[str, Any] = {"said": [], "error": None}

        def work() -> None:
            try:
                follow(tmp_path, HELPER, timeout, heard["said"].append)
            except StepFailed as error:
                heard["error"] = str(error)

        heard["thread"] = threading.Thread(target=work)
        heard["thread"].start()
        threads.append(heard["thread"])
        return heard

    yield begin
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


LAUNCH = Launch(processes=2, machines=2, timeout=1)


def ask(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """What a machine launches: this instead of accelerate."""
    monkeypatch.setattr(machines, "command", lambda *_: [sys.executable, "-c", code])


def test_a_helper_launches_what_is_announced_once_and_goes_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helper: Callable[..., dict[str, Any]]
) -> None:
    ask(monkeypatch, "pass")
    heard = helper()
    with MainMachine(tmp_path, MAIN, 2) as main:
        for step in ("a", "b"):
            helpers = main.announce(tmp_path / "request.json", LAUNCH, {}, step)
            helpers.settle(0)
            assert not helpers.lost()
    heard["thread"].join(10)
    assert heard["error"] is None
    assert [s for s in heard["said"] if "waiting" not in s] == [
        "machine 1: a", "machine 1: a done", "machine 1: b", "machine 1: b done",
    ]  # fmt: skip


def test_a_helper_that_fails_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helper: Callable[..., dict[str, Any]]
) -> None:
    ask(monkeypatch, "raise SystemExit(3)")
    heard = helper()
    with pytest.raises(StepFailed, match="the toy broke"), MainMachine(tmp_path, MAIN, 2) as main:  # noqa: PT012
        helpers = main.announce(tmp_path / "request.json", LAUNCH, {}, "a")
        deadline = time.monotonic() + 20
        while not helpers.lost():
            assert time.monotonic() < deadline
        helpers.settle(1)
        raise StepFailed("the toy broke")
    heard["thread"].join(10)
    assert heard["error"] == "machine 0: the toy broke"
    assert heard["said"][-1] == "machine 1: a ended with exit code 3"


def test_the_files_of_an_earlier_run_mean_nothing(tmp_path: Path, helper: Callable[..., dict[str, Any]]) -> None:
    folder = tmp_path / "machines"
    folder.mkdir()
    old = {"members": {"1": "earlier"}, "serial": 3, "launch": {}, "ended": "it broke", "beat": 9}
    (folder / "main.json").write_text(json.dumps(old))
    heard = helper()
    with MainMachine(tmp_path, MAIN, 2):
        pass
    heard["thread"].join(10)
    assert heard["error"] is None, "the run that it came for ended well"


def test_a_main_machine_that_never_comes_or_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helper: Callable[..., dict[str, Any]]
) -> None:
    heard = helper(timeout=1)
    heard["thread"].join(10)
    assert heard["error"] == f"machine 0 gave no sign of life for 1 s in {tmp_path}"

    monkeypatch.setattr(machines, "SILENT_SECONDS", 0.5)
    heard = helper()
    with MainMachine(tmp_path, MAIN, 2) as main:
        while main._missing(2):
            time.sleep(0.01)
        main._over.set()  # as if it were killed: nobody raises its number
        heard["thread"].join(10)
    assert heard["error"] == f"machine 0 gave no sign of life for 0.5 s in {tmp_path}"


def test_a_helper_that_never_comes_or_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with MainMachine(tmp_path, MAIN, 2) as main:
        began = time.monotonic()
        with pytest.raises(StepFailed, match=r"^machine 1 of 2 did not come within 1 s$"):
            main.announce(tmp_path / "request.json", LAUNCH, {}, "a")
        assert 1 <= time.monotonic() - began < 15, "it waits for launch.timeout, and no longer"
        monkeypatch.setattr(machines, "SILENT_SECONDS", 0.3)
        (tmp_path / "machines" / "1.json").write_text(json.dumps({"identity": "x", "host": "west", "beat": 1}))
        helpers = main.announce(tmp_path / "request.json", LAUNCH, {}, "a")
        assert not helpers.lost()
        time.sleep(0.4)
        assert helpers.lost()
        with pytest.raises(StepFailed, match=r"^machine 1 \(west\) gave no sign of life for 0.3 s$"):
            helpers.settle(1)


def r1(tmp_path: Path, rank: int, **change: Any) -> subprocess.Popen[str]:
    wide = {"launch": {"processes": 2, "machines": 2, "threads": 1, "timeout": 60}, **change}
    file = tmp_path / "toy.yaml"
    if rank == 0:
        launch = {"launch": wide["launch"]}  # two wide steps, one after the other, meet at the same port
        project(tmp_path, steps=steps(("first", launch), ("second", wide)))
    line = [sys.executable, str(ROOT / "tests" / "toy_r1.py"), "run", str(file), "--run-dir", str(tmp_path / "run")]
    line += ["--machine-rank", str(rank), "--main-address", f"127.0.0.1:{29701 + len(change)}"]
    return subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(("change", "code"), [({}, 0), ({"fail": "exit"}, 1)])
def test_two_runners_make_a_step_together(tmp_path: Path, change: dict[str, Any], code: int) -> None:
    """Each starts its own `accelerate launch`; toy ranks do not talk, so that this is about the launching alone."""
    pair = [r1(tmp_path, rank, **change) for rank in (0, 1)]
    (out, error), (helped, refused) = (child.communicate(timeout=100) for child in pair)
    assert [child.returncode for child in pair] == [code, code], error + refused
    assert helped.count("machine 1: first") == 2
    assert "machine 1: second" in helped
    if code == 0:
        record = json.loads(one(list((tmp_path / "run" / "artifacts").glob("second-*/record.json"))).read_text())
        assert record["counts"]["rank"] == 0
        assert "judge" in out
    else:
        assert "of 2 died (exit code 7) before optimiser step 1; the others were stopped" in error
        assert "r1: machine 0: second failed: rank" in refused


@pytest.mark.slow
@pytest.mark.alone
def test_a_rank_that_stands_still_ends_the_step(tmp_path: Path) -> None:
    launch = {"processes": 2, "threads": 1, "timeout": 3}
    file = project(tmp_path, steps=steps(("first", {"launch": launch, "fail": "stop"})))
    code, _, error = call("run", file, cwd=tmp_path)
    assert code == 1
    assert "r1: first failed: rank 1 of 2 did not answer for 3 s before optimiser step 1; the others were" in error


def test_a_wide_step_on_one_machine_says_how_to_start_the_others(tmp_path: Path) -> None:
    file = project(tmp_path, steps=steps(("first", {"launch": {"processes": 2, "machines": 2}})))
    code, _, error = call("run", file, cwd=tmp_path)
    assert code == 2
    assert error.startswith("r1: steps.first: launch.machines is 2: start the same command on each of them, with")
    assert not (tmp_path / "runs" / "toy").exists(), "before anything is made"
