"""What a run has made: summary.json for programs, report.md for people, a table for the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.atomic import write_text
from pipeline.config import RunConfig
from pipeline.graph import PREFIX
from pipeline.plan import State, Status
from pipeline.step import Role
from stages.stage import Metric

HEADLINES = ("accuracy", "format", "language", "preference")
"""The metrics of the stage table, in its order."""

Entry = dict[str, Any]


def write_report(run_dir: Path, config: RunConfig, states: Sequence[State], given: Mapping[str, str]) -> None:
    """Write summary.json and report.md, each whole or not at all."""
    summary = summarize(states, given)
    write_text(run_dir / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(run_dir / "report.md", _markdown(config, summary, states))


def summarize(states: Sequence[State], given: Mapping[str, str]) -> dict[str, Any]:
    """{"total_seconds", "steps": [...]}: given models that were evaluated first, then every step.

    The metrics of `evaluate.X` also stand in the entry of X. `total_seconds` is the time that the making of the
    current artifacts took, in whichever run that was.
    """
    evaluated = {
        state.node.name.removeprefix(PREFIX): state.record.metrics
        for state in states
        if state.node.role is Role.EVALUATION and state.record
    }
    entries = [
        _entry(name, "given", Status.REUSED, identity, 0.0, evaluated[name])
        for name, identity in given.items()
        if name in evaluated
    ]
    for state in states:
        own = state.record.metrics if state.record else {}
        metrics = {**own, **(evaluated.get(state.node.name, {}) if state.record else {})}
        seconds = state.record.seconds if state.record else 0.0
        entries.append(
            _entry(state.node.name, state.node.stage.name, state.status, state.fingerprint, seconds, metrics)
        )
    return {"total_seconds": sum(entry["seconds"] for entry in entries), "steps": entries}


def _entry(
    name: str, stage: str, status: Status, fingerprint: str, seconds: float, metrics: Mapping[str, Metric]
) -> Entry:
    return {
        "name": name,
        "stage": stage,
        "status": str(status),
        "fingerprint": fingerprint,
        "seconds": round(seconds, 3),
        "metrics": {key: asdict(metric) for key, metric in metrics.items()},
    }


def terminal_table(states: Sequence[State], given: Mapping[str, str]) -> str:
    """The stage table in aligned columns."""
    rows = _stage_table(summarize(states, given)["steps"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _stage_table(entries: Sequence[Entry]) -> list[list[str]]:
    """Header and one row for each checkpoint and step; evaluations stand in the row of what they evaluate."""
    shown = [entry for entry in entries if not entry["name"].startswith(PREFIX) and entry["stage"] != "preparation"]
    metrics = [name for name in HEADLINES if any(name in entry["metrics"] for entry in shown)]
    spent = {
        entry["name"].removeprefix(PREFIX): entry["seconds"] for entry in entries if entry["name"].startswith(PREFIX)
    }
    rows = [["step", "status", "seconds", "evaluated in", *metrics]]
    for entry in shown:
        evaluation = f"{spent[entry['name']]:.1f}" if spent.get(entry["name"]) else ""
        cells = [cell(entry["metrics"].get(name)) for name in metrics]
        status = "given" if entry["stage"] == "given" else entry["status"]
        rows.append([entry["name"], status, f"{entry['seconds']:.1f}", evaluation, *cells])
    return rows


def cell(metric: Mapping[str, Any] | None) -> str:
    """A figure with its interval and n; a total, or a mean of which no interval is known, with its n alone."""
    if metric is None:
        return ""
    if metric["low"] == metric["high"]:
        total = metric["value"] > 1 and float(metric["value"]).is_integer()
        return f"{metric['value']:.{0 if total else 3}f} n={metric['n']}"
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}] n={metric['n']}"


def _markdown(config: RunConfig, summary: Mapping[str, Any], states: Sequence[State]) -> str:
    entries: list[Entry] = summary["steps"]
    blocks = [
        f"# {config.name}",
        f"Seed {config.seed}, convention `{config.convention}`, {summary['total_seconds']:.1f} s in all. "
        "Figures are held-out means with 95 % intervals.",
        _grid(_stage_table(entries)),
        *_gates(states),
        "## Rows and other tallies",
        _grid([["step", "what", "number"], *_tallies(states)]),
        "## All metrics",
        _grid([["step", "metric", "value"], *_all_metrics(entries)]),
        "## Where the time went",
        _grid([["step", "part", "seconds"], *_timings(states)]),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _gates(states: Sequence[State]) -> list[str]:
    """The bounds that figures have to keep, and whether they do; nothing where there are none."""
    rows = []
    for state in states:
        for name, gate in state.node.gates.items():
            bounds = [
                f"{word} {bound:g}" for word, bound in (("least", gate.least), ("most", gate.most)) if bound is not None
            ]
            found = state.record.metrics.get(name) if state.record else None
            met = "not measured" if found is None else "no" if gate.broken(found.value) else "yes"
            rows.append([state.node.name, name, ", ".join(bounds), cell(asdict(found)) if found else "", met])
    return ["## Gates", _grid([["evaluation", "figure", "bounds", "found", "met"], *rows])] if rows else []


def _tallies(states: Sequence[State]) -> list[list[str]]:
    found = [(state, state.record) for state in states if state.record]
    return [
        [state.node.name, name, f"{count}"] for state, record in found for name, count in record.counts.items() if count
    ]


def _all_metrics(entries: Sequence[Entry]) -> list[list[str]]:
    shown = [entry for entry in entries if not entry["name"].startswith(PREFIX)]
    return [[entry["name"], name, cell(metric)] for entry in shown for name, metric in entry["metrics"].items()]


def _timings(states: Sequence[State]) -> list[list[str]]:
    found = [(state, state.record) for state in states if state.record]
    return [[state.node.name, part, f"{s:.1f}"] for state, record in found for part, s in record.timings.items()]


def _grid(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
