"""Each sentry on a planted fault in a real trainer, and none of them on a healthy run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from pipeline import cli
from stages import STAGES
from stages.rollout.engine import Completion
from stages.rollout.transformers_engine import TransformersEngine
from stages.stage import Outcome
from tests.reinforcement import SMALL, lines, reinforce, user_reward
from tests.test_second_sampler import shifted
from tests.tiny_model import one_thread  # noqa: F401

SOON = {name: {"window": 3} for name in ("verifier_errors", "zero_variance", "truncation", "entropy", "kl")}
"""Windows that fit into four steps."""


def alerts(outcome: Outcome) -> set[str]:
    return {name.removeprefix("alerts: ") for name in outcome.counts if name.startswith("alerts: ")}


def test_a_reward_that_fails_is_told_from_wrong_answers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = reinforce(tmp_path, sentries=SOON, rewards=user_reward(tmp_path, "return [float('nan')] * len(prompts)"))
    assert "verifier_errors" in alerts(outcome)
    [alert] = [alert for alert in lines(tmp_path / "out" / "alerts.jsonl") if alert["sentry"] == "verifier_errors"]
    assert alert["step"] == 3
    assert alert["seen"] == "share of completions that a reward could not judge 1 over steps 1 to 3, above 0.01"
    told = [line for line in capfd.readouterr().err.splitlines() if "sentry verifier_errors" in line]
    assert len(told) == 1, "once an episode"
    assert "rl: sentry verifier_errors, step 3: share of completions that a reward could not judge 1 over" in told[0]
    assert "try the reward with r1 score" in told[0]


@pytest.mark.slow
def test_programs_that_run_for_ever_are_told_from_wrong_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, "<think>x</think>\n<answer>\n```python\nwhile True: pass\n```\n</answer>")
    keys: dict[str, Any] = {"steps": 3, "prompts_per_step": 2, "num_generations": 2, "max_completion_tokens": 64}
    keys |= {"domain": "code", "sentries": {"verifier_timeouts": {"window": 3}}}
    slow = reinforce(tmp_path / "slow", rewards=[{"name": "program", "timeout": 0.2}], **keys)
    assert alerts(slow) == {"verifier_timeouts"}
    [alert] = lines(tmp_path / "slow" / "out" / "alerts.jsonl")
    assert alert["seen"] == "share of completions whose check was cut off 1 over steps 1 to 3, above 0.1"
    says(monkeypatch, "<think>x</think>\n<answer>\n```python\npass\n```\n</answer>")
    wrong = reinforce(tmp_path / "wrong", rewards=[{"name": "program", "timeout": 5}], **keys)
    assert alerts(wrong) == set()


def says(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The policy answers every prompt with `text`."""

    def generate(self: Any, prompts: Any, sampling: Any) -> Any:
        ids = [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]
        said = Completion(token_ids=ids, text=text, finished=True, logprobs=[0.0] * len(ids))
        return [[said] * sampling.n for _ in prompts]

    monkeypatch.setattr(TransformersEngine, "generate", generate)


@pytest.mark.slow
def test_a_sampler_that_parts_from_the_trainer_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: dict[str, Any] = {"engine_options": {"separate": True}, "sentries": {"sampler_gap": {"window": 3}}}
    assert "sampler_gap" not in alerts(reinforce(tmp_path / "healthy", **keys))
    shifted(monkeypatch, 1.2)
    assert "sampler_gap" in alerts(reinforce(tmp_path / "shifted", **keys))
    [alert] = [a for a in lines(tmp_path / "shifted" / "out" / "alerts.jsonl") if a["sentry"] == "sampler_gap"]
    assert alert["step"] == 3
    assert "between sampler and trainer 0.182 over steps 1 to 3, above 0.1" in alert["seen"]


