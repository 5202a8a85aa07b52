"""How long does the command line take when there is nothing to do?

    python benchmarks/startup.py [--config configs/tiny.yaml] [--run-dir DIR] [--set KEY=VALUE ...]

`help_seconds` and `noop_run_seconds` (a finished pipeline run again) are medians over fresh processes, beside what a
bare interpreter and an import of torch cost in the same minute. Without a run directory a chain of as many short steps
is made first: what is finished costs the same to find whatever went into it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.config import load  # noqa: E402

REPEATS = 5
ROWS = 24
"""Rows of each dataset of the short chain."""


def small_chain(config: Path, folder: Path) -> Path:
    """A configuration with as many steps as `config`, each of them its first one with few rows."""
    whole = load(config)
    names = [str(step["name"]) for step in whole.steps]
    steps, previous = [], whole.steps[0]["init_from"]
    for number in range(len(names)):
        steps.append({**whole.steps[0], "name": f"step_{number}", "init_from": previous})
        previous = f"step_{number}"
    tree = {
        **whole.model_dump(mode="json"),
        "name": "startup",
        "steps": steps,
        "data": {name: {**entry, "rows": min(ROWS, entry.get("rows", ROWS))} for name, entry in whole.data.items()},
        "evaluate": {"data_from": (whole.evaluate or {})["data_from"], "max_tokens": 16},
    }
    file = folder / "startup.json"
    file.write_text(json.dumps(tree), encoding="utf-8")
    return file


def median_seconds(line: list[str]) -> float:
    """Median wall time of a command in fresh processes."""
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        subprocess.run(line, cwd=ROOT, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    """Print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "tiny.yaml")
    parser.add_argument("--run-dir", type=Path, help="a finished run; by default a small one is made and deleted")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = (arguments.run_dir or Path(folder) / "run").resolve()
        config = arguments.config if arguments.run_dir else small_chain(arguments.config, Path(folder))
        run = [sys.executable, "-m", "pipeline", "run", str(config.resolve()), "--run-dir", str(run_dir)]
        run += [part for override in arguments.overrides for part in ("--set", override)]
        subprocess.run(run, cwd=ROOT, check=True)
        figures = {
            "help_seconds": median_seconds([sys.executable, "-m", "pipeline", "--help"]),
            "noop_run_seconds": median_seconds(run),
            "python_seconds": median_seconds([sys.executable, "-c", "pass"]),
            "import_torch_seconds": median_seconds([sys.executable, "-c", "import torch"]),
        }
    print(json.dumps({"benchmark": "startup", "figures": {key: round(value, 3) for key, value in figures.items()}}))


if __name__ == "__main__":
    main()
