"""The time of a step over several attempts."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from pipeline import attempts
from tests.test_runner import record_of
from tests.toy_project import one, project, toy_run


def test_a_killed_attempt_lasted_until_it_last_wrote(tmp_path: Path) -> None:
    assert attempts.begin(tmp_path) == 0
    began = json.loads((tmp_path / attempts.NAME).read_text())["began"]
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "checkpoint").touch()
    for file, seconds in (("trainer/checkpoint", 50), ("trainer", 20), (attempts.NAME, 0)):
        os.utime(tmp_path / file, (began + seconds, began + seconds))
    assert attempts.begin(tmp_path) == pytest.approx(50, abs=1e-3)
    again = json.loads((tmp_path / attempts.NAME).read_text())
    assert again["before"] == pytest.approx(50, abs=1e-3)
    attempts.end(tmp_path)
    shutil.rmtree(tmp_path / "trainer")
    os.utime(tmp_path / attempts.NAME, (again["began"] + 7, again["began"] + 7))
    assert attempts.begin(tmp_path) == pytest.approx(57, abs=1e-3), "attempts add up"


def test_a_clock_that_was_set_back_takes_no_time_away(tmp_path: Path) -> None:
    attempts.begin(tmp_path)
    os.utime(tmp_path / attempts.NAME, (1, 1))
    assert attempts.begin(tmp_path) == 0


def test_the_record_of_a_resumed_step_holds_the_time_of_both_attempts(tmp_path: Path) -> None:
    file = project(tmp_path)
    with pytest.raises(ValueError, match="told to fail"):
        toy_run(file, "steps.first.fail=value")
    work = one(list((tmp_path / "run" / "work").glob("first-*")))
    note = work / attempts.NAME
    note.write_text(json.dumps({"before": 1000.0, "began": note.stat().st_mtime}))
    with pytest.raises(ValueError, match="told to fail"):
        toy_run(file, "steps.first.fail=value")
    assert json.loads(note.read_text())["before"] >= 1000
    # The same step, allowed to finish: its fingerprint is that of the work directory.
    toy_run(file)
    resumed = tmp_path / "run" / "work" / f"first-{record_of(tmp_path / 'run', 'first')['fingerprint']}"
    assert not resumed.exists(), "nothing of it is left once the step is committed"
    resumed.mkdir()
    (resumed / attempts.NAME).write_text(json.dumps({"before": 1000.0, "began": 0.0}))
    os.utime(resumed / attempts.NAME, (500, 500))
    os.utime(resumed, (500, 500))
    final = one(list((tmp_path / "run" / "artifacts").glob("first-*")))
    shutil.rmtree(final)
    toy_run(file)
    assert record_of(tmp_path / "run", "first")["seconds"] >= 1500
