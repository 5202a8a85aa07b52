"""vLLM servers of `r1 launch`: which steps want some, where their urls are filled in, and that urls are placement."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import RunConfig, load
from pipeline.graph import build
from pipeline.jobs import Job, plan_jobs
from pipeline.servers import TO_FILL, with_places, without_servers
from pipeline.site import Site
from pipeline.slurm import Places, step_file
from pipeline.step import Node
from stages import STAGES
from stages.rollout import engine
from stages.rollout.options import SamplingConfig
from tests.chains import ROOT
from tests.toy_project import project
from tests.toy_stages import TOY

TINY = ROOT / "configs" / "tiny.yaml"
SERVER = "engine=vllm_server"


def read(*overrides: str) -> tuple[RunConfig, tuple[Node, ...]]:
    config = with_places(load(TINY, overrides))
    return config, build(config, STAGES, TINY)


def jobs(tmp_path: Path, *overrides: str) -> dict[str, Job]:
    return {job.step: job for job in plan_jobs(*read(*overrides), tmp_path / "run")}


def test_a_step_is_served_what_an_earlier_step_will_make(tmp_path: Path) -> None:
    found = jobs(tmp_path, f"steps.rejection_sampling.{SERVER}")["rejection_sampling"].server
    assert found is not None
    assert found.key == "steps.rejection_sampling.engine_options"
    assert found.checkpoint.parent == tmp_path / "run" / "artifacts"
    assert found.checkpoint.name.startswith("reasoning_rl-")


def test_a_teacher_is_served_to_its_student(tmp_path: Path) -> None:
    found = jobs(tmp_path, f"steps.distillation.teacher.{SERVER}")["distillation"].server
    assert found is not None
    assert found.key == "steps.distillation.teacher.engine_options"
    assert found.checkpoint.name.startswith("general_rl-")


def test_evaluations_with_servers_are_jobs_of_their_own(tmp_path: Path) -> None:
    own = 'steps.cold_start.evaluate={"engine_options": {"concurrency": 2}}'
    found = jobs(tmp_path, f"evaluate.{SERVER}", "evaluate.preference_from=null", own)
    keys = {name: job.server.key for name, job in found.items() if job.server}
    assert keys["evaluate.base"] == keys["evaluate.general_rl"] == "evaluate.engine_options"
    assert keys["evaluate.cold_start"] == "steps.cold_start.evaluate.engine_options"
    assert not found["cold_start"].evaluates
    assert found["preference_model"].evaluates
    served = found["evaluate.base"].server
    assert served is not None
    assert served.checkpoint == ROOT / "data" / "tiny" / "base"


def test_an_evaluation_that_reads_a_later_step_is_a_job_of_its_own(tmp_path: Path) -> None:
    found = list(jobs(tmp_path))
    assert found.index("evaluate.cold_start") > found.index("preference_model")
    assert "evaluate.distillation" not in found, "it can run where the student is trained"
    assert "evaluate.cold_start" not in jobs(tmp_path, "evaluate.preference_from=null")


def test_urls_that_are_given_stay(tmp_path: Path) -> None:
    step = "steps.rejection_sampling"
    config, nodes = read(f"{step}.{SERVER}", f"{step}.engine_options.urls=[http://mine:1]")
    [found] = [node for node in nodes if node.name == "rejection_sampling"]
    assert found.config.model_dump()["engine_options"]["urls"] == ["http://mine:1"]
    assert all(job.server is None for job in plan_jobs(config, nodes, tmp_path))


@pytest.mark.parametrize("place", ["steps.rejection_sampling", "steps.distillation.teacher", "evaluate"])
def test_where_servers_are_is_no_part_of_an_identity(place: str) -> None:
    def identities(*urls: str) -> list[Any]:
        _, nodes = read(f"{place}.{SERVER}", *[f"{place}.engine_options.urls={list(urls)}"] * bool(urls))
        return [node.identity() for node in nodes]

    filled = identities()
    assert filled == identities("launch") == identities("http://a:1", "http://b:2")
    assert filled != [node.identity() for node in read()[1]]


def test_only_places_are_left_out() -> None:
    options = {"urls": ["u"], "model": "m", "timeout": 3}
    tree = {
        "engine": "vllm_server",
        "engine_options": options,
        "teacher": {"engine": "vllm", "engine_options": options},
    }
    assert without_servers(tree) == {
        "engine": "vllm_server",
        "engine_options": {"timeout": 3},
        "teacher": {"engine": "vllm", "engine_options": options},
    }


def test_a_resolved_configuration_says_that_urls_are_missing(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"extends": str(TINY), "evaluate": {"engine": "vllm_server"}}))
    with pytest.raises(ValueError, match="needs urls"):
        build(load(file), STAGES, file)
    assert build(load(file, ["evaluate.engine_options.urls=[launch]"]), STAGES, file)
    filled = with_places(load(file))
    assert filled.evaluate
    assert filled.evaluate["engine_options"]["urls"] == [TO_FILL]


class Trains(SamplingConfig):
    """Of a stage that samples from what it trains."""


@pytest.mark.parametrize("way", ["disk", "nccl"])
def test_servers_of_a_step_that_trains_take_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setitem(engine.OPTIONS, "vllm_server", ("urls", "model", "weight_sync"))  # type: ignore[index]
    file = project(tmp_path)
    table = {**TOY, "toy_train": replace(TOY["toy_train"], config=Trains)}
    config = with_places(load(file, [f"steps.first.{SERVER}", f"steps.first.engine_options.weight_sync={way}"]))
    [found] = [job for job in plan_jobs(config, build(config, table, file), tmp_path / "run") if job.step == "first"]
    assert found.server is not None
    assert found.server.follows == way
    places = Places(name="toy", source=file, config=file, run_dir=tmp_path, logs=tmp_path)
    text = step_file(found, Site(), places)
    assert f"\nVLLM_SERVER_DEV_MODE=1 serve 1 1 {tmp_path}/model" in text
    assert ("""--weight-transfer-config '{"backend": "nccl"}'\n""" in text) == (way == "nccl")


def test_gpus_that_an_engine_in_the_step_takes(tmp_path: Path) -> None:
    step = "steps.rejection_sampling"
    found = jobs(tmp_path, f"{step}.engine=vllm", f"{step}.engine_options.tensor_parallel_size=4", "launch.processes=2")
    assert (found["rejection_sampling"].devices, found["sft_mix"].devices) == (4, 2)
