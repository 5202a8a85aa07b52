"""Does the chain learn what the recipe says it learns? Five seeds of the embedded recipe, and the student by RL alone.

    python benchmarks/learning.py                          five seeds, one after the other
    python benchmarks/learning.py --seeds 0 1 --jobs 2     two at once, each of them in one process

A seed draws the training data, the sampling and the initialisations anew; the held-out rows stay the same. Runs lie in
runs/learning and are resumed, so that a second call only prints the tables. The peer of a checkpoint is the one it
started from; the peer of distillation is tiny-student-rl.yaml, the same student taught by reinforcement alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ("tiny", "tiny-student-rl")
COLUMNS = ("accuracy", "format", "language", "preference")
STEPS = (
    ("base", "tiny"),
    ("cold_start", "tiny"),
    ("sft_mix", "tiny"),
    ("reasoning_rl", "tiny"),
    ("sft_final", "tiny"),
    ("general_rl", "tiny"),
    ("student", "tiny"),
    ("distillation", "tiny"),
    ("student_rl", "tiny-student-rl"),
)
HELD_OUT = ("data.held_out.seed=0",)
"""Every seed is measured on the same rows."""

SPREAD = {"tiny": ("reasoning_rl", "general_rl", "distillation"), "tiny-student-rl": ()}
"""Steps that say for themselves over how many processes they run."""

Metrics = Mapping[str, Mapping[str, float]]


def run(recipe: str, seed: int, folder: Path, threads: int | None, processes: int | None) -> dict[str, Any]:
    """summary.json of one run, made or resumed. Placement changes the order of sums, and nothing else."""
    run_dir = folder / f"{recipe}-{seed}"
    sets = [f"seed={seed}", *HELD_OUT]
    if recipe == "tiny":
        sets.append("data.held_out_chat.seed=0")
    if threads:
        sets.append(f"launch.threads={threads}")
    if processes:
        places = ["launch", *(f"steps.{step}.launch" for step in SPREAD[recipe])]
        sets += [f"{place}.processes={processes}" for place in places]
    line = [sys.executable, "-m", "pipeline", "run", f"configs/{recipe}.yaml", "--run-dir", str(run_dir)]
    line += [part for value in sets for part in ("--set", value)]
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
    with (folder / f"{recipe}-{seed}.log").open("w") as log:
        subprocess.run(line, cwd=ROOT, env=environment, stdout=log, stderr=log, check=True)
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    return summary


def metrics_of(summary: Mapping[str, Any]) -> dict[str, Metrics]:
    """Metrics by step name."""
    return {entry["name"]: entry["metrics"] for entry in summary["steps"]}


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{mean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def table(found: Mapping[str, Sequence[Mapping[str, Metrics]]]) -> list[str]:
    """Markdown: a row a checkpoint, mean ± standard deviation over seeds."""
    lines = ["| checkpoint | " + " | ".join(COLUMNS) + " |", "| --- |" + " --- |" * len(COLUMNS)]
    for step, recipe in STEPS:
        cells = []
        for column in COLUMNS:
            values = [m[step][column]["value"] for m in found[recipe] if column in m.get(step, {})]
            cells.append(spread(values) if values else "")
        lines.append(f"| {step} | " + " | ".join(cells) + " |")
    return lines


def claims(found: Mapping[str, Sequence[Mapping[str, Metrics]]]) -> list[tuple[str, int, int]]:
    """(claim, seeds on which it holds, seeds)."""
    chains, alone = found["tiny"], found["tiny-student-rl"]
    tests = {
        "cold start: format above 0.9": [m["cold_start"]["format"]["value"] > 0.9 for m in chains],
        "reasoning RL: accuracy rises by more than the intervals overlap": [
            gain(m) > max(0.0, m["sft_mix"]["accuracy"]["high"] - m["reasoning_rl"]["accuracy"]["low"]) for m in chains
        ],
        "reasoning RL: accuracy rises, intervals apart": [
            m["reasoning_rl"]["accuracy"]["low"] > m["sft_mix"]["accuracy"]["high"] for m in chains
        ],
        "general RL: preference above its start": [
            m["general_rl"]["preference"]["value"] > m["sft_final"]["preference"]["value"] for m in chains
        ],
        "general RL: accuracy not below the interval of its start": [
            m["general_rl"]["accuracy"]["value"] >= m["sft_final"]["accuracy"]["low"] for m in chains
        ],
        "distillation beats reinforcement alone on the same student": [
            m["distillation"]["accuracy"]["value"] > a["student_rl"]["accuracy"]["value"]
            for m, a in zip(chains, alone, strict=True)
        ],
    }
    return [(claim, sum(held), len(held)) for claim, held in tests.items()]


def gain(metrics: Mapping[str, Metrics]) -> float:
    """What reasoning RL adds to the accuracy of the checkpoint that it starts from."""
    return metrics["reasoning_rl"]["accuracy"]["value"] - metrics["sft_mix"]["accuracy"]["value"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--threads", type=int, help="threads of each run (default: torch's choice)")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "learning")
    options = parser.parse_args()
    work = [(recipe, seed) for seed in options.seeds for recipe in RECIPES]
    with ThreadPoolExecutor(options.jobs) as pool:
        processes = 1 if options.jobs > 1 else None
        summaries = list(pool.map(lambda item: run(*item, options.folder, options.threads, processes), work))
    made = dict(zip(work, summaries, strict=True))
    found = {recipe: [metrics_of(made[recipe, seed]) for seed in options.seeds] for recipe in RECIPES}
    print("\n".join(table(found)))
    held = claims(found)
    print("\n| claim | holds on |\n| --- | --- |")
    for claim, yes, of in held:
        print(f"| {claim} | {yes} of {of} seeds |")
    seconds = [made["tiny", seed]["total_seconds"] for seed in options.seeds]
    figures = {claim: yes / of for claim, yes, of in held} | {"chain_seconds": round(mean(seconds), 1)}
    print(json.dumps({"benchmark": "learning", "figures": figures}))


if __name__ == "__main__":
    main()
