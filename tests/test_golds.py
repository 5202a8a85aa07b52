"""Rows whose own solution fails their tests are named when the data are prepared, and train nothing."""

from __future__ import annotations

from pipeline.golds import CHUNK, proved


def row(name, solution, **more):
    tests = {"kind": "function", "entry_point": "f", "asserts": ["assert f(2) == 4"]}
    return {"id": name, "prompt": [], "tests": tests, "solution": solution, **more}


def test_only_rows_whose_solution_passes_are_kept_and_the_rest_are_named():
    rows = [
        row("right", "def f(x): return 2 * x"),
        row("wrong", "def f(x): return x"),
        row("broken", "def f(x) return x"),
        row("no solution", None),
        {"id": "no tests", "prompt": [], "solution": "x"},
        *(row(f"more {i}", "def f(x): return x + x") for i in range(CHUNK)),
    ]
    counts = {"used": len(rows)}
    kept = [r["id"] for r in proved(iter(rows), "weak", counts)]
    assert kept == ["right", "no solution", "no tests", *(f"more {i}" for i in range(CHUNK))]
    assert counts.pop("used") == len(rows) - 2
    assert counts == {
        "unusable: wrong: its own solution does not pass its tests (wrong)": 1,
        "unusable: broken: its own solution does not pass its tests (exception)": 1,
    }


def test_rows_without_programs_start_no_sandbox():
    rows = [{"id": "a", "prompt": [], "answer": "4"}]
    assert list(proved(iter(rows), "no such mode", {"used": 1})) == rows
