"""One run on several machines that share the run directory: machine 0 runs it, the others help with its wide steps.

Every machine is given the same command with its own rank. Machine 0 holds the lock, the records and everything that
runs as one process. For a step with `launch.machines` above 1 it announces the request, and each machine starts its
own `accelerate launch` with it. All they say to each other stands in small files below RUN_DIR/machines/:

    N.json     machine N is there: an identity drawn anew by each process, and a number that it keeps raising
    main.json  machine 0: the members it knows by identity, what is to be launched, how the run ended; the same number
    N.S.json   how launch number S ended on machine N

A file left by an earlier run names other identities, and a process that died raises its number no more.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pipeline.atomic import write_text
from pipeline.config import Launch
from pipeline.failures import StepFailed
from pipeline.launcher import broken, command, start
from pipeline.watch import Watch

if TYPE_CHECKING:
    from pipeline.step import Node

BEAT_SECONDS = 1.0
POLL_SECONDS = 0.2
SILENT_SECONDS = 120
"""How long a machine may give no sign of life before it counts as gone; a shared file system takes a while."""
FAREWELL_SECONDS = 10
"""How long machine 0 waits at the end for machines that have not come yet, so that it can send them home."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Which of the machines this is, and where the ranks meet: a free port of machine 0."""

    rank: int
    main_host: str
    main_port: int


def this_machine(rank: int | None, address: str | None, environ: Mapping[str, str] = os.environ) -> Machine | None:
    """From the flags, or R1_MACHINE_RANK (under Slurm SLURM_NODEID) and R1_MAIN_ADDRESS; None where nothing is said.

    Raises ValueError where only one of the two is known or it cannot be read.
    """
    address = address if address is not None else environ.get("R1_MAIN_ADDRESS")
    if address is None and rank is None and "R1_MACHINE_RANK" not in environ:
        return None  # SLURM_NODEID alone says that this is a job, not that several machines run this command
    said = str(rank) if rank is not None else environ.get("R1_MACHINE_RANK", environ.get("SLURM_NODEID"))
    if address is None or said is None:
        raise ValueError("--machine-rank and --main-address belong together (or R1_MACHINE_RANK and R1_MAIN_ADDRESS)")
    if not said.isdecimal():
        raise ValueError(f"the machine rank is a number from 0, got {said!r}")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"the main address is HOST:PORT, got {address!r}")
    return Machine(rank=int(said), main_host=host.strip("[]"), main_port=int(port))


def machine_of(rank: int | None, address: str | None, nodes: Sequence[Node]) -> Machine | None:
    """`this_machine`; raises ValueError where no step takes as many machines."""
    machine = this_machine(rank, address)
    most = most_machines(nodes)[0]
    if machine is not None and machine.rank >= most:
        raise ValueError(f"this is machine {machine.rank}, counted from 0, but launch.machines is {most}")
    return machine


def require_machine(nodes: Iterable[Node], machine: Machine | None) -> None:
    """Raise ValueError where one of the steps takes several machines and nobody said which this is."""
    for node in nodes:
        if node.launch.machines > 1 and machine is None:
            raise ValueError(
                f"{node.where}: launch.machines is {node.launch.machines}: start the same command on each of them, "
                "with --machine-rank 0, 1, ... and --main-address HOST:PORT of machine 0"
            )


def most_machines(nodes: Sequence[Node]) -> tuple[int, int]:
    """The most machines that a step takes, and the longest that machines may wait for each other, in seconds."""
    return max(node.launch.machines for node in nodes), max(node.launch.timeout for node in nodes)


class MainMachine:
    """Machine 0 in a run over several; use it as a context."""

    def __init__(self, run_dir: Path, machine: Machine, count: int) -> None:
        """`count` is the most machines that a step of this run takes."""
        self.machine, self.count = machine, count
        self.folder = run_dir / "machines"
        self.state: dict[str, Any] = {"members": {}, "serial": 0, "launch": None, "ended": None, "beat": 0}
        self.hosts: dict[int, str] = {}
        self._watches: dict[int, Watch] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob("*.json"):
            old.unlink()
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        deadline = time.monotonic() + FAREWELL_SECONDS
        while self._missing(self.count) and time.monotonic() < deadline and kind is not KeyboardInterrupt:
            time.sleep(POLL_SECONDS)
        self._over.set()
        self._beating.join()
        ended = "" if error is None else " ".join(str(error).split()) or kind.__name__ if kind else ""
        self._write(ended=ended)

    def announce(self, request: Path, launch: Launch, files: Mapping[str, str], step: str) -> Helpers:
        """Wait until the machines that the step needs are there, and have them launch it.

        Raises StepFailed where one does not come within `launch.timeout` seconds.
        """
        deadline = time.monotonic() + launch.timeout
        while missing := self._missing(launch.machines):
            if time.monotonic() > deadline:
                raise StepFailed(f"machine {missing[0]} of {launch.machines} did not come within {launch.timeout} s")
            time.sleep(POLL_SECONDS)
        ask = {"request": str(request), "launch": launch.model_dump(mode="json"), "files": dict(files), "step": step}
        self._write(serial=self.state["serial"] + 1, launch=ask)
        return Helpers(self, launch, self.state["serial"])

    def silent(self, rank: int) -> bool:
        """Whether a member has given no sign of life for too long."""
        note = _read(self.folder / f"{rank}.json")
        return self._watches[rank].silent(note.get("beat"))

    def _missing(self, count: int) -> list[int]:
        """Ranks below `count` that have not come; those that have are taken in."""
        for rank in range(1, count):
            note = _read(self.folder / f"{rank}.json")
            if note and self.state["members"].get(str(rank)) != note["identity"]:
                self.hosts[rank] = note["host"]
                self._watches[rank] = Watch(SILENT_SECONDS)
                self._write(members={**self.state["members"], str(rank): note["identity"]})
        return [rank for rank in range(1, count) if str(rank) not in self.state["members"]]

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            self._write()

    def _write(self, **changes: Any) -> None:
        with self._lock:
            self.state |= changes | {"beat": self.state["beat"] + 1}
            write_text(self.folder / "main.json", json.dumps(self.state))