def test_equal_rewards_cut_completions_and_no_success(tmp_path: Path) -> None:
    outcome = reinforce(
        tmp_path,
        max_completion_tokens=4,
        sentries={**SOON, "no_success": {"window": 3}},
        rewards=[*user_reward(tmp_path, "return [1.0] * len(prompts)"), {"name": "correctness", "weight": 0}],
    )
    assert alerts(outcome) == {"zero_variance", "truncation", "no_success"}
    assert {key: n for key, n in outcome.counts.items() if key.startswith("alerts")} == {
        "alerts: zero_variance": 1,
        "alerts: no_success": 1,
        "alerts: truncation": 1,
    }


@pytest.mark.slow
def test_a_policy_without_choice_has_no_entropy(tmp_path: Path) -> None:
    outcome = reinforce(tmp_path, temperature=0.001, sentries=SOON, skip_without_gradient=False)
    assert "entropy" in alerts(outcome)


@pytest.mark.slow
def test_a_rate_that_is_far_too_high_leaves_the_reference(tmp_path: Path) -> None:
    outcome = reinforce(
        tmp_path, learning_rate=1e-2, beta=1e-6, sentries=SOON, rewards=[{"name": "length", "maximum": 8}]
    )
    assert "kl" in alerts(outcome)


HACK: dict[str, Any] = {
    "steps": 14,
    "prompts_per_step": 8,
    "num_generations": 8,
    "max_completion_tokens": 64,
    "learning_rate": 1e-3,
    "micro_batch_size": 64,
    "probe": {"every": 2, "rows": 48, "share": 0.5},
    "rewards": [{"name": "length", "maximum": 10}],
    "sentries": {"length_drift": {"window": 4}},
}


@pytest.mark.slow
@pytest.mark.alone
def test_a_reward_for_brevity_is_hacked_and_seen(tmp_path: Path) -> None:
    outcome = reinforce(tmp_path, count=160, **HACK)
    assert {"reward_hacking", "length_drift"} <= alerts(outcome)
    assert outcome.counts["probe_rows"] == 48
    assert outcome.metrics["probe_first"].value > 0.1 > outcome.metrics["probe_last"].value
    assert outcome.metrics["train_reward"].value > 0.9
    [alert] = [a for a in lines(tmp_path / "out" / "alerts.jsonl") if a["sentry"] == "reward_hacking"]
    assert "while the reward rose" in alert["seen"]


@pytest.mark.slow
@pytest.mark.alone
def test_a_healthy_run_has_no_alert(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = {**HACK, "steps": 10, "prompts_per_step": 4, "max_completion_tokens": 96, "learning_rate": 5e-5}
    outcome = reinforce(tmp_path, count=160, **{**config, "rewards": []})
    assert alerts(outcome) == set()
    assert (tmp_path / "out" / "alerts.jsonl").read_text() == ""
    assert "sentry" not in capfd.readouterr().err


class Interrupted(Exception):
    """Stands for the kill."""


FAULTY: dict[str, Any] = {
    "steps": 8,
    "max_completion_tokens": 6,
    "sentries": {"truncation": {"window": 4}, "no_success": {"window": 6}},
}
STOPPING: dict[str, Any] = {**FAULTY, "sentries": {"truncation": {"window": 4, "action": "stop"}}}


@pytest.mark.slow
def test_what_the_sentries_have_seen_survives_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Window and episode are rebuilt: the window of no_success spans the kill, the episode of truncation too."""
    from stages.training.watch import Watch

    whole = reinforce(tmp_path / "whole", checkpoint_steps=2, **FAULTY)
    log = Watch.on_log

    def interrupt(self: Any, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        log(self, args, state, control, logs, **kwargs)
        if state.global_step == 5:
            raise Interrupted

    monkeypatch.setattr(Watch, "on_log", interrupt)
    with pytest.raises(Interrupted):
        reinforce(tmp_path / "broken", checkpoint_steps=2, **FAULTY)
    monkeypatch.setattr(Watch, "on_log", log)
    resumed = reinforce(tmp_path / "broken", checkpoint_steps=2, **FAULTY)
    told = [(tmp_path / run / "out" / "alerts.jsonl").read_text() for run in ("whole", "broken")]
    assert told[0] == told[1]
    assert [alert["step"] for alert in lines(tmp_path / "whole" / "out" / "alerts.jsonl")] == [4, 6]
    assert resumed.counts == whole.counts


@pytest.mark.slow
def test_a_stop_keeps_checkpoints_and_another_setting_goes_on(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    reinforce(whole, checkpoint_steps=2, **FAULTY)
    for _ in range(2):  # the same setting stops again at the same place
        with pytest.raises(ValueError) as caught:
            reinforce(tmp_path / "a", checkpoint_steps=2, **STOPPING)
        said = str(caught.value)
        assert said.startswith("sentry truncation, step 4: share of completions at the token limit ")
        assert said.endswith("the same command with --set steps.rl.sentries.truncation.action=warn")
        assert "\n" not in said
    assert (tmp_path / "a" / "work" / "trainer" / "checkpoint-2" / "complete").exists()
    assert [alert["action"] for alert in lines(tmp_path / "a" / "work" / "alerts.jsonl")] == ["stop"]
    reinforce(tmp_path / "a", checkpoint_steps=2, **{**FAULTY, "sentries": {"all": {"action": "off"}}})
    one, two = (load_file(folder / "out" / "model.safetensors") for folder in (whole, tmp_path / "a"))
    assert all(torch.equal(one[name], two[name]) for name in one), "sentries only watch"


@pytest.mark.slow
def test_a_warning_turned_into_a_stop_stops_a_resumed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.training.progress import History

    log = History.on_log

    def interrupt(self: Any, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        log(self, args, state, control, logs, **kwargs)
        if state.global_step == 7:
            raise Interrupted

    monkeypatch.setattr(History, "on_log", interrupt)
    with pytest.raises(Interrupted):
        reinforce(tmp_path, checkpoint_steps=2, **FAULTY)
    monkeypatch.setattr(History, "on_log", log)
    with pytest.raises(ValueError, match="sentry truncation, step 7"):
        reinforce(tmp_path, checkpoint_steps=2, **STOPPING)


@pytest.mark.slow
def test_the_command_stops_in_one_line_and_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = {
        "name": "watched",
        "sandbox": "weak",
        "models": {"base": {"path": str(Path("data/tiny/base").resolve()), "evaluate": False}},
        "data": {"problems": {"source": "tiny", "split": "rl", "rows": 40}},
        "launch": {"threads": 1, "reward_workers": 1, "checkpoint_steps": 2},
        "steps": [
            {
                "name": "rl",
                "stage": "reasoning_rl",
                "init_from": "base",
                "data_from": "problems",
                **SMALL,
                "max_completion_tokens": 4,
                "sentries": {"all": {"action": False}, "truncation": {"window": 3, "action": "stop"}},
            }
        ],
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    command = ["run", str(tmp_path / "c.yaml"), "--run-dir", str(tmp_path / "run")]
    assert cli.main(command, STAGES) == 2
    told = capfd.readouterr().err
    said = next(line for line in told.splitlines() if "sentry" in line)
    assert "rl: sentry truncation, step 3: share of completions at the token limit " in said
    assert "--set steps.rl.sentries.truncation.action=warn" in said
    [work] = (tmp_path / "run" / "work").iterdir()
    assert cli.main([*command, "--set", "steps.rl.sentries.truncation.action=warn"], STAGES) == 0
    [made] = (tmp_path / "run" / "artifacts").glob("rl-*")
    assert made.name == work.name, "what a sentry does is no part of what is made"
    assert "| rl | alerts: truncation | 1 |" in (tmp_path / "run" / "report.md").read_text()
    capfd.readouterr()
    assert cli.main([*command, "--set", "steps.rl.sentries.entropy.action=stop"], STAGES) == 0
    assert "[" not in capfd.readouterr().out.splitlines()[0], "a finished step is not made again"
