"""A training step that is interrupted ends where an unbroken one ends, bit for bit on a CPU."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data.artifact import ROWS_NAME, Artifact, Kind
from data.records import write_rows
from data.tiny.world import rows
from stages.cold_start import COLD_START, ColdStartConfig
from stages.preference_model import PREFERENCE_MODEL, PreferenceModelConfig
from stages.reasoning_rl import REASONING_RL, ReasoningRLConfig
from stages.safety_model import SAFETY_MODEL, SafetyModelConfig
from stages.stage import Context, Placement
from stages.training.curriculum import CurriculumConfig
from stages.training.dynamic_sampling import DynamicSampling
from stages.training.kl import KLTier

BASE = Artifact(kind=Kind.MODEL, path=Path("data/tiny/base"), fingerprint="base", name="base")
INTERRUPTED_AT = 5


class Interrupted(Exception):
    """Stands for the kill."""


def dataset(folder: Path, split: str, count: int) -> Artifact:
    folder.mkdir()
    write_rows(folder / ROWS_NAME, rows(split, count))
    return Artifact(kind=Kind.DATASET, path=folder, fingerprint=split, name=split)


def run(stage, config, data, folder, steps=2):
    out = folder / "out"
    out.mkdir(parents=True)
    (folder / "work").mkdir(exist_ok=True)
    placement = Placement(threads=1, reward_workers=1, checkpoint_steps=steps)
    context = Context(
        seed=3, convention="think_answer", work=folder / "work", name="step", sandbox="weak", placement=placement
    )
    outcome = stage.run(config, {"init": [BASE], "data": [data]}, out, context)
    return load_file(out / "model.safetensors"), outcome


CASES = [
    (
        COLD_START,
        ColdStartConfig(learning_rate=1e-3, epochs=1, batch_size=8, dropout=0.1),
        ("cold_start", 64),
    ),
    (
        REASONING_RL,
        ReasoningRLConfig(
            learning_rate=1e-4,
            steps=8,
            prompts_per_step=4,
            max_completion_tokens=24,
            beta=0.01,
            reference_reset_steps=3,
            curriculum=CurriculumConfig(unlock=0.01, memory=0.5),
            kl_tiers=(KLTier(domains=("math",), beta=0.02, target=1e-3, gain=1.0),),
            dynamic_sampling=DynamicSampling(max_rounds=2),
            trl={"top_k": 200},
            rewards=(
                {"name": "correctness", "weight": 0.5},
                {"name": "format", "weight": 0.3, "schedule": {2: 1, 7: 0}},
                {"name": "length", "weight": 0.2, "maximum": 8},
            ),
        ),
        ("rl", 40),
    ),
    (
        PREFERENCE_MODEL,
        PreferenceModelConfig(learning_rate=1e-3, batch_size=8, epochs=2),
        ("preference", 40),
    ),
    (
        SAFETY_MODEL,
        SafetyModelConfig(
            learning_rate=1e-3, batch_size=8, epochs=2, dropout=0.1, held_out=0.3, safe_domains=("general",)
        ),
        ("preference", 60),
    ),
]


def figures(folder):
    """Every logged figure but how long things took, and a counter that TRL starts again."""
    lines = (folder / "work" / "history.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in ("step_time", "num_tokens")} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "config", "split"), CASES, ids=[case[0].name for case in CASES])
def test_interrupted_training_ends_where_an_unbroken_run_ends(tmp_path, monkeypatch, capsys, stage, config, split):
    from stages.training.progress import History

    data = dataset(tmp_path / "data", *split)
    unbroken, whole = run(stage, config, data, tmp_path / "unbroken")

    log = History.on_log

    def interrupt(self, args, state, control, logs=None, **kwargs):
        log(self, args, state, control, logs, **kwargs)
        if state.global_step == INTERRUPTED_AT:
            raise Interrupted

    monkeypatch.setattr(History, "on_log", interrupt)
    with pytest.raises(Interrupted):
        run(stage, config, data, tmp_path / "broken")
    monkeypatch.setattr(History, "on_log", log)
    (tmp_path / "broken" / "out").rmdir()
    torch.rand(7)  # the state of the global generator must not matter
    resumed, outcome = run(stage, config, data, tmp_path / "broken")
    assert unbroken.keys() == resumed.keys()
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    assert outcome.counts == whole.counts
    assert outcome.metrics == whole.metrics
    logged = figures(tmp_path / "unbroken")
    assert figures(tmp_path / "broken") == logged
    if stage is REASONING_RL:  # everything that has a state was at work
        rounds = [line["dynamic_sampling/rounds"] for line in logged if "reward" in line]
        assert max(rounds[:INTERRUPTED_AT]) > 0 < max(rounds[INTERRUPTED_AT:])
        assert len({line["kl_tiers/math/beta"] for line in logged if "reward" in line}) > 4
        assert logged[0]["curriculum/open_tiers"] == 2
        assert capsys.readouterr().err.count("step: warning: top_k = 200 truncates what is sampled") == 3


@pytest.mark.slow
def test_a_half_written_checkpoint_is_not_resumed_from(tmp_path):
    from stages.training.resume import COMPLETE, last_checkpoint

    assert last_checkpoint(tmp_path) is None
    for step in (2, 4, 10):
        (tmp_path / "trainer" / f"checkpoint-{step}").mkdir(parents=True)
    for step in (2, 4):
        (tmp_path / "trainer" / f"checkpoint-{step}" / COMPLETE).touch()
    assert last_checkpoint(tmp_path) == str(tmp_path / "trainer" / "checkpoint-4")
    assert not (tmp_path / "trainer" / "checkpoint-10").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "config", "split"), CASES, ids=[case[0].name for case in CASES])
def test_a_kill_after_the_last_step_makes_no_step_more(tmp_path, monkeypatch, stage, config, split):
    """By itself the trainer would look after one more step, and take it where the rows are not used up."""
    from stages.training import models

    data = dataset(tmp_path / "data", *split)
    unbroken, whole = run(stage, config, data, tmp_path / "unbroken")

    def killed(*_):
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(models, "save_trained", killed)
        with pytest.raises(Interrupted):
            run(stage, config, data, tmp_path / "broken")
    (tmp_path / "broken" / "out").rmdir()
    resumed, outcome = run(stage, config, data, tmp_path / "broken")
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    assert (outcome.counts, outcome.metrics) == (whole.counts, whole.metrics)
    assert figures(tmp_path / "broken") == figures(tmp_path / "unbroken")
