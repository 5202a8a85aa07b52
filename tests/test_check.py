"""`r1 check`: a sound configuration passes and runs; each way to be wrong is one line that says what to do."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from data.artifact import Kind
from pipeline import check_launch, check_rewards, cli, hub, machine
from pipeline.check import CHECKS, Check, _lines
from pipeline.check_findings import Level
from pipeline.check_subject import Subject
from pipeline.config import load
from pipeline.graph import build
from pipeline.machine import Gpu
from pipeline.preflight import preflight
from stages import STAGES
from stages.stage import Input
from tests.chains import ROOT, run
from tests.check_faults import CASES, SAMPLING, TESTS, both, cold, judged, more, program, rl, rows, top, user, wrote
from tests.check_world import World, chain, problem
from tests.doc_pages import table_rows

NO_TEACHER = {
    "name": "small", "stage": "distillation", "init_from": "base", "data_from": "chains", "max_length": 256,
}  # fmt: skip
GIB = 2**30


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A sound one; functions of the user's are forgotten behind it."""
    known = set(sys.modules)
    yield World(tmp_path)
    for name in set(sys.modules) - known:
        if name.startswith("user_reward_"):
            del sys.modules[name]


def told(world: World, level: Level = Level.FAIL, **options: Any) -> list[str]:
    """The lines of a level, as "check: detail"."""
    lines = world.check(**options)
    found = [f"{line.name}: {line.detail}" for line in lines if line.level is level]
    return [text.replace(str(world.folder), "FOLDER") for text in found]


def test_a_sound_configuration_passes_every_check(world: World) -> None:
    lines = world.check()
    assert [line.name for line in lines] == ["config", *(entry.name for entry in CHECKS)]
    assert {line.level for line in lines} == {Level.OK}, "\n".join(map(str, lines))
    by_name = {line.name: line.detail for line in lines}
    assert by_name["labels"] == (
        "steps.cold_start: of row 'c0' the first 17 tokens are not learned, then 22 are, from '<think>\\n0 and' to "
        "'0\\n</answer><|im_end|>'; the last label is EOS"
    )
    assert by_name["limits"] == "steps.rl up to 17 + 64 tokens"
    assert not (world.folder / "run").exists(), "a check writes nothing"


@pytest.mark.parametrize("wrong", CASES)
def test_what_is_wrong_is_one_line(world: World, wrong: str) -> None:
    fault, line = CASES[wrong]
    fault(world)
    assert told(world) == [line]


def test_every_check_can_fail() -> None:
    here = {"versions", "sandbox", "disk", "memory"}  # by what the machine lacks: below
    failing = {line.partition(":")[0] for _, line in CASES.values()} | here
    assert failing == {"config", *(entry.name for entry in CHECKS)}
    assert len(CASES) > 60


def test_a_check_that_saw_less_says_so(world: World) -> None:
    rows("problems", "{")(world)
    assert "domains: no mix of domains (not seen: problems)" in told(world, Level.WARN)
    lines = {line.name: line for line in world.check()}
    assert lines["tokenizers"].level is Level.OK


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (
            judged(),
            "verdicts: steps.judged: the run will wait for verdicts there: there is none in FOLDER/said.jsonl yet",
        ),
        (
            rows("chains", *[chain(n) for n in range(5)], chain(5, "zh")),
            "convention: steps.cold_start.data_from: 1 of 6 completions do not follow the convention 'think_answer', "
            "the first is row 'c5'; it follows 'zh'",
        ),
        (
            both(rows("chains", chain(1), chain(2, prompt=chain(2)["prompt"] * 3)), cold(max_length=50)),
            "lengths: steps.cold_start.max_length: 1 of 2 rows (50%) are longer than 50 tokens and left out, the first "
            "is 'c2'; the longest has 67",
        ),
        (
            rows("problems", *[problem(n) for n in range(5)], problem(9, answer=None)),
            "golds: steps.rl.data_from: of 6 rows, unusable: neither answer nor tests: 1",
        ),
        (
            rl(max_completion_tokens=1010),
            "limits: steps.rl.max_completion_tokens: 6 of 6 prompts and 1010 tokens exceed the 1024 positions of "
            "models.base",
        ),
        (
            rl(rewards=[{"name": "correctness"}, {"name": "length"}]),
            "rewards: steps.rl: rewards: 'length' pays 1 for an empty completion; hold it back with a gate, as in "
            "gate: correctness",
        ),
        (
            rl(top_p=0.95),
            "engines: steps.rl: top_p = 0.95 truncates what is sampled, while the trainer's log-probabilities are of "
            "the whole distribution; reinforcement learning wants top_p: 1 and no top_k",
        ),
        (
            top(launch={"mixed_precision": "fp16"}),
            "launch: launch.mixed_precision: fp16 needs a GPU, and none is seen here",
        ),
        (
            top(data={"chains": {"source": "prompt_completion", "path": "chains.jsonl"}, "problems": {
                "source": "prompt_answer", "path": "problems.jsonl"}}),
            "data: data.problems: before 4 rows could be used: unusable: no answer: 1",
        ),
    ],
)  # fmt: skip
def test_what_a_run_survives_is_a_warning(world: World, monkeypatch: pytest.MonkeyPatch, fault: Any, line: str) -> None:
    monkeypatch.setattr(machine, "gpus", tuple)
    fault(world)
    if "prompt_answer" in str(world.tree["data"]):
        flat = [{"prompt": f"{n} + 1", "answer": str(n + 1)} for n in range(4)]
        world.rows("problems", [*flat, {"prompt": "none", "answer": None}])
        done = chain(1)["completion"][0]["content"]
        world.rows("chains", [{"prompt": f"{n} and 1?", "completion": done} for n in range(4)])
    assert line in told(world, Level.WARN)
    assert not told(world)


