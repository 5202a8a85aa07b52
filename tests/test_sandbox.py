from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rewards import sandbox, sandbox_command, sandbox_pool, sandbox_run, sandbox_selftest, sandbox_worker
from rewards.sandbox import Limits, SandboxError, require, run_functions, run_script, self_test
from tests.sandbox_modes import MODES, needs_bubblewrap

LIMITS = Limits(seconds=1.0)
ROOT = Path(__file__).resolve().parents[1]


def output(mode: str, source: str, stdin: str = "", limits: Limits = LIMITS) -> str:
    run = run_script(textwrap.dedent(source), stdin.encode(), sandbox=mode, limits=limits)
    return run.output.decode() + run.errors.decode()


def outcomes(mode: str, source: str, tests: list[str], setup: str = "") -> list[tuple[str, str]]:
    check = run_functions(
        textwrap.dedent(source), entry_point="f", setup=setup, tests=tests, sandbox=mode, limits=LIMITS
    )
    return list(check.outcomes)


@pytest.mark.parametrize("mode", MODES)
def test_self_test_holds(mode: str) -> None:
    lines = self_test(mode)
    assert len(lines) == 12
    assert [name for name, ok, _ in lines if not ok] in ([], sorted(sandbox_selftest.TOLERATED[mode]))  # type: ignore[index]


def test_weak_is_logged_at_every_start(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sandbox_selftest, "_PROBES", {"starts": lambda mode: (True, "")})
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            require("weak")
    assert sum("sandbox: weak: programs share" in record.getMessage() for record in caplog.records) == 2


def test_require_names_the_failing_line(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = {"starts": lambda mode: (True, ""), "network refused": lambda mode: (False, "it answered")}
    monkeypatch.setattr(sandbox_selftest, "_PROBES", probes)
    with pytest.raises(ValueError, match="weak does not hold here: network refused: it answered"):
        require("weak")


def test_a_tolerated_line_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sandbox_selftest, "_PROBES", {"host files unreadable": lambda mode: (False, "it read")})
    with caplog.at_level(logging.WARNING):
        require("weak")
    assert "not enforced here: host files unreadable: it read" in caplog.text


