"""Rejection sampling on scripted samples: what is kept, why the rest is not, and that a kill changes nothing."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path

import pytest

from data.artifact import ROWS_NAME, Artifact, Kind
from data.readability import Readability
from data.records import read_rows, write_rows
from rewards.reward import Sample
from stages.rejection_sampling import REJECTION_SAMPLING, REVIEW_NAME, RejectionSamplingConfig
from stages.rollout import engine as engines
from stages.scoring import Scored
from stages.selection import Candidate, Rules, edge_cases, select
from stages.stage import Context
from tests.scripted_engine import ScriptedEngine
from tests.test_evaluation import sums
from tests.tiny_model import one_thread, save_checkpoint  # noqa: F401

RULES = Rules(keep_fraction=1.0, per_prompt_cap=None, min_scores={}, near_duplicates=None, readability=Readability())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model"))


def sample_rejectively(folder: Path, checkpoint: Path, prompts, monkeypatch, engine=None, **settings):
    engine = engine or ScriptedEngine()
    monkeypatch.setattr(engines, "ENGINES", {"scripted": engine.open})
    for name in ("data", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_rows(folder / "data" / ROWS_NAME, prompts)
    inputs = {
        "init": [Artifact(kind=Kind.MODEL, path=checkpoint, fingerprint="abc", name="reasoning_rl")],
        "data": [Artifact(kind=Kind.DATASET, path=folder / "data", fingerprint="def", name="prompts")],
    }
    config = RejectionSamplingConfig(engine="scripted", **settings)
    context = Context(seed=5, convention="think_answer", work=folder / "work", sandbox="weak")
    return REJECTION_SAMPLING.run(config, inputs, folder / "out", context)


def test_only_right_readable_answers_are_kept_and_all_are_accounted_for(tmp_path, checkpoint, monkeypatch):
    said = {"safe": False, "judgement": "1_full_compliance", "review": {"verdict": "keep"}}  # of another completion
    prompts = [*({**row, **said} for row in sums(40)), {**sums(41)[40], "answer": None}]
    outcome = sample_rejectively(tmp_path, checkpoint, prompts, monkeypatch, samples=8)
    rows = list(read_rows(tmp_path / "out" / ROWS_NAME))
    assert 0 < len(rows) == outcome.counts["kept"] <= math.ceil(0.2 * 320)
    for row in rows:
        left, right = row["prompt"][0]["content"].rstrip("=").split("+")
        text = row["completion"][0]["content"]
        assert text.endswith(f"<answer>\n{int(left) + int(right)}\n</answer>")
        assert not any("一" <= c <= "鿿" for c in text)
        assert row["provenance"]["checkpoint"] == "abc"
        assert row["id"] == f"{row['provenance']['row']}#{row['provenance']['sample']}"
        assert row["provenance"]["scores"]["correctness"] == 1
        assert not said.keys() & row.keys()
    assert len({(r["prompt"][0]["content"], r["completion"][0]["content"]) for r in rows}) == len(rows)
    counts = dict(outcome.counts)
    assert counts.pop("unusable: neither answer nor tests") == 1
    assert counts.pop("prompts") == 40
    assert counts.pop("candidates") == 320 == sum(counts.values())
    assert {"kept", "wrong", "cut short", "mixed languages", "exact duplicate"} <= set(counts)
    assert outcome.metrics["kept"].value == len(rows)
    assert 0.4 < outcome.metrics["candidate_accuracy"].value < 0.9


def test_rows_that_share_an_id_are_not_taken_for_one(tmp_path, checkpoint, monkeypatch):
    """Two files joined by `data_from` often both start at 0."""
    prompts = [{**row, "id": str(number % 5)} for number, row in enumerate(sums(20))]
    outcome = sample_rejectively(tmp_path, checkpoint, prompts, monkeypatch, samples=4, keep_fraction=1)
    counts = dict(outcome.counts)
    assert counts.pop("prompts") == 20
    assert counts.pop("candidates") == 80 == sum(counts.values())
    rows = list(read_rows(tmp_path / "out" / ROWS_NAME))
    assert len({row["id"] for row in rows}) == len(rows) == counts["kept"]
    assert {row["provenance"]["row"].partition("@")[2] for row in rows} == {"", "2", "3", "4"}


def test_a_killed_run_ends_equal_to_an_unbroken_one(tmp_path, checkpoint, monkeypatch):
    settings = {"samples": 3, "shard_prompts": 4, "keep_fraction": 0.5}
    with pytest.raises(KeyboardInterrupt):
        sample_rejectively(tmp_path / "a", checkpoint, sums(10), monkeypatch, ScriptedEngine(fail_after=1), **settings)
    resumed = ScriptedEngine()
    first = sample_rejectively(tmp_path / "a", checkpoint, sums(10), monkeypatch, resumed, **settings)
    assert resumed.calls == [4, 2]
    second = sample_rejectively(tmp_path / "b", checkpoint, sums(10), monkeypatch, **settings)
    assert (first.metrics, first.counts) == (second.metrics, second.counts)
    for name in (ROWS_NAME, REVIEW_NAME):
        assert (tmp_path / "a/out" / name).read_bytes() == (tmp_path / "b/out" / name).read_bytes()


def test_the_limit_of_rows_and_refusals(tmp_path, checkpoint, monkeypatch):
    outcome = sample_rejectively(tmp_path / "a", checkpoint, sums(10), monkeypatch, rows=4, samples=2, keep_fraction=1)
    assert outcome.counts["prompts"] == 4
    with pytest.raises(ValueError, match="no row of the data has an answer or tests"):
        sample_rejectively(tmp_path / "b", checkpoint, sums(2, answer=None), monkeypatch)
    with pytest.raises(ValueError, match=r"none of 12 candidates can be kept: .*wrong"):
        sample_rejectively(tmp_path / "c", checkpoint, sums(6, answer="1000"), monkeypatch, samples=2)


NUMBERS = itertools.count()


def candidate(prompt="p", total=1.0, correct=1.0, text=None, answer="1", truncated=False, language="en", **scores):
    number = next(NUMBERS)
    said = f"<think>\nthis is thought number {number} of many\n</think>\n<answer>\n{answer}\n</answer>"
    status = {"correctness": "ok" if correct is not None else "sandbox_error", **dict.fromkeys(scores, "ok")}
    text = text or said
    return Candidate(
        row={
            "id": f"{prompt}#{number}",
            "prompt": [{"role": "user", "content": prompt}],
            "completion": [{"role": "assistant", "content": text}],
            "provenance": {"row": prompt},
        },
        sample=Sample(prompt=prompt, completion=text, truncated=truncated, language=language),
        scored=Scored(total=total, scores={"correctness": correct, **scores}, status=status),
    )


def rules(**changes):
    return Rules(**{name: changes.get(name, getattr(RULES, name)) for name in Rules.__dataclass_fields__})


def test_every_reason():
    cases = {
        "kept": candidate(),
        "wrong": candidate(correct=0.0),
        "no verdict: sandbox_error": candidate(correct=None),
        "cut short": candidate(truncated=True),
        "not in the convention": candidate(text="<answer>1</answer>"),
        "mixed languages": candidate(language="zh"),
        "no reward applies": candidate(total=None),
        "brevity scored below 0.5": candidate(brevity=0.2),
    }
    selection = select(list(cases.values()), rules(min_scores={"brevity": 0.5}))
    assert {c.id: reason for reason, c in cases.items()} == selection.reasons
    assert [c.id for c in selection.kept] == [cases["kept"].id]


def test_the_fraction_is_of_all_candidates_and_ranks_over_prompts():
    good = [candidate(prompt=f"p{i}", total=i / 10) for i in range(10)]
    bad = [candidate(prompt=f"p{i}", correct=0.0, total=9.0) for i in range(10)]
    selection = select([*good, *bad], rules(keep_fraction=0.2))
    assert [c.scored.total for c in selection.kept] == [0.9, 0.8, 0.7, 0.6]
    assert selection.counts() == {"kept": 4, "wrong": 10, "below the top fraction": 6}
    assert len(select([*good, *bad], rules(keep_fraction=0.9)).kept) == 10


def test_equals_take_turns_by_prompt():
    group = [candidate(prompt=f"p{i % 5}") for i in range(50)]
    first, second = select(group, rules(keep_fraction=0.1)), select(group[::-1], rules(keep_fraction=0.1))
    assert Counter(c.row["provenance"]["row"] for c in first.kept) == {f"p{i}": 1 for i in range(5)}
    assert {c.id for c in first.kept} == {c.id for c in second.kept}


def test_cap_and_duplicates():
    same = "<think>\nthe very same words\n</think>\n<answer>\n1\n</answer>"
    copies = [candidate(text=same, total=t) for t in (0.5, 0.9, 0.7)]
    selection = select(copies, RULES)
    assert [c.scored.total for c in selection.kept] == [0.9]
    assert selection.counts() == {"kept": 1, "exact duplicate": 2}
    selection = select([candidate(total=t / 10) for t in range(6)], rules(per_prompt_cap=2))
    assert [c.scored.total for c in selection.kept] == [0.5, 0.4]
    assert selection.counts()["over the cap per prompt"] == 4
    long = " ".join(f"word{i} follows" for i in range(60))
    near = [candidate(text=f"<think>\n{long} {end}\n</think>\n<answer>\n1\n</answer>") for end in ("so", "thus")]
    assert select(near, rules(near_duplicates=0.8)).counts() == {"kept": 1, "near duplicate": 1}


def test_edge_cases_are_shown_once_each_with_what_became_of_them():
    ranked = [candidate(prompt=f"p{i}", total=i / 20) for i in range(20)]
    outvoted = [candidate(prompt="gold?", correct=0.0, answer="8") for _ in range(3)]
    split = [candidate(prompt="fine", correct=0.0, answer=str(i)) for i in range(3)]
    poor = candidate(prompt="poor", brevity=0.1)
    broken = candidate(prompt="broken", correct=None)
    everyone = [*ranked, *outvoted, *split, poor, broken]
    selection = select(everyone, rules(keep_fraction=0.35, min_scores={"brevity": 0.5}))
    rows = list(edge_cases(everyone, selection, limit=4))
    shown = {}
    for row in rows:
        shown.setdefault(row["doubt"], []).append((row["provenance"]["row"], row["reason"]))
        json.dumps(row)
    assert shown.pop("close to the cut") == [
        ("p11", "kept"),
        ("p10", "kept"),
        ("p9", "below the top fraction"),
        ("p8", "below the top fraction"),
    ]
    assert shown.pop("the majority gives an answer that the verifier refuses") == [("gold?", "wrong")]
    assert shown.pop("right by the verifier, poor by another reward") == [("poor", "brevity scored below 0.5")]
    assert shown.pop("the verifier had trouble") == [("broken", "no verdict: sandbox_error")]
    assert not shown
    assert not list(edge_cases(everyone, selection, limit=0))
