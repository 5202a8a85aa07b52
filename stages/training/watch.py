"""Sentries on a running trainer: they read what it logs, keep alerts.jsonl, and warn or stop.

Imports transformers: import it inside a stage's run().
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm
from transformers import TrainerCallback

from stages.stage import Context
from stages.training.progress import line_of
from stages.training.sentries import SENTRIES, Settings, bounds_of, setting_of
from stages.training.sentry_rules import Line, Rule

HISTORY = "history.jsonl"
ALERTS = "alerts.jsonl"
"""File of a step with one alert a line."""


class SentryStop(ValueError):
    """A sentry whose action is `stop` saw its figure out of bounds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """The beginning of an episode: a figure has left its bounds."""

    step: int
    sentry: str
    action: str
    seen: str
    """Figure, window and bound."""
    diagnosis: str
    """The whole line that a person reads."""


class Sentries:
    """Every sentry that is not off, fed with lines in the order of their steps."""

    def __init__(self, settings: Settings) -> None:
        self.actions: dict[str, str] = {}
        self.rules: dict[str, Rule] = {}
        for name, sentry in SENTRIES.items():
            setting = setting_of(name, settings)
            if setting.action != "off":
                self.actions[name] = setting.action
                self.rules[name] = sentry.rule(bounds_of(name, setting))
        self.out: set[str] = set()
        """Sentries whose figure is out of bounds now."""

    def see(self, line: Line) -> tuple[list[Alert], list[Alert]]:
        """(alerts of episodes that begin with this line, alerts that ask for a stop at this line)."""
        begun, stops = [], []
        for name, rule in self.rules.items():
            seen = rule.see(line)
            if seen is None:
                self.out.discard(name)
                continue
            alert = self._alert(name, seen, int(line["step"]))
            if name not in self.out:
                begun.append(alert)
            if alert.action == "stop":
                stops.append(alert)
            self.out.add(name)
        return begun, stops

    def _alert(self, name: str, seen: str, step: int) -> Alert:
        sentry = SENTRIES[name]
        diagnosis = f"sentry {name}, step {step}: {seen}. Usually: {sentry.means}. Remedy: {sentry.remedy}."
        return Alert(step=step, sentry=name, action=self.actions[name], seen=seen, diagnosis=diagnosis)


class Watch(TrainerCallback):
    """Feeds the sentries with the lines of history.jsonl; must follow History among the callbacks.

    What they have seen is rebuilt from that file when training starts, so that a resumed run judges as an unbroken
    one does. Alerts of steps that are redone are told once more, and stand in alerts.jsonl once.
    """

    def __init__(self, settings: Settings, context: Context) -> None:
        self.name = context.name
        self.history = context.work / HISTORY
        self.alerts = context.work / ALERTS
        self.settings = settings
        self.sentries = Sentries(settings)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        self.sentries = Sentries(self.settings)
        lines = self.history.read_text(encoding="utf-8").splitlines() if self.history.exists() else []
        known = [alert for line in lines for alert in self.sentries.see(json.loads(line))[0]]
        self.alerts.write_text("".join(map(_entry, known)), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        line = line_of(state, logs)
        reason = [self._look(line) if line is not None and state.is_world_process_zero else None]
        if "stop" in self.sentries.actions.values():
            broadcast_object_list(reason)  # all processes stop together, or those left over would wait for the first
        if reason[0] is not None:
            raise SentryStop(reason[0])

    def _look(self, line: Line) -> str | None:
        """Tell what begins with this line; the reason to stop, where there is one."""
        begun, stops = self.sentries.see(line)
        with self.alerts.open("a", encoding="utf-8") as file:
            for alert in begun:
                file.write(_entry(alert))
                if alert.action == "warn":
                    tqdm.write(f"{self.name}: {alert.diagnosis}", file=sys.stderr)
        if not stops:
            return None
        key = f"sentries.{stops[0].sentry}.action"
        return (
            f"{stops[0].diagnosis} Stopped, since {key} is stop; to go on from the last trainer checkpoint, give "
            f"the same command with --set steps.{self.name}.{key}=warn"
        )


def _entry(alert: Alert) -> str:
    return json.dumps(asdict(alert), ensure_ascii=False) + "\n"


def alert_counts(work: Path) -> dict[str, int]:
    """ "alerts: NAME" to the number of episodes of each sentry in a finished step."""
    file = work / ALERTS
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    found = Counter(json.loads(line)["sentry"] for line in lines)
    return {f"alerts: {name}": found[name] for name in SENTRIES if name in found}