def test_without_landlock_weak_says_what_is_open(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A kernel without the call, simulated by asking for one that no kernel has."""
    known, real = "LANDLOCK_RESTRICT = 444", sandbox_worker._sources
    assert known in dict(real("candidate"))["sandbox_guest"]

    def without(side: sandbox_worker.Side) -> list[tuple[str, str]]:
        return [(name, source.replace(known, "LANDLOCK_RESTRICT = 100444")) for name, source in real(side)]

    sandbox.close()
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(sandbox_worker, "_sources", without)
        assert [name for name, ok, _ in self_test("weak") if not ok] == ["host files unreadable"]
        require("weak")
    assert "not enforced here: host files unreadable" in caplog.text
    sandbox.close()


def test_a_sandbox_that_does_not_start_fails_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.close()
    monkeypatch.setattr(sandbox_worker, "BOOTSTRAP", "raise SystemExit('no luck')")
    assert self_test("weak") == [("starts", False, "the sandbox did not start: no luck")]
    with pytest.raises(ValueError, match="starts: the sandbox did not start: no luck"):
        require("weak")


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="'docker' is unknown, choose one of bubblewrap, weak"):
        require("docker")


def test_missing_bubblewrap_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="apt-get install bubblewrap"):
        require("bubblewrap")


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ValueError, match="weak needs Linux, this is darwin"):
        require("weak")


def test_an_unreachable_interpreter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox_command.interpreter.cache_clear()
    monkeypatch.setattr(sandbox_command, "_reachable", lambda path: False)
    with pytest.raises(ValueError, match=r"cannot read .*python"):
        sandbox_command.interpreter()
    monkeypatch.undo()
    assert sandbox_command.interpreter()[0].is_file()


def test_user_ids_are_exclusive_and_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_command, "FIRST_UID", 64990)
    monkeypatch.setattr(sandbox_command, "LAST_UID", 64991)
    one, lock_one = sandbox_command.reserve_uid()
    other, lock_other = sandbox_command.reserve_uid()
    assert {one, other} == {64990, 64991}
    with pytest.raises(OSError, match="all user ids from 64990 to 64991"):
        sandbox_command.reserve_uid()
    lock_one.close()
    again, lock_again = sandbox_command.reserve_uid()
    assert again == one
    lock_other.close()
    lock_again.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give programs a user id")
def test_guests_have_user_ids_of_their_own() -> None:
    with sandbox_pool.POOLS["weak"].slot() as one, sandbox_pool.POOLS["weak"].slot() as other:
        uids = {slot.worker(side).uid for slot in (one, other) for side in ("candidate", "checker")}
        assert len(uids) == 4
        assert all(sandbox_command.FIRST_UID <= uid <= sandbox_command.LAST_UID for uid in uids)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look at the namespaces of other users' processes")
@needs_bubblewrap
def test_bubblewrap_guests_have_namespaces_of_their_own() -> None:
    with sandbox_pool.POOLS["bubblewrap"].slot() as slot:
        pid = slot.worker("candidate")._process.pid
        members = [p for p in os.listdir("/proc") if p.isdigit() and _parent_of(p, str(pid))]
        assert members
        for kind in ("net", "pid", "ipc", "mnt", "user", "uts"):
            outside = os.readlink(f"/proc/self/ns/{kind}")
            assert all(os.readlink(f"/proc/{member}/ns/{kind}") != outside for member in members), kind


def _parent_of(pid: str, ancestor: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] == ancestor
    except OSError:
        return False


@pytest.mark.parametrize("mode", MODES)
def test_a_program_ends_as_under_an_interpreter(mode: str) -> None:
    """Exit functions, threads, buffers, exit codes; the site module's exit() too."""
    assert output(mode, "print(input()[::-1])", "abc\n") == "cba\n"
    assert output(mode, "import atexit; atexit.register(print, 'late')") == "late\n"
    threaded = "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.05), print('joined'))).start()"
    assert output(mode, threaded) == "joined\n"
    for leave in ("exit()", "quit()", "import sys; sys.exit()", "raise SystemExit"):
        run = run_script(f"print(1)\n{leave}\nprint(2)", b"", sandbox=mode, limits=LIMITS)
        assert (run.output, run.exit.code) == (b"1\n", 0)
    run = run_script("import sys; sys.exit('why')", b"", sandbox=mode, limits=LIMITS)
    assert (run.errors, run.exit.code) == (b"why\n", 1)
    assert run_script("import sys; sys.exit(7)", b"", sandbox=mode, limits=LIMITS).exit.code == 7
    assert output(mode, "print('你好', input())", "世界") == "你好 世界\n"
    assert output(mode, "if __name__ == '__main__': print('main')") == "main\n"
    assert output(mode, "import sys; print(sys.stdin.buffer.read())", "a\nb") == "b'a\\nb'\n"


@pytest.mark.parametrize("mode", MODES)
def test_what_honest_programs_need_works(mode: str) -> None:
    assert (
        output(mode, "import asyncio\nasync def f(): await asyncio.sleep(0); print('async')\nasyncio.run(f())")
        == "async\n"
    )
    deep = """
        import sys, threading
        sys.setrecursionlimit(10 ** 6)
        threading.stack_size(1 << 27)
        def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
        thread = threading.Thread(target=lambda: print(depth(50_000)))
        thread.start(); thread.join()
        """
    assert output(mode, deep) == "50000\n"
    pooled = "from concurrent.futures import ThreadPoolExecutor as T\nprint(sum(T(4).map(abs, range(-9, 0))))"
    assert output(mode, pooled) == "45\n"
    data = """
        import pickle
        from dataclasses import dataclass
        @dataclass
        class P:
            x: int
        print(pickle.loads(pickle.dumps(P(3))))
        """
    assert output(mode, data) == "P(x=3)\n"
    assert output(mode, "import numpy").endswith("ModuleNotFoundError: No module named 'numpy'\n")


@pytest.mark.parametrize("mode", MODES)
def test_a_program_behaves_the_same_every_time(mode: str) -> None:
    source = "print(list({'one', 'two', 'three', 'four', 'five'}))"
    first = output(mode, source)
    sandbox.close()
    assert output(mode, source) == first


@pytest.mark.parametrize("mode", MODES)
def test_how_a_program_ended(mode: str) -> None:
    short = Limits(seconds=0.2)
    looped = run_script("while True: pass", b"", sandbox=mode, limits=short)
    assert looped.timed_out
    assert looped.exit.signal == signal.SIGKILL
    crashed = run_script("import ctypes; ctypes.string_at(1)", b"", sandbox=mode, limits=LIMITS)
    assert crashed.exit.signal == signal.SIGSEGV
    loud = run_script("print('x' * 10**7)", b"", sandbox=mode, limits=Limits(output_bytes=1000))
    assert loud.overflowed
    assert len(loud.output) == 1000
    exact = run_script("print('x' * 999)", b"", sandbox=mode, limits=Limits(output_bytes=1000))
    assert not exact.overflowed
    assert len(exact.output) == 1000
    complaint = run_script("import sys; sys.stderr.write('x' * 10**6 + 'end')", b"", sandbox=mode, limits=LIMITS)
    assert complaint.errors.endswith(b"xend")
    assert len(complaint.errors) == 1 << 16


def test_processor_time_is_limited_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_run, "WALL_FACTOR", 60.0)
    looped = run_script("while True: pass", b"", sandbox="weak", limits=Limits(seconds=0.9))
    assert looped.exit.signal == signal.SIGXCPU
    assert looped.exit.cpu_seconds == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("mode", MODES)
