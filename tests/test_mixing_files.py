"""Mixtures out of files: the stream of the mixture in memory, at a few dozen bytes a row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.mixing import Phase, mix_phases
from data.mixing_files import RowFiles, mix_files

SIZES = {"medicine": 60, "finance": 45, "math": 30}


def written(folder: Path, sizes: dict[str, int] = SIZES, text: str = "药") -> tuple[list[Path], list[dict[str, Any]]]:
    """A file of each domain, and its rows in the order of the files."""
    paths, rows = [], []
    for domain, size in sizes.items():
        own = [
            {
                "id": f"{domain}-{n}",
                "domain": domain,
                "language": "zh",
                "tokens": 1 + 7 * n % 13,
                "prompt": [{"role": "user", "content": f"{text * (n % 5)}{n}"}],
            }
            for n in range(size)
        ]
        paths.append(folder / f"{domain}.jsonl")
        paths[-1].write_text(" \r\n\n".join(json.dumps(r, ensure_ascii=False) for r in own) + "\n", encoding="utf-8")
        rows += own
    return paths, rows


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 60), st.integers(1, 40), st.integers(0, 5), st.sampled_from(["rows", "tokens"]), st.integers(0, 30)
)
def test_files_give_the_stream_of_the_rows_in_memory(
    tmp_path_factory: pytest.TempPathFactory, first: int, second: int, seed: int, by: Any, start: int
) -> None:
    paths, rows = written(tmp_path_factory.mktemp("rows"))
    phases = [
        Phase(name="a", weights={"medicine": 2, "finance": 1, "math": 1}, count=first, by=by, reuse=True, repeat=True),
        Phase(name="b", weights={"finance": 3, "math": 0.1}, count=second, by=by, replay=0.25, reuse=True, repeat=True),
    ]
    keys: dict[str, Any] = {"length": lambda row: row["tokens"], "start": start}
    assert list(mix_files(paths, phases, seed, **keys)) == list(mix_phases(rows, phases, seed, **keys))


def test_a_million_rows_would_take_tens_of_bytes_each(tmp_path: Path) -> None:
    paths, _ = written(tmp_path, {"medicine": 2000, "finance": 1000}, text="x" * 300)
    phase = Phase(name="all", weights={"medicine": 2, "finance": 1}, count=3000)
    tracemalloc.start()
    stream = mix_files(paths, [phase], 0)
    tally = Counter(row["domain"] for _, row in stream)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert tally == {"medicine": 2000, "finance": 1000}
    assert peak < 100 * 3000 + 300_000, peak


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "medicine.jsonl:3: not JSON"),
        ('{"id": "x"}', "medicine.jsonl:3: the column 'prompt' is missing"),
    ],
)
def test_a_malformed_row_is_named_before_anything_is_drawn(tmp_path: Path, line: str, told: str) -> None:
    paths, _ = written(tmp_path, {"medicine": 1})
    paths[0].write_text(paths[0].read_text() + "\n" + line + "\n")
    with pytest.raises(ValueError, match=told):
        mix_files(paths, [Phase(name="a", weights={"medicine": 1})], 0)


def test_a_row_without_its_column_or_length_is_refused(tmp_path: Path) -> None:
    paths, _ = written(tmp_path, {"medicine": 2})
    with pytest.raises(ValueError, match="has no column 'source'"):
        RowFiles(paths, "source", None)
    phase = Phase(name="a", weights={"medicine": 1}, by="tokens", count=3)
    with pytest.raises(ValueError, match="has a length of 0 tokens"):
        mix_files(paths, [phase], 0, length=lambda row: -1)


def test_the_benchmark_measures_what_it_says() -> None:
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "benchmarks/mixing.py", "--rows", "1000", "--width", "100"]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["drawn"] == 750
    assert found["by_phase_and_domain"]["first medicine"] == 250
    assert found["file_bytes"] > 100_000


def test_a_thousand_files_are_not_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.mixing_files.OPEN_FILES", 3)
    paths, rows = written(tmp_path, {f"d{n}": 4 for n in range(12)})
    phases = [Phase(name="a", weights={f"d{n}": 1 for n in range(12)})]
    stream, most, seen = mix_files(paths, phases, 0), 0, []
    for item in stream:
        seen.append(item)
        held = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        most = max(most, sum(str(tmp_path) in name for name in held))
    assert seen == list(mix_phases(rows, phases, 0))
    assert most == 3
    assert not any(str(tmp_path) in os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd"))


def test_more_files_than_can_be_numbered_are_refused() -> None:
    with pytest.raises(ValueError, match="65536 files, at most 65535 are mixed"):
        mix_files([Path("rows.jsonl")] * 65536, [Phase(name="a", weights={"math": 1})], 0)
