"""Between TRL, verl, OpenRLHF and us: samples, signatures, prefill, users' functions, and TRL's own trainer."""

from __future__ import annotations

import math
import pickle
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import rewards
from rewards.adapter import as_trl, samples_from_trl
from rewards.combine import Mix, Term
from rewards.reward import Sample, Status, Verdict
from rewards.user_function import UserReward

COMPLETION = "<think>\nWe add twelve and seven: 12 + 7 = 19.\n</think>\n<answer>\n19\n</answer>"


def columns() -> dict[str, Any]:
    return {
        "prompts": [[{"role": "system", "content": "s"}, {"role": "user", "content": "What is 12 + 7?"}], "1 + 1?"],
        "completions": [[{"role": "assistant", "content": COMPLETION}], "<think>x</think><answer>3</answer>"],
        "completion_ids": [[1] * 8, [1] * 20],
        "answer": ["19", "2"],
        "domain": ["math", None],
        "language": ["en", "zh"],
        "level": [1, 2],
    }


def test_samples_carry_the_row() -> None:
    given = columns()
    made = samples_from_trl(
        given.pop("prompts"), given.pop("completions"), given.pop("completion_ids"), given, "think_answer", limit=20
    )
    assert made[0].prompt == "What is 12 + 7?"
    assert [s.answer for s in made] == ["19", "2"]
    assert [s.domain for s in made] == ["math", "general"]
    assert [s.tokens for s in made] == [8, 20]
    assert [s.truncated for s in made] == [False, True]
    assert [s.extra for s in made] == [{"level": 1}, {"level": 2}]


def test_content_in_parts_is_joined() -> None:
    parts = [
        {"type": "text", "text": "<think>x</think>"},
        {"type": "image"},
        {"type": "text", "text": "<answer>5</answer>"},
    ]
    made = samples_from_trl(["p"], [[{"role": "assistant", "content": parts}]], None, {}, "think_answer")
    assert made[0].completion == "<think>x</think><answer>5</answer>"


def test_what_the_template_prefilled_is_seen_by_the_reward() -> None:
    completion = COMPLETION.removeprefix("<think>\n")
    plain, seen = (
        as_trl(rewards.build([{"name": "format"}]), "think_answer", prefill)(["p"], [completion], [[1]])
        for prefill in ("", "<think>\n")
    )
    assert (plain, seen) == ([0.0], [1.0])
    repeated = as_trl(rewards.build([{"name": "format"}]), "think_answer", "<think>\n")(["p"], [COMPLETION], [[1]])
    assert repeated == [1.0]


def test_the_breakdown_is_logged_per_reward() -> None:
    extra: dict[str, list[Any]] = {}
    metrics: dict[str, float] = {}
    reward = as_trl(
        rewards.build([{"name": "accuracy"}, {"name": "format", "schedule": {0: 0.0, 10: 1.0}}]), "think_answer"
    )
    given = {**columns(), "answer": ["19", ""]}
    totals = reward(
        **given,
        trainer_state=SimpleNamespace(global_step=5),
        log_extra=extra.__setitem__,
        log_metric=metrics.__setitem__,
    )
    assert totals == [1.5, None]
    assert extra == {"score/accuracy": [1.0, None], "score/format": [1.0, 1.0]}
    assert metrics == {
        "score/accuracy": 1.0,
        "score/format": 1.0,
        "status/accuracy/unparsed_gold": 0.5,
        "unjudged/accuracy": 0.5,
        "unjudged/format": 0.0,
    }
    assert reward.breakdowns[0].scores == {"accuracy": 1.0, "format": 1.0}


def test_a_mean_is_over_all_completions_however_processes_share_them() -> None:
    """TRL averages what was logged, over processes too."""
    logged: list[tuple[str, float]] = []
    reward = as_trl(rewards.build([{"name": "accuracy"}]), "think_answer")
    for answers in (["19", "20"], ["20", ""]):
        reward(**{**columns(), "answer": answers}, log_metric=lambda name, value: logged.append((name, value)))
    scores = [value for name, value in logged if name == "score/accuracy"]
    assert sum(scores) / len(scores) == pytest.approx(1 / 3)


def test_one_reward_alone_is_adapted_under_its_name() -> None:
    reward = pickle.loads(pickle.dumps(as_trl(rewards.REWARDS["accuracy"](), "think_answer")))
    assert reward.__name__ == "accuracy"
    assert reward(**columns()) == [1.0, 0.0]


@dataclass(frozen=True)
class FailingSandbox:
    """A program reward whose sandbox fails for every `every`-th row."""

    every: int

    def __call__(self, sample: Sample, /) -> float | None:
        return self.judge(sample).score

    def judge(self, sample: Sample, /) -> Verdict:
        failed = int(sample.prompt) % self.every == 0
        return Verdict(score=None, status=Status.SANDBOX_ERROR, detail="no space") if failed else Verdict(score=1.0)


def test_a_step_stops_when_the_sandbox_fails_too_often() -> None:
    from rewards.program import SandboxError

    given = {"prompts": [str(i) for i in range(1, 301)], "completions": ["x"] * 300}
    reward = as_trl(Mix(terms=(Term(name="program", reward=FailingSandbox(150)),)), "none")
    assert reward(**given).count(None) == 2
    reward = as_trl(Mix(terms=(Term(name="program", reward=FailingSandbox(50)),)), "none")
    with pytest.raises(SandboxError, match="6 of 300 programs: no space"):
        reward(**given)