def test_functions_answer_from_another_process(mode: str) -> None:
    source = "def f(*args, **kwargs):\n    print('noise')\n    return [args, kwargs]"
    tests = [
        "assert f(1, x={2}) == [(1,), {'x': {2}}]",
        "assert f() == 0, 'not zero'",
        "assert f()[9]",
        "assert [] == []",
    ]
    assert [outcome for outcome, _ in outcomes(mode, source, tests)] == ["ok", "wrong", "exception", "ok", "done"]


@pytest.mark.parametrize("mode", MODES)
def test_exceptions_travel(mode: str) -> None:
    source = """
        class Own(Exception):
            def __str__(self): raise RuntimeError
        def f(kind):
            raise {'value': ValueError('bad'), 'own': Own(), 'exit': SystemExit(0), 'base': GeneratorExit()}[kind]
        """
    caught = (
        "try:\n    f('value')\nexcept ValueError as error:\n    assert str(error) == 'bad'\nelse:\n    assert False"
    )
    assert outcomes(mode, source, [caught, "f('own')", "f('exit')", "f('base')"]) == [
        ("ok", ""),
        ("exception", "RemoteError: Own: "),
        ("exception", "RemoteError: SystemExit: 0"),
        ("exception", "RemoteError: GeneratorExit: "),
        ("done", ""),
    ]


@pytest.mark.parametrize("mode", MODES)
def test_faults_of_the_tests_are_told_from_the_programs(mode: str) -> None:
    good, gone = "def f(x): return x", "import os; os._exit(0)"
    assert outcomes(mode, good, ["assert f(1) == 1"], setup="import nothing")[0][0] == "row"
    assert outcomes(mode, good, ["assert f(object())"])[0] == (
        "row",
        "cannot be called remotely: object is not plain data",
    )
    assert outcomes(mode, good, ["assert undefined(1)"])[0][0] == "row"
    assert outcomes(mode, good, ["assert True"])[-1] == ("done", "no test calls the entry point")
    # A program cannot make its own failure look like the row's.
    assert outcomes(mode, gone, ["assert f(1)", "assert undefined"]) == [
        ("gone", "the program ended before it answered"),
        ("exception", "NameError: name 'undefined' is not defined"),
        ("done", ""),
    ]
    deep = "def f(x):\n    for _ in range(198): x = [x]\n    return x"
    assert [outcome for outcome, _ in outcomes(mode, deep, ["f([[[[f(1)]]]])"])] == ["exception", "done"]


@pytest.mark.parametrize("mode", MODES)
def test_checker_that_never_ends_is_killed(mode: str) -> None:
    check = run_functions(
        "def f(): return 1",
        entry_point="f",
        setup="",
        tests=["f()", "while f(): pass"],
        sandbox=mode,
        limits=Limits(seconds=0.2),
    )
    assert check.timed_out
    assert list(check.outcomes) == [("ok", "")]


@pytest.mark.parametrize("mode", MODES)
def test_guests_survive_the_thread_that_started_them(mode: str) -> None:
    """The kernel's parent-death signal is tied to a thread; a pool's threads come and go."""
    sandbox.close()
    with ThreadPoolExecutor(1) as threads:
        threads.submit(output, mode, "print(1)").result()
    pids = [worker._process.pid for slot in sandbox_pool.POOLS[mode]._idle for worker in slot._workers.values()]  # type: ignore[index]
    time.sleep(0.1)
    assert output(mode, "print(2)") == "2\n"
    assert pids == [w._process.pid for s in sandbox_pool.POOLS[mode]._idle for w in s._workers.values()]  # type: ignore[index]