@pytest.mark.parametrize(
    "fault",
    [
        user("return [None] * len(completions)"),
        more(NO_TEACHER),
        more(SAMPLING),
        top(launch={"zero": 3}),
        top(launch={"accelerate_config": "zero2"}),
    ],
)
def test_what_is_unusual_and_right_passes(world: World, fault: Any) -> None:
    fault(world)
    assert not told(world) + told(world, Level.WARN)


def test_programs_are_run_where_their_solution_is_known(world: World) -> None:
    program("def f(x):\n    return 2 * x")(world)
    lines = {line.name: line for line in world.check()}
    assert lines["solutions"].detail == "2 reference programs pass their tests"
    assert lines["sandbox"].detail == "weak holds what it promises: programs share this machine's process table"
    assert lines["rewards"].level is Level.OK


def test_distillation_without_a_teacher_scores_nothing_and_may_run(world: World) -> None:
    more(NO_TEACHER)(world)
    world.check()
    config = load(world.file)
    preflight(config, build(config, STAGES, world.file))


def test_a_sandbox_that_cannot_be_had(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    both(rows("problems", *[problem(n, answer=None, tests=TESTS) for n in range(4)]), top(sandbox="bubblewrap"))(world)
    assert told(world) == [
        "sandbox: sandbox: bubblewrap is not installed; run `apt-get install bubblewrap` (or your system's "
        "equivalent), or choose `sandbox: weak` and accept that programs are isolated less; see docs/sandbox.md"
    ]


def test_a_reward_that_hangs_is_left_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_rewards, "SECONDS", 0.3)
    body = "import time; time.sleep(1.5 * any('9^9' in c[0]['content'] for c in completions)); return [1.0] * len("
    user(body + "completions)")(world)
    assert told(world) == ["rewards: steps.rl: rewards: 'mine' did not end within 0.3 s on a tower of powers"]


def test_disk_and_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    here = str(world.folder / "run").replace(str(world.folder), "FOLDER")
    full = SimpleNamespace(total=GIB, used=GIB, free=20 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: full)
    monkeypatch.setattr(machine, "memory", lambda: (2 << 20, 4 << 20))
    assert told(world) == [
        f"disk: 28.0 MiB needed, 20.0 MiB free at {here}; choose another place with --run-dir, or delete what is there",
        "memory: steps.cold_start needs 14.0 MiB before activations, on 2.0 MiB of available memory; use lora, "
        "launch.zero: 3, or a smaller model",
        "memory: steps.rl needs 17.5 MiB before activations, on 2.0 MiB of available memory; use lora, "
        "launch.zero: 3, or a smaller model",
    ]
    full.free = 30 << 20
    assert told(world, Level.WARN) == [f"disk: 28.0 MiB needed, 30.0 MiB free at {here}: it will be tight"]
    made = world.folder / "run" / "artifacts" / "cold_start-0123456789ab"
    made.mkdir(parents=True)
    (made / "model.safetensors").write_bytes(b"0" * (5 << 20))
    assert told(world, Level.WARN) == [], "what is there already is not needed again"


def test_versions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = machine.installed
    other = {"trl": "0.9.1", "peft": None, "deepspeed": None}
    monkeypatch.setattr(machine, "installed", lambda name: other[name] if name in other else real(name))
    both(wrote("zero.json", '{"zero_optimization": {"stage": 2}}'), top(launch={"deepspeed": "zero.json"}))(world)
    assert told(world) == [
        "versions: trl 0.9.1 is installed, <1.17,>=1.16 is needed; pip install 'trl<1.17,>=1.16'",
        "versions: peft is not installed; pip install 'peft>=0.19'",
        "versions: deepspeed is not installed; pip install 'r1-pipeline[deepspeed]'",
        "launch: launch.deepspeed: deepspeed is not installed; pip install 'r1-pipeline[deepspeed]'",
    ]


