"""Does predicting further tokens help supervised fine-tuning of the embedded base, or make what it writes steadier?

    python benchmarks/mtp.py [--seeds 0 1 2] [--rows 800] [--prompts 200]

Each seed trains on its own rows without multi-token prediction and with it, on the same batches in the same order. The
held-out loss is that of the next token alone, on prompts of the training's split that were held out; the other figures
are those of one completion at temperature 1 for each of the same held-out prompts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

VARIANTS: dict[str, dict[str, Any] | None] = {
    "without": None,
    "depth 1, weight 0.1": {"depth": 1, "weight": 0.1},
    "depth 1, weight 0.3": {"depth": 1, "weight": 0.3},
}
FIGURES = ("held_out_loss", "accuracy", "format", "truncated", "mtp_loss")


def measured(folder: Path, seed: int, mtp: dict[str, Any] | None, count: int, prompts: int) -> dict[str, float]:
    """Figures of one training. `mtp_loss` is the first module's over the last five optimiser steps."""
    from data.artifact import ROWS_NAME, Artifact, Kind
    from data.records import write_rows
    from data.tiny.world import rows
    from stages.cold_start import COLD_START, ColdStartConfig
    from stages.evaluation import EVALUATION, EvaluationConfig
    from stages.stage import Context, Placement

    for name in ("chains", "prompts", "out", "work", "made"):
        (folder / name).mkdir(parents=True)
    write_rows(folder / "chains" / ROWS_NAME, rows("cold_start", count, seed=seed))
    write_rows(folder / "prompts" / ROWS_NAME, rows("test", prompts, seed=0))
    chains, asked = (
        Artifact(kind=Kind.DATASET, path=folder / name, fingerprint=name, name=name) for name in ("chains", "prompts")
    )
    base = Artifact(kind=Kind.MODEL, path=ROOT / "data/tiny/base", fingerprint="base", name="base")
    placement = Placement(threads=1, reward_workers=1)
    context = Context(seed=seed, convention="think_answer", work=folder / "work", sandbox="weak", placement=placement)
    config = ColdStartConfig.model_validate(
        {
            "learning_rate": 2e-4,
            "epochs": 1,
            "batch_size": 32,
            "mtp": mtp,
            "early_stopping": {"every": 10**6, "share": 0.2, "rows": 128},  # measured once, at the end
        }
    )
    trained = COLD_START.run(config, {"init": [base], "data": [chains]}, folder / "out", context)
    policy = Artifact(kind=Kind.MODEL, path=folder / "out", fingerprint="policy", name="policy")
    sampling = EvaluationConfig(temperature=1.0, max_tokens=160)
    sampled = EVALUATION.run(sampling, {"init": [policy], "data": [asked]}, folder / "made", context)
    figures = {name: metric.value for name, metric in {**sampled.metrics, **trained.metrics}.items()}
    lines = [json.loads(line) for line in (folder / "out" / "history.jsonl").read_text().splitlines()]
    ahead = [line["mtp/loss_1"] for line in lines if "mtp/loss_1" in line][-5:]
    return {name: figures[name] for name in FIGURES if name in figures} | ({"mtp_loss": mean(ahead)} if ahead else {})


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    if not values:
        return ""
    return f"{mean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=800)
    parser.add_argument("--prompts", type=int, default=200)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            for number, (name, mtp) in enumerate(VARIANTS.items()):
                place = Path(folder) / f"{seed}-{number}"
                found[name].append(measured(place, seed, mtp, options.rows, options.prompts))
                print(seed, name, {key: round(value, 4) for key, value in found[name][-1].items()}, flush=True)
    print("| SFT | " + " | ".join(FIGURES) + " |\n| --- |" + " --- |" * len(FIGURES))
    for name, runs in found.items():
        cells = [spread([run[figure] for run in runs if figure in run]) for figure in FIGURES]
        print(f"| {name} | " + " | ".join(cells) + " |")
    without = found["without"]
    for name, runs in list(found.items())[1:]:
        for figure in FIGURES[:-1]:
            gaps = [run[figure] - other[figure] for run, other in zip(runs, without, strict=True)]
            print(f"{name}, {figure} minus that without, by seed: " + ", ".join(f"{gap:+.4f}" for gap in gaps))
    figures = {
        name: {figure: mean(run[figure] for run in runs) for figure in FIGURES if figure in runs[0]}
        for name, runs in found.items()
    }
    print(json.dumps({"benchmark": "mtp", "figures": figures}))


if __name__ == "__main__":
    main()
