"""`slurm:` of a configuration: what it takes, which of three places wins, and the line for every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load
from pipeline.site import Site, read_site
from tests.toy_project import plan_of, project


def test_a_flag_beats_the_file_and_the_file_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("partition: b\naccount: b\nsetup: [module load cuda]\n")
    site = Site(partition="a", account="a", qos="a")
    found = read_site(site, file, {"partition": "c", "time": None})
    assert (found.partition, found.account, found.qos, found.setup) == ("c", "b", "a", ("module load cuda",))


def test_a_step_may_have_values_of_its_own() -> None:
    site = Site(partition="a", time="1:00:00", steps={"x": {"time": "2-00:00:00"}})
    assert (site.of("x").partition, site.of("x").time, site.of("y").time) == ("a", "2-00:00:00", "1:00:00")


@pytest.mark.parametrize("time", ["90", "90:00", "24:00:00", "2-0", "2-00:30:00"])
def test_limits_as_sbatch_takes_them(time: str) -> None:
    assert Site(time=time).time == time


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("slurm.time=12:00:00", "slurm.time: expected a text in quotes such as '12:00:00' or '2-00:00:00', got 43200"),
        ("slurm.time=soon", "slurm.time: expected a text in quotes such as"),
        ("slurm.partition=a b", "slurm.partition: expected one word without spaces, got 'a b'"),
        ("slurm.partition=''", "slurm.partition: expected one word without spaces, got ''"),
        ("slurm.options=['--a b']", "slurm.options: expected one word without spaces, got '--a b'"),
        ('slurm.setup=["a\\nb"]', "slurm.setup: expected one line of shell an entry, got 'a\\nb'"),
        ("slurm.acount=a", "slurm: unknown key 'acount'; did you mean 'account'?"),
        ("slurm.vllm_nodes=-1", "slurm.vllm_nodes: input should be greater than or equal to 0, got -1"),
    ],
)
def test_a_wrong_value_is_one_line(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        load(project(tmp_path), [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"secnd": {}}, "slurm.steps.secnd: unknown step; did you mean 'second'?"),
        ({"second": {"tme": "1"}}, "slurm.steps.second: unknown key 'tme'; did you mean 'time'?"),
        ({"second": {"steps": {}}}, "slurm.steps.second.steps: a step has no steps of its own"),
    ],
)
def test_a_wrong_step_is_one_line(steps: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        Site(steps=steps).check(["first", "second"])
    assert str(error.value) == message


def test_a_wrong_file_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("partion: a\n")
    with pytest.raises(ValueError, match=f"^{file}: unknown key 'partion'; did you mean 'partition'"):
        read_site(Site(), file, {})
    with pytest.raises(ValueError, match=r"^r1 launch: gpus_per_node: .* got -1"):
        read_site(Site(), None, {"gpus_per_node": -1})


def test_a_cluster_is_no_part_of_an_identity(tmp_path: Path) -> None:
    file = project(tmp_path)
    assert [n.identity() for n in plan_of(file, "slurm.partition=a")] == [n.identity() for n in plan_of(file)]