FUNCTIONS = """
    import asyncio

    def brevity(prompts, completions, completion_ids, level, scale=1.0, **kwargs):
        assert len(prompts) == len(completions) == len(completion_ids)
        return [None if l == 2 else scale * (len(c[0]["content"]) < 1000) for c, l in zip(completions, level)]

    async def slow(completions, answer, **kwargs):
        await asyncio.sleep(0)
        return [float(a == "19") for a in answer]

    def compute_score(data_source, solution_str, ground_truth, extra_info=None):
        return {"score": float(ground_truth in solution_str), "source": data_source, "level": extra_info["level"]}

    def openrlhf(queries, prompts, labels):
        return {"rewards": [float(a in q[len(p):]) for q, p, a in zip(queries, prompts, labels)]}

    def short(completions, **kwargs):
        return [1.0]

    def broken(completions, **kwargs):
        raise RuntimeError("the user's own fault")

    def not_a_number(completions, **kwargs):
        return [float("nan")] * len(completions)

    def words(completions, **kwargs):
        return ["good"] * len(completions)

    constant = 5
"""


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    path = tmp_path / "my_rewards.py"
    path.write_text(textwrap.dedent(FUNCTIONS))
    return path


def rows() -> list[Sample]:
    return [
        Sample(prompt="What is 12 + 7?", completion=COMPLETION, answer="19", tokens=8, extra={"level": 1}),
        Sample(prompt="1 + 1?", completion="<think>x</think><answer>3</answer>", answer="2", extra={"level": 2}),
    ]


@pytest.mark.parametrize(
    ("function", "scores"),
    [("brevity", [2.0, None]), ("slow", [1.0, 0.0]), ("compute_score", [1.0, 0.0]), ("openrlhf", [1.0, 0.0])],
)
def test_users_functions_of_every_convention(functions: Path, function: str, scores: list[float | None]) -> None:
    spec: dict[str, Any] = {"path": "my_rewards.py", "function": function}
    if function == "brevity":
        spec["scale"] = 2.0
    mix = rewards.build([spec], functions.parent)
    made = pickle.loads(pickle.dumps(mix)).score(rows())
    assert [breakdown.scores[function] for breakdown in made] == scores


def test_an_async_function_works_inside_a_running_event_loop(functions: Path) -> None:
    import asyncio

    async def inside() -> list[float | None]:
        return [v.score for v in UserReward(function="slow", path=functions).score_batch(rows())]

    assert asyncio.run(inside()) == [1.0, 0.0]


def test_a_dotted_name_is_a_function_too() -> None:
    mix = rewards.build([{"function": "trl.rewards.think_format_reward", "weight": 0.5}])
    assert [b.total for b in mix.score(rows())] == [0.5, 0.5]


def test_what_a_users_function_does_wrong_is_shown(functions: Path) -> None:
    with pytest.raises(ValueError, match="'short' returned 1 scores for 2 completions"):
        UserReward(function="short", path=functions).score_batch(rows())
    with pytest.raises(ValueError, match=r"'broken' failed at .*my_rewards.py:\d+: RuntimeError: the user's own fault"):
        UserReward(function="broken", path=functions).score_batch(rows())
    with pytest.raises(ValueError, match="'words' returned 'good', which is neither a number nor None"):
        UserReward(function="words", path=functions).score_batch(rows())
    verdicts = UserReward(function="not_a_number", path=functions).score_batch(rows())
    assert [(v.score, v.status) for v in verdicts] == [(None, Status.EXCEPTION)] * 2
    assert UserReward(function="short", path=functions).score_batch([]) == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"path": "my_rewards.py", "function": "brevety"}, "has no function 'brevety'; did you mean 'brevity'?"),
        ({"path": "my_rewards.py", "function": "constant"}, "'constant' is not a function"),
        ({"path": "nowhere.py", "function": "f"}, "no such file"),
        ({"path": "broken.py", "function": "f"}, "fails at import: ZeroDivisionError"),
        ({"path": "leaves.py", "function": "f"}, "fails at import: SystemExit"),
        ({"path": "notes.txt", "function": "f"}, "not a Python file"),
        ({"function": "brevity"}, "needs a `path`, or a dotted name"),
        ({"function": "no_such_package.f"}, "cannot import 'no_such_package'"),
        ({"function": "math.sine"}, "has no function 'sine'"),
    ],
)
def test_a_function_that_cannot_be_found_is_one_clear_line(functions: Path, spec: dict[str, str], message: str) -> None:
    (functions.parent / "broken.py").write_text("1 / 0\n")
    (functions.parent / "leaves.py").write_text("raise SystemExit(3)\n")
    (functions.parent / "notes.txt").write_text("x\n")
    with pytest.raises(ValueError, match="rewards") as caught:
        rewards.build([spec], functions.parent)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.alone
def test_a_plain_trl_trainer_takes_our_rewards_unchanged(tmp_path: Path) -> None:
    from datasets import Dataset
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate([*alphabet, "<eos>"])}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<eos>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(alphabet) + 1, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, eos_token_id=len(alphabet), pad_token_id=len(alphabet),
        )
    )  # fmt: skip
    data = Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": f"{i} + 1?"}], "answer": str(i + 1), "domain": "math"}
            for i in range(4)
        ]
    )
    mix = rewards.build([{"name": "accuracy"}, {"name": "repetition", "weight": 0.5}, {"name": "format"}])
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[as_trl(mix, "think_answer"), as_trl(rewards.REWARDS["length"](maximum=4), "none")],
        args=GRPOConfig(
            output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, num_generations=2,
            max_completion_length=8, report_to=[], use_cpu=True, logging_steps=1, save_strategy="no",
        ),
        train_dataset=data,
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    last = trainer.state.log_history[-2]
    assert math.isfinite(last["rewards/mix/mean"])
    assert math.isfinite(last["rewards/length/mean"])
    assert "score/repetition" in last
