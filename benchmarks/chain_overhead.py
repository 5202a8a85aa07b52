"""Which share of a chain's wall time is neither training, sampling, scoring nor evaluating?

    python benchmarks/chain_overhead.py [--config configs/tiny.yaml] [--set KEY=VALUE ...]

Runs the configuration from nothing and compares the wall time of the whole command with what the stages report in
their records. The rest is the chain's own: starting, importing, preparing data, loading and saving, hashing, reports.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ("training", "sampling", "scoring", "evaluating")
"""The parts of a step that a user without a chain would pay for too."""


def reported(run_dir: Path) -> Counter[str]:
    """Seconds by part over all artifacts of a run."""
    parts: Counter[str] = Counter()
    for file in (run_dir / "artifacts").glob("*/record.json"):
        parts.update(json.loads(file.read_text(encoding="utf-8"))["timings"])
    return parts


def main() -> None:
    """Print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "tiny.yaml")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        line = [sys.executable, "-m", "pipeline", "run", str(arguments.config.resolve()), "--run-dir", str(run_dir)]
        line += [part for override in arguments.overrides for part in ("--set", override)]
        started = time.perf_counter()
        subprocess.run(line, cwd=ROOT, check=True)
        wall = time.perf_counter() - started
        parts = reported(run_dir)
    work = sum(parts[part] for part in WORK)
    assert work <= wall, f"the stages report {work:.1f} s of work in {wall:.1f} s"
    figures = {"overhead_share": round(1 - work / wall, 4), "wall_seconds": round(wall, 1)}
    figures |= {f"{part}_seconds": round(seconds, 1) for part, seconds in sorted(parts.items())}
    print(json.dumps({"benchmark": "chain_overhead", "figures": figures}))


if __name__ == "__main__":
    main()
