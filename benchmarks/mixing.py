"""The seed's cross-domain size: 2,000,000 rows in files, mixed by weight, in bounded memory.

    python benchmarks/mixing.py                   # 2,000,000 rows of about 600 bytes, a file for each domain
    python benchmarks/mixing.py --rows 200000

Writes the rows, then mixes them in a process of its own and reports its peak resident memory above that of the bare
interpreter, the seconds until the first row (reading every row once, planning) and those of reading the whole stream.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path

from data.mixing import Phase
from data.mixing_files import mix_files

SHARES = {"medicine": 5, "finance": 3, "math": 2}


def write(folder: Path, rows: int, width: int) -> list[Path]:
    """A file of each domain, `rows` in all."""
    rng = random.Random(0)
    paths = []
    for domain, share in SHARES.items():
        paths.append(folder / f"{domain}.jsonl")
        with paths[-1].open("w") as file:
            for number in range(rows * share // sum(SHARES.values())):
                text = f"{domain} {number} " + "x" * rng.randint(width // 2, 3 * width // 2)
                row = {"id": f"{domain}-{number}", "domain": domain, "language": "en"}
                file.write(json.dumps({**row, "prompt": [{"role": "user", "content": text}]}) + "\n")
    return paths


def mixed(paths: list[Path], rows: int, send: multiprocessing.connection.Connection) -> None:
    """Mix half of the rows in one phase and a quarter in a second with replay; send what it took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, cpu = time.monotonic(), time.process_time()
    weights = {"medicine": 2.0, "finance": 1.0, "math": 1.0}
    phases = [
        Phase(name="first", weights=weights, count=rows // 2),
        Phase(name="second", weights=weights, count=rows // 4, replay=0.1),
    ]
    tally: Counter[tuple[str, str]] = Counter()
    stream = mix_files(paths, phases, seed=0)
    name, row = next(stream)
    first = time.monotonic() - began, time.process_time() - cpu
    tally[name, row["domain"]] += 1
    for name, row in stream:
        tally[name, row["domain"]] += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    send.send(
        {
            "rows": rows,
            "drawn": sum(tally.values()),
            "peak_memory_bytes": grown,
            "peak_memory_bytes_per_row": round(grown / rows, 1),
            "seconds_to_first_row": round(first[0], 1),
            "seconds": round(time.monotonic() - began, 1),
            "cpu_seconds_to_first_row": round(first[1], 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "by_phase_and_domain": {" ".join(place): count for place, count in sorted(tally.items())},
        }
    )


def measure(rows: int, width: int) -> dict[str, object]:
    """What `mixed` reports about `rows` rows of about `width` characters of text."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write(Path(folder), rows, width)
        context = multiprocessing.get_context("spawn")
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=mixed, args=(paths, rows, send))
        process.start()
        send.close()
        found: dict[str, object] = receive.recv()
        process.join()
        return {**found, "file_bytes": sum(path.stat().st_size for path in paths)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Mix rows that lie in files, and measure memory and time.")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--width", type=int, default=500)
    options = parser.parse_args()
    print(json.dumps(measure(options.rows, options.width), indent=2))


if __name__ == "__main__":
    main()
