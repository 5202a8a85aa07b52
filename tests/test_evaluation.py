"""Evaluation end to end on scripted samples and on a random model; resumption; every figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.artifact import ROWS_NAME, Artifact, Kind
from data.records import read_rows, write_rows
from rewards.reward import Sample
from stages.evaluation import EVALUATION, EvaluationConfig, fitting_rewards
from stages.measures import Result, measure, tally
from stages.rollout import engine as engines
from stages.scoring import Scored, complete, sample_of
from stages.stage import Context
from tests.scripted_engine import ScriptedEngine
from tests.tiny_model import one_thread, save_checkpoint  # noqa: F401


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model"))


def sums(count, **columns):
    return [
        {
            "id": f"sum-{i}",
            "prompt": [{"role": "user", "content": f"{i}+{i + 3}="}],
            "domain": "math" if i % 2 else "science",
            "language": "en",
            "answer": str(2 * i + 3),
            **columns,
        }
        for i in range(count)
    ]


def wire(folder: Path, checkpoint: Path, rows):
    (folder / "data").mkdir(parents=True)
    write_rows(folder / "data" / ROWS_NAME, rows)
    return {
        "init": [Artifact(kind=Kind.MODEL, path=checkpoint, fingerprint="abc", name="base")],
        "data": [Artifact(kind=Kind.DATASET, path=folder / "data", fingerprint="def", name="held_out")],
    }


def evaluate(folder: Path, checkpoint: Path, rows, **settings):
    inputs = wire(folder, checkpoint, rows) if not (folder / "data").exists() else None
    if inputs is None:
        inputs = {
            "init": [Artifact(kind=Kind.MODEL, path=checkpoint, fingerprint="abc", name="base")],
            "data": [Artifact(kind=Kind.DATASET, path=folder / "data", fingerprint="def", name="held_out")],
        }
    (folder / "out").mkdir(exist_ok=True)
    context = Context(seed=3, convention="think_answer", work=folder / "work", sandbox="weak")
    return EVALUATION.run(EvaluationConfig(**settings), inputs, folder / "out", context)


@pytest.fixture
def scripted(monkeypatch):
    engine = ScriptedEngine()
    monkeypatch.setattr(engines, "ENGINES", {**engines.ENGINES, "scripted": engine.open})
    return engine


def test_figures_agree_with_the_rows_written(tmp_path, checkpoint, scripted):
    outcome = evaluate(tmp_path, checkpoint, sums(60), samples=4, engine="scripted")
    rows = list(read_rows(tmp_path / "out" / ROWS_NAME))
    assert len(rows) == len({row["id"] for row in rows}) == 240
    right = [row["scores"]["correctness"] for row in rows]
    formed = [row["completion"][0]["content"].endswith("</answer>") for row in rows]
    metrics = outcome.metrics
    assert metrics["accuracy"].value == pytest.approx(sum(right) / 240)
    assert 0.5 < metrics["accuracy"].low < metrics["accuracy"].value < metrics["accuracy"].high < 1
    assert metrics["accuracy"].n == 60
    assert metrics["format"].value == pytest.approx(sum(formed) / 240)
    assert metrics["truncated"].value == pytest.approx(1 - sum(formed) / 240)
    assert metrics["tokens"].value == pytest.approx(sum(row["tokens"] for row in rows) / 240)
    assert metrics["language"].value < 1
    for name, keep in {"accuracy.math": "math", "accuracy.science": "science"}.items():
        chosen = [row["scores"]["correctness"] for row in rows if row["domain"] == keep]
        assert metrics[name].value == pytest.approx(sum(chosen) / len(chosen))
    assert metrics["accuracy.en"] == metrics["accuracy"]
    assert metrics["pass@4"].value > metrics["pass@2"].value > metrics["accuracy"].value
    assert metrics["maj@4"].value > metrics["accuracy"].value
    assert outcome.counts == {"rows": 60, "completions": 240}
    assert (scripted.opened, scripted.closed) == (1, 1)


def test_finished_shards_survive_a_kill(tmp_path, checkpoint, monkeypatch):
    killed, unbroken = ScriptedEngine(fail_after=2), ScriptedEngine()
    settings = {"samples": 2, "engine": "scripted", "shard_prompts": 4}
    monkeypatch.setattr(engines, "ENGINES", {"scripted": killed.open})
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "a", checkpoint, sums(14), **settings)
    assert killed.closed == 1
    resumed = ScriptedEngine()
    monkeypatch.setattr(engines, "ENGINES", {"scripted": resumed.open})
    outcome = evaluate(tmp_path / "a", checkpoint, sums(14), **settings)
    assert resumed.calls == [4, 2]
    monkeypatch.setattr(engines, "ENGINES", {"scripted": unbroken.open})
    expected = evaluate(tmp_path / "b", checkpoint, sums(14), **settings)
    assert outcome.metrics == expected.metrics
    assert (tmp_path / "a/out" / ROWS_NAME).read_bytes() == (tmp_path / "b/out" / ROWS_NAME).read_bytes()
    again = evaluate(tmp_path / "a", checkpoint, sums(14), **settings)
    assert again.metrics == expected.metrics
    assert unbroken.opened == resumed.opened == 1


def test_a_random_model_scores_nothing(tmp_path, checkpoint):
    outcome = evaluate(tmp_path, checkpoint, sums(10), max_tokens=16)
    assert outcome.metrics["accuracy"].value == 0
    assert outcome.metrics["accuracy"].high > 0.2
    assert outcome.metrics["format"].value == 0


def test_the_prefill_is_seen_by_the_rewards(checkpoint):
    drawn = {"text": "because it is so\n</think>\n<answer>\n7\n</answer>", "tokens": 9, "finished": True}
    row = {**sums(3)[2], "extra column": 1}
    context = Context(seed=0, convention="think_answer", work=Path(), prefill="<think>\n")
    sample = sample_of(row, drawn, context, prefill="<think>\n", limit=20)
    assert sample.parsed().well_formed
    assert (sample.prompt, sample.tokens, sample.limit, sample.truncated) == ("2+5=", 9, 20, False)
    assert sample.extra == {"id": "sum-2", "extra column": 1}


def result(correct, status="ok", answer="1", text="<think>a</think><answer>1</answer>", **row):
    samples = [Sample(prompt="", completion=text, tokens=3) for _ in correct]
    scored = [Scored(total=c, scores={"correctness": c}, status={"correctness": status}) for c in correct]
    base = {"id": "x", "prompt": [], "domain": "math", "language": "en", "answer": answer}
    return Result({**base, **row}, samples, scored)


def test_what_no_verifier_decides_is_counted_and_left_out():
    results = [result([1.0, 0.0]), result([None, None], "unparsed_gold"), result([0.0, 0.0], "timeout")]
    metrics, counts = measure(results, 2), tally(results)
    assert (metrics["accuracy"].n, metrics["accuracy"].value) == (2, 0.25)
    assert counts["no verdict: unparsed_gold"] == 2
    assert counts["correctness: timeout"] == 2
    chat = result([None], "not_applicable", answer=None, domain="general")
    assert "accuracy" not in measure([chat], 1)
    assert tally([chat]) == {"rows": 1, "completions": 1}


def test_rewards_follow_the_rows():
    names = [spec["name"] for spec in fitting_rewards(sums(2), preference=True)]
    assert names == ["correctness", "format", "language"]
    chat = [{**row, "domain": "safety", "answer": None} for row in sums(2)]
    names = [spec["name"] for spec in fitting_rewards(chat, preference=True)]
    assert names == ["format", "language", "safety", "preference"]


def test_the_run_completes_the_rewards():
    context = Context(seed=0, convention="think_answer", work=Path(), sandbox="weak")
    given = [{"name": "correctness"}, {"name": "program", "sandbox": "bubblewrap"}, {"name": "preference"}]
    made = complete(given, "/model", context, "evaluation")
    assert made[0]["program"] == {"sandbox": "weak"}
    assert made[1]["sandbox"] == "bubblewrap"
    assert made[2]["model"] == "/model"
    assert given[0] == {"name": "correctness"}
    with pytest.raises(ValueError, match="wire one with preference_from"):
        complete(given, None, context, "evaluation")


def test_no_rows_and_unknown_engines_are_refused(tmp_path, checkpoint):
    with pytest.raises(ValueError, match="no row that can be measured"):
        evaluate(tmp_path, checkpoint, [])
    with pytest.raises(ValueError, match="did you mean 'vllm'"):
        EvaluationConfig(engine="vlm")
