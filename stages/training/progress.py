"""What a person sees and keeps of a running trainer: one progress bar, and history.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.utils import logging

from stages import ranks

SHOWN = {"loss": "loss", "reward": "reward", "kl": "kl", "completions/mean_length": "tokens"}
"""Logged figure to its name on the bar."""


def quiet() -> None:
    """Turn off the libraries' own bars and notes: saving a checkpoint is not news."""
    import datasets

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    datasets.disable_progress_bars()


class Bar(TrainerCallback):
    """One bar per step of the pipeline with rate, ETA and the latest figures."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bar: tqdm[Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.name, unit="step")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if self.bar is not None and logs:
            figures = {name: f"{float(logs[key]):.3g}" for key, name in SHOWN.items() if logs.get(key) is not None}
            if "reward" in figures:
                figures.pop("loss", None)  # advantages cancel within a group: near 0 whatever is learned
            if figures:  # the trainer's last line has none, and the bar stays
                self.bar.set_postfix(figures, refresh=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.close()


class Alive(TrainerCallback):
    """Every rank's sign of life after each optimiser step."""

    def __init__(self, work: Path) -> None:
        self.work = work

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        ranks.tell(self.work, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        ranks.tell(self.work, state.global_step)


class History(TrainerCallback):
    """Appends the trainer's figures to history.jsonl; steps redone after a kill replace the first attempt's lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []
            whole = [line for line in lines if line.endswith("\n")]  # a kill may have cut the last one short
            kept = [line for line in whole if json.loads(line)["step"] <= state.global_step]
            self.path.write_text("".join(kept), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        line = line_of(state, logs)
        if state.is_world_process_zero and line is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def line_of(state: Any, logs: dict[str, Any] | None) -> dict[str, Any] | None:
    """What was logged as a line of history.jsonl; None where it holds no figure of a step.

    How long a measurement took is none, and neither is what the trainer sums up at its end.
    """
    timed = ("_runtime", "_per_second")
    found = _numbers(logs or {}).items()
    numbers = {
        key: value for key, value in found if not key.startswith(("train_", "total_")) and not key.endswith(timed)
    }
    return {"step": state.global_step, **numbers} if numbers.keys() - {"epoch"} else None


def mean_of(history: Path, name: str) -> float:
    """Mean of one figure over all lines of a history that have it."""
    lines = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    values = [line[name] for line in lines if name in line]
    return sum(values) / len(values)


def _numbers(logs: dict[str, Any]) -> dict[str, float]:
    """The figures among what was logged; some TRL versions log them as text."""
    found = {}
    for key, value in logs.items():
        try:
            found[key] = float(value)
        except (TypeError, ValueError):
            continue
    return found