def test_gpus(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: (Gpu("Tesla T4", 10 << 20, 7.5),) * 2)
    both(top(launch={"processes": 4, "mixed_precision": "bf16"}))(world)
    assert told(world) == [
        "launch: launch.processes is 4, and this machine has 2 GPUs",
        "memory: steps.cold_start needs 14.0 MiB before activations, on a GPU of 10.0 MiB; use lora, "
        "launch.zero: 3, or a smaller model",
        "memory: steps.rl needs 17.5 MiB before activations, on a GPU of 10.0 MiB; use lora, "
        "launch.zero: 3, or a smaller model",
    ]


def test_models_that_must_share_a_tokenizer(world: World) -> None:
    """Both descend from given models; what counts is the vocabulary of those."""
    stage = STAGES["distillation"]
    needs = {**stage.needs, "teacher": Input(kind=Kind.MODEL, optional=True, same_tokenizer=True)}
    table = {**STAGES, "distillation": replace(stage, needs=needs)}
    CASES["student's tokenizer loses text"][0](world)
    world.rows("chains", [chain(n) for n in range(4)])
    world.tree["steps"][-1] |= {"teacher_from": "rl", "prompts_from": "problems"}
    assert "contracts: steps.small: teacher (rl) and init (student) disagree on tokenizer, eos, pad" in told(
        world, table=table
    )


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """Says that it is well while `status` is 200."""

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" and self.server.well else 503)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    made = HTTPServer(("127.0.0.1", 0), Health)
    made.well = True
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def test_a_server_is_asked_for_its_health(world: World, server: Any) -> None:
    url = f"http://127.0.0.1:{server.server_port}"
    more(SAMPLING, engine="vllm_server", engine_options={"urls": [url + "/"]})(world)
    assert not told(world)
    server.well = False
    line = f"engines: steps.keep.engine_options.urls: {url}/ does not answer /health within 2 s (HTTP 503)"
    assert told(world) == [line]


def test_an_address_without_a_host_is_left_to_the_reward() -> None:
    assert check_launch._closed("nonsense") is None


def test_a_hub_that_cannot_be_reached_is_not_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # it reads the environment once, at import
    world.tree["models"]["base"] = {"hub": "org/model", "revision": "a" * 40, "evaluate": False}
    (line,) = told(world)
    assert line.startswith("models: models.base.hub: org/model cannot be fetched: ")
    assert hub.os.environ["HF_HUB_OFFLINE"] == "1"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert not hub.reachable("https://:x")


def test_a_check_that_breaks_is_a_failure(world: World) -> None:
    world.check()
    config = load(world.file)

    def broken(subject: Subject) -> Any:
        raise KeyError(subject.config.name)

    subject = Subject(config, build(config, STAGES, world.file), world.folder)
    (line,) = _lines(Check("mine", (), broken), subject)
    assert str(line) == "FAIL  mine          the check itself broke: KeyError: 'world'"


def test_the_command(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.check()
    place = ["--run-dir", str(world.folder / "run")]
    assert cli.main(["check", str(world.file), *place], STAGES) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"ok    config        {world.file}: 2 steps, 4 with data and evaluations\n")
    assert cli.main(["check", str(world.file), "--set", "steps.rl.prompts_per_step=7", *place], STAGES) == 2
    out = capsys.readouterr().out
    assert "FAIL  prompts       steps.rl.prompts_per_step is 7, but there are only 6 prompts\n" in out
    assert cli.main(["check", str(world.folder / "gone.yaml")], STAGES) == 2
    assert capsys.readouterr().out == (
        f"FAIL  config        {world.folder}/gone.yaml: cannot be read: No such file or directory\n"
    )


@pytest.mark.slow
def test_a_configuration_of_the_embedded_world_that_passes_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every stage, on few rows and steps."""
    from tests.test_chain import SMALL

    steps = {step["name"]: step for step in SMALL["steps"]}
    fewer = [
        {**steps["reasoning_rl"], "steps": 2},
        {**steps["general_rl"], "steps": 2},
        {"name": "distillation", "epochs": 0.5},
    ]
    tree = {**SMALL, "extends": str(ROOT / "configs" / "tiny.yaml"), "name": "passes"}
    tree["steps"] = [steps["sft_mix"], *fewer]
    tree["evaluate"] = {"max_tokens": 48, "rows": 8}
    file = tmp_path / "passes.yaml"
    file.write_text(yaml.safe_dump(tree))
    assert cli.main(["check", str(file), "--run-dir", str(tmp_path / "run")], STAGES) == 0
    assert "FAIL" not in capsys.readouterr().out
    summary, _ = run(file, tmp_path / "run")
    assert {entry["status"] for entry in summary["steps"]} <= {"done", "reused"}


def test_the_page_tells_every_check() -> None:
    told_of = table_rows((ROOT / "docs" / "check.md").read_text(encoding="utf-8"))
    assert {"config", *(entry.name for entry in CHECKS)} == set(told_of)