@dataclass(frozen=True, slots=True)
class Helpers:
    """The other machines during one launch."""

    main: MainMachine
    launch: Launch
    serial: int

    def lost(self) -> bool:
        """Whether one of them has ended in failure or gives no sign of life."""
        return bool(self._codes(lambda code: code != 0)) or bool(self._silent())

    def settle(self, code: int) -> None:
        """Wait a while for their word, so that what they wrote is there to be read; `code` is how it ended here.

        Raises StepFailed for a machine that is gone.
        """
        deadline = time.monotonic() + FAREWELL_SECONDS
        while len(self._codes(lambda _: True)) < self.launch.machines - 1 and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        if gone := self._silent():
            host = self.main.hosts[gone[0]]
            raise StepFailed(f"machine {gone[0]} ({host}) gave no sign of life for {SILENT_SECONDS} s")

    def _codes(self, wanted: Callable[[int], bool]) -> dict[int, int]:
        notes = {r: _read(self.main.folder / f"{r}.{self.serial}.json") for r in range(1, self.launch.machines)}
        return {rank: note["code"] for rank, note in notes.items() if note and wanted(note["code"])}

    def _silent(self) -> list[int]:
        return [rank for rank in range(1, self.launch.machines) if self.main.silent(rank)]


def follow(run_dir: Path, machine: Machine, timeout: int, say: Callable[[str], None]) -> None:
    """Help machine 0 until its run ends. Raises StepFailed where that failed, or machine 0 gives no sign of life.

    `timeout` is how long to wait for it to begin, in seconds.
    """
    folder = run_dir / "machines"
    identity, done = uuid.uuid4().hex, 0
    watch, over = Watch(timeout), threading.Event()
    say(f"machine {machine.rank}: waiting for machine 0 in {run_dir}")
    beating = threading.Thread(target=_be_there, args=(folder, machine.rank, identity, over), daemon=True)
    beating.start()
    try:
        while True:
            main = _read(folder / "main.json")
            mine = main.get("members", {}).get(str(machine.rank)) == identity
            if mine and main["ended"] is not None:
                break
            if watch.silent(main["beat"] if mine else None):
                raise StepFailed(f"machine 0 gave no sign of life for {watch.patience:g} s in {run_dir}")
            if mine:
                watch.patience = min(timeout, SILENT_SECONDS)
            if mine and main["serial"] > done:
                done = main["serial"]
                if machine.rank < main["launch"]["launch"]["machines"]:
                    _help(folder, machine, main["launch"], done, say)
                    watch.since = time.monotonic()
            time.sleep(POLL_SECONDS)
    finally:
        over.set()
        beating.join()
    if main["ended"]:
        raise StepFailed(f"machine 0: {main['ended']}")


def _help(folder: Path, machine: Machine, ask: Mapping[str, Any], serial: int, say: Callable[[str], None]) -> None:
    """Run this machine's share of one launch, and leave word of how it ended."""
    launch, request = Launch.model_validate(ask["launch"]), Path(ask["request"])
    say(f"machine {machine.rank}: {ask['step']}")
    child = start(command(launch, ask["files"], request, machine), launch)
    watch = Watch(min(launch.timeout, SILENT_SECONDS))

    def over() -> bool:
        main = _read(folder / "main.json")
        moved_on = main.get("ended") is not None or main.get("serial", serial) != serial
        return broken(request.parent) or moved_on or watch.silent(main.get("beat"))

    code = child.wait(over)
    write_text(folder / f"{machine.rank}.{serial}.json", json.dumps({"code": code}))
    say(f"machine {machine.rank}: {ask['step']} {'done' if code == 0 else f'ended with exit code {code}'}")


def _be_there(folder: Path, rank: int, identity: str, over: threading.Event) -> None:
    """Say so again and again: machine 0 clears the folder when it begins."""
    beat = 0
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        beat += 1
        note = {"identity": identity, "host": socket.gethostname(), "beat": beat}
        write_text(folder / f"{rank}.json", json.dumps(note))
        if over.wait(BEAT_SECONDS):
            return


def _read(file: Path) -> dict[str, Any]:
    try:
        note = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}