@pytest.mark.parametrize("mode", MODES)
def test_a_dead_guest_is_replaced(mode: str) -> None:
    output(mode, "print(1)")
    for slot in sandbox_pool.POOLS[mode]._idle:  # type: ignore[index]
        for worker in slot._workers.values():
            os.killpg(worker._process.pid, signal.SIGKILL)
    idle = len(sandbox_pool.POOLS[mode]._idle)  # type: ignore[index]
    for _ in range(idle):
        with pytest.raises(SandboxError, match=r"the sandbox (is gone|died)"):
            output(mode, "print(1)")
    assert output(mode, "print(1)") == "1\n"


def test_a_guest_killed_during_a_job_is_not_the_programs_fault() -> None:
    sandbox.close()
    with sandbox_pool.POOLS["weak"].slot() as slot:
        pid = slot.worker("candidate")._process.pid
    threading.Timer(0.2, os.killpg, (pid, signal.SIGKILL)).start()
    with pytest.raises(SandboxError, match="died while a program ran"):
        output("weak", "import time; time.sleep(5)", limits=Limits(seconds=10))


def test_a_child_that_cannot_be_locked_down_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.close()
    monkeypatch.setattr(sandbox_worker.sandbox_seccomp, "build", lambda machine: bytes(8))
    with pytest.raises(SandboxError, match=r"OSError.*prctl"):
        output("weak", "print('ran')")
    sandbox.close()


def test_no_user_id_left_is_a_sandbox_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> tuple[int, socket.socket]:
        raise OSError("all taken")

    sandbox.close()
    monkeypatch.setattr(sandbox_worker, "reserve_uid", none_left)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(SandboxError, match="all taken"):
        output("weak", "print(1)")


def test_a_missing_interpreter_is_a_sandbox_error(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.close()
    monkeypatch.setattr(sandbox_worker, "command", lambda mode, bootstrap: ["/no/such/python"])
    with pytest.raises(SandboxError, match="/no/such/python"):
        output("weak", "print(1)")


def _in_a_fork(queue: multiprocessing.Queue[str]) -> None:
    queue.put(output("weak", "print('child')"))


def test_a_forked_process_gets_guests_of_its_own() -> None:
    assert output("weak", "print('parent')") == "parent\n"
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_a_fork, args=(queue,))
    child.start()
    assert queue.get(timeout=30) == "child\n"
    child.join()
    assert child.exitcode == 0
    assert output("weak", "print('parent')") == "parent\n"


@pytest.mark.parametrize("mode", MODES)
def test_nothing_survives_a_killed_trainer(mode: str) -> None:
    script = f"""
        import sys, threading, time
        from rewards import sandbox_pool
        from rewards.sandbox import Limits, run_script
        loop = "import time\\nwhile True: time.sleep(0.01)"
        with sandbox_pool.POOLS[{mode!r}].slot() as slot:
            pid = slot.worker("candidate")._process.pid
        job = dict(sandbox={mode!r}, limits=Limits(seconds=60))
        threading.Thread(target=run_script, args=(loop, b""), kwargs=job).start()
        time.sleep(0.1)
        print(pid, flush=True)
        time.sleep(60)
        """
    trainer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert trainer.stdout is not None
    group = int(trainer.stdout.readline())
    assert _members(group)
    trainer.kill()
    trainer.wait()
    trainer.stdout.close()
    end = time.monotonic() + 10
    while _members(group) and time.monotonic() < end:
        time.sleep(0.02)
    assert _members(group) == []


def _members(session: int) -> list[str]:
    """Processes of a session that are not dead already."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, _, _, sid = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(sid) == session and state != "Z":
            found.append(pid)
    return found


def test_memory_does_not_grow_over_many_jobs() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        output("weak", "print(1)")
    before = resident()
    for _ in range(100):
        output("weak", "print(1)")
    assert resident() - before < 2000  # pages
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 8


def test_a_worn_slot_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.close()
    monkeypatch.setattr(sandbox_pool, "JOBS_PER_SLOT", 2)
    with sandbox_pool.POOLS["weak"].slot() as slot:
        first = slot.worker("candidate")._process.pid
    output("weak", "print(1)")
    with sandbox_pool.POOLS["weak"].slot() as slot:
        assert slot.worker("candidate")._process.pid != first


def test_importing_costs_nothing() -> None:
    """No guest is started, and no heavy module loaded, by importing the sandbox."""
    script = (
        "import sys, json, rewards.sandbox; print(json.dumps(sorted({'torch', 'numpy', 'sympy'} & set(sys.modules))))"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == []
