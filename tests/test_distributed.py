"""Several ranks end where one ends: data parallel, ZeRO-2, ZeRO-3, FSDP2, two machines; and what a dead rank does.

Every run is the command line's own, on CPUs over gloo. The reward is the share of digits in a completion, so that even
a model that solves nothing has something to learn.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.chains import artifact, command, environment
from tests.test_kill import running
from tests.two_machines import ADDRESSES, on_machine, two_machines

pytestmark = [pytest.mark.slow, pytest.mark.alone]

REWARD = '''
import os
import time
from pathlib import Path

from rewards.program import Program
from rewards.reward import Sample

TESTS = {"kind": "function", "entry_point": "add", "asserts": ["assert add(1, 2) == 3"]}
sandbox_works = None
calls = 0


def digits(prompts, completions, **columns):
    """The share of digits; nothing where the sandbox of this rank does not run a program."""
    global calls, sandbox_works
    calls += 1
    if os.environ.get("R1_TEST_HANG") == f"{os.environ.get('RANK')} {calls}":
        time.sleep(600)
    if sandbox_works is None:
        right = Sample(prompt="", completion="def add(a, b): return a + b", tests=TESTS, convention="none")
        sandbox_works = Program(sandbox="weak")(right) == 1.0
        children = " ".join(file.read_text() for file in Path("/proc/self/task").glob("*/children")).split()
        pool = [pid for pid in children if "rewards" in Path("/proc", pid, "cmdline").read_text()]
        Path(os.environ["R1_TEST_SEEN"], f"{os.getpid()} {len(pool)} {sandbox_works}").touch()
    texts = [completion[0]["content"] for completion in completions]
    return [sandbox_works * sum(c.isdigit() for c in text) / max(1, len(text)) for text in texts]
'''

STEPS = 6
TOLERANCE = 2e-3
"""Of figures that are summed in another order. TRL's `kl` and `entropy` are left out: means over micro-batches of means
over their tokens, they depend on how rows are cut into micro-batches; the loss, which the KL is part of, does not."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration with one SFT and one GRPO step, both from the embedded base."""
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "reward.py").write_text(REWARD)
    (folder / "seen").mkdir()
    base = Path("data/tiny/base").resolve()
    rl = {"stage": "reasoning_rl", "init_from": "base", "data_from": "problems", "learning_rate": 3e-4}
    rl |= {"steps": STEPS, "prompts_per_step": 4, "num_generations": 4, "max_completion_tokens": 16, "beta": 0.01}
    rl |= {
        "rewards": [{"path": "reward.py", "function": "digits", "weight": 1.0}, {"name": "correctness"}],
        "micro_batch_size": 4,
    }
    sft = {"stage": "cold_start", "init_from": "base", "data_from": "chains", "learning_rate": 1e-3}
    tree = {
        "sandbox": "weak",
        "models": {"base": {"path": str(base), "evaluate": False}},
        "data": {
            "chains": {"source": "tiny", "split": "cold_start", "rows": 8 * STEPS},
            "problems": {"source": "tiny", "split": "rl", "rows": 40},
        },
        "launch": {"threads": 1, "reward_workers": 1, "checkpoint_steps": 2, "timeout": 120},
        "steps": [{"name": "sft", **sft, "batch_size": 8, "epochs": 1, "micro_batch_size": 4}, {"name": "rl", **rl}],
    }
    (folder / "two.yaml").write_text(yaml.safe_dump(tree))
    return folder


STARTED: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def _nothing_is_left_running() -> Iterator[None]:
    yield
    for child in STARTED:
        child.kill()  # and its ranks die with it
        child.wait()
    STARTED.clear()


def start(project: Path, name: str, *arguments: str, hang: str = "", **launch: Any) -> subprocess.Popen[bytes]:
    """The run in a process of its own; what it prints goes to NAME.log beside the configuration.

    `hang` is "RANK CALL": that rank's reward does not come back from that call.
    """
    line = line_of(project, name, *arguments, **launch)
    with (project / f"{name}.log").open("ab") as log:
        child = subprocess.Popen(line, env={**env(project), "R1_TEST_HANG": hang}, stdout=log, stderr=log)
    STARTED.append(child)
    return child


def line_of(project: Path, name: str, *arguments: str, **launch: Any) -> list[str]:
    sets = [f"launch.{key}={value}" for key, value in launch.items()]
    return [*command(project / "two.yaml", project / name, *sets), *arguments]


def env(project: Path) -> dict[str, str]:
    return {**environment(), "R1_TEST_SEEN": str(project / "seen")}


def said(project: Path, name: str) -> str:
    return (project / f"{name}.log").read_text(encoding="utf-8", errors="replace")


def finish(project: Path, name: str, *arguments: str, **launch: Any) -> Path:
    """Run to the end; returns the run directory."""
    assert start(project, name, *arguments, **launch).wait(150) == 0, said(project, name)[-4000:]
    return project / name


def curve(run: Path, step: str, key: str) -> list[float]:
    lines = [json.loads(line) for line in (artifact(run, step) / "history.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def assert_same_curves(one: Path, other: Path, steps: Mapping[str, tuple[str, ...]]) -> None:
    for step, keys in steps.items():
        for key in keys:
            wanted, found = curve(one, step, key), curve(other, step, key)
            assert len(wanted) == STEPS
            assert found == pytest.approx(wanted, rel=TOLERANCE, abs=TOLERANCE / 20), (step, key)


def weights(run: Path, step: str = "rl") -> dict[str, torch.Tensor]:
    return load_file(artifact(run, step) / "model.safetensors")


RL = {"rl": ("loss", "reward", "grad_norm", "completions/mean_length")}
BOTH = {"sft": ("loss", "grad_norm"), **RL}


@pytest.fixture(scope="module")
def one(project: Path) -> Path:
    """What one process makes."""
    run = finish(project, "one")
    assert all(r > 0 for r in curve(run, "rl", "reward"))
    assert min(curve(run, "rl", "grad_norm")) > 1e-3, "there is something to learn"
    return run


@pytest.fixture(scope="module")
def zero3(project: Path, one: Path) -> Path:
    """What two ranks make with ZeRO-3."""
    return finish(project, "zero3", processes=2, zero=3)


def test_zero_3_on_two_ranks_reaches_the_curves_of_one(project: Path, one: Path, zero3: Path) -> None:
    assert_same_curves(one, zero3, BOTH)
    assert artifact(one, "rl").name == artifact(zero3, "rl").name, "placement is no part of an identity"
    alone, shared = weights(one), weights(zero3)
    assert alone.keys() == shared.keys()
    assert {tensor.dtype for tensor in shared.values()} == {torch.float32}, "the masters are saved"


def test_every_rank_has_a_pool_and_a_sandbox_of_its_own(project: Path, zero3: Path) -> None:
    seen = [file.name.split() for file in (project / "seen").iterdir()]
    assert len({pid for pid, *_ in seen}) >= 3, "one process alone, and each of two ranks"
    assert all(int(pool) >= 1 for _, pool, _ in seen), "workers below each"
    assert {works for *_, works in seen} == {"True"}


@pytest.fixture(scope="module")
def fsdp2(project: Path, one: Path) -> Path:
    """What two ranks make with FSDP2."""
    return finish(project, "fsdp2", "--only", "rl", processes=2, accelerate_config="fsdp2")


def test_zero_2_reaches_the_curves_of_one(project: Path, one: Path) -> None:
    run = finish(project, "zero2", "--only", "rl", processes=2, accelerate_config="zero2")
    assert_same_curves(one, run, RL)


def test_offload_reaches_the_curves_of_one(project: Path, one: Path) -> None:
    """With PyTorch's AdamW: DeepSpeed's own for CPUs, which the file of accelerate asks for, must be compiled first."""
    run = finish(project, "offload", "--only", "rl", processes=2, deepspeed="zero3_offload")
    assert_same_curves(one, run, RL)


def test_fsdp_2_reaches_the_curves_of_one(one: Path, fsdp2: Path) -> None:
    assert_same_curves(one, fsdp2, RL)
    alone, shared = weights(one), weights(fsdp2)
    assert alone.keys() == shared.keys()
    assert {tensor.dtype for tensor in shared.values()} == {torch.float32}


def test_two_machines_reach_the_curves_of_one_process(project: Path, one: Path) -> None:
    where = f"{ADDRESSES[0]}:29513"
    with two_machines() as names:
        machines = []
        for rank, name in enumerate(names):
            arguments = ("--only", "rl", "--machine-rank", str(rank), "--main-address", where)
            machines.append(
                on_machine(
                    name,
                    line_of(project, "machines", *arguments, processes=2, machines=2, zero=3),
                    project / f"machine{rank}.log",
                    env(project),
                )
            )
        STARTED.extend(machines)
        codes = [machine.wait(150) for machine in machines]
    assert codes == [0, 0], said(project, "machine0")[-3000:] + said(project, "machine1")[-3000:]
    assert_same_curves(one, project / "machines", RL)
    assert "machine 1: rl done" in said(project, "machine1")


def reached(run: Path, rank: int, optimiser_step: int, child: subprocess.Popen[bytes]) -> int:
    """Process id of a rank of `rl` once it has finished so many optimiser steps."""
    deadline = time.monotonic() + 120
    while True:
        assert child.poll() is None, "the run ended before"
        assert time.monotonic() < deadline
        for file in run.glob(f"work/rl-*/launch/rank-{rank}.json"):
            note = json.loads(file.read_text())
            if (note["optimiser_step"] or 0) >= optimiser_step:
                return int(note["pid"])
        time.sleep(0.01)


@pytest.mark.parametrize("way", ["zero3", "fsdp2"])
def test_a_killed_rank_ends_the_run_is_named_and_the_run_goes_on_where_it_stopped(
    project: Path, way: str, request: pytest.FixtureRequest
) -> None:
    whole = request.getfixturevalue(way)
    name, launch = f"killed-{way}", {"processes": 2, "accelerate_config": way}
    child = start(project, name, "--only", "rl", **launch)
    victim, sibling = (reached(project / name, rank, 3, child) for rank in (1, 0))
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    assert child.wait(60) == 1
    assert time.monotonic() - began < 45
    last = said(project, name).strip().splitlines()[-1]
    assert last.startswith("r1: rl failed: rank 1 of 2 died (signal 9, often for want of memory) after optimiser step ")
    assert "the others were stopped; run again to resume" in last
    assert not running(sibling)

    run = finish(project, name, "--only", "rl", **launch)
    record = json.loads((artifact(run, "rl") / "record.json").read_text())
    assert record["counts"]["optimiser_steps"] == STEPS
    assert said(project, name).count(f"| 0/{STEPS} [") == 1, "it went on from a checkpoint"
    unbroken, resumed = weights(whole), weights(run)
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    assert_same_curves(whole, run, RL)


def test_a_rank_that_hangs_ends_the_run_within_the_timeout_and_it_goes_on(project: Path, one: Path) -> None:
    """It lives, and its reward does not come back."""
    launch = {"processes": 2, "timeout": 8}
    child = start(project, "hung", "--only", "rl", hang="1 3", **launch)
    victim, sibling = (reached(project / "hung", rank, 2, child) for rank in (1, 0))
    began = time.monotonic()
    assert child.wait(60) == 1
    assert time.monotonic() - began < 8 + 30
    last = said(project, "hung").strip().splitlines()[-1]
    assert last.startswith("r1: rl failed: rank 1 of 2 did not answer for 8 s after optimiser step 2; the others ")
    assert not running(victim)
    assert not running(sibling)

    run = finish(project, "hung", "--only", "rl", **launch)
    assert said(project, "hung").count(f"| 0/{STEPS} [") == 1, "it went on from a checkpoint"
    assert_same_curves(one, run, RL)  # plain data parallelism


LORA = '{"rank": 4}'


@pytest.fixture(scope="module")
def adapted(project: Path) -> Path:
    """What one process makes with adapters."""
    return finish(project, "adapted", "--only", "rl", "--set", f"steps.rl.lora={LORA}")


@pytest.mark.parametrize("way", ["zero3", "fsdp2"])
def test_adapters_of_a_model_that_is_shared_out_are_merged_into_it(project: Path, adapted: Path, way: str) -> None:
    lora = ("--only", "rl", "--set", f"steps.rl.lora={LORA}")
    run = finish(project, f"adapted-{way}", *lora, processes=2, accelerate_config=way)
    assert_same_curves(adapted, run, RL)
    assert_same_weights(adapted, run, 1e-6)


def test_adapters_over_half_weights_on_one_process(project: Path, adapted: Path) -> None:
    """As the recipes for one GPU have it."""
    lora = ("--only", "rl", "--set", f"steps.rl.lora={LORA}")
    run = finish(project, "adapted-half", *lora, accelerate_config="zero2", mixed_precision="bf16")
    assert_same_weights(adapted, run, 2e-2)
    assert {tensor.dtype for tensor in weights(run).values()} == {torch.bfloat16}


def assert_same_weights(one: Path, other: Path, tolerance: float) -> None:
    wanted, found = weights(one), weights(other)
    assert wanted.keys() == found.keys()
    for name, tensor in wanted.items():
        assert torch.allclose(found[name].float(), tensor, atol=tolerance), name


def test_bf16_and_gradient_checkpointing_learn_the_same_within_their_precision(project: Path, one: Path) -> None:
    launch = {"processes": 2, "deepspeed": "zero3", "mixed_precision": "bf16", "gradient_checkpointing": "true"}
    run = finish(project, "bf16", "--only", "sft", **launch)
    wanted, found = (curve(r, "sft", "loss") for r in (one, run))
    assert found == pytest.approx(wanted, rel=0.1)
    assert not math.isclose(found[-1], wanted[-1], rel_tol=1e-6), "half precision was really used"
    assert {tensor.dtype for tensor in weights(run, "sft").values()} == {torch.bfloat16}, "DeepSpeed's copy is saved"
