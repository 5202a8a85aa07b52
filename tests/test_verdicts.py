"""The file of verdicts: what a line may say, which one counts, which row it is about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.template import CONVENTIONS
from data.verdicts import Choice, Verdict, digest, identity, keyed, parse, read_verdicts
from tests.toy_project import toy_row


def written(folder: Path, *lines: object) -> Path:
    """A file of verdicts."""
    file = folder / "verdicts.jsonl"
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return file


def test_the_last_word_on_a_row_counts_and_undo_withdraws_it(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        {"id": "a", "verdict": "keep"},
        {"id": "b", "verdict": "drop", "reviewer": "李", "time": "2026-01-02T03:04:05+00:00", "seen": None},
        {"id": "a", "verdict": "correct", "completion": "x"},
        "",
        {"id": "c", "verdict": "keep"},
        {"id": "c", "verdict": "undo"},
    )
    found = read_verdicts(file)
    assert {key: (line, str(said.verdict)) for key, (line, said) in found.items()} == {
        "a": (3, "correct"),
        "b": (2, "drop"),
    }
    assert found["b"][1].reviewer == "李"
    assert read_verdicts(tmp_path / "gone.jsonl") == {}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object, got list"),
        ({"id": "a"}, "the key 'verdict' is missing"),
        ({"id": "", "verdict": "keep"}, "the key 'id' is missing"),
        ({"id": 7, "verdict": "keep"}, "id must be text, got int"),
        ({"id": "a", "verdict": "kep"}, "unknown verdict 'kep'; did you mean 'keep'?"),
        ({"id": "a", "verdict": "keep", "reviwer": "x"}, "unknown key 'reviwer'; did you mean 'reviewer'?"),
        ({"id": "a", "verdict": "correct"}, "the corrected text is missing (key 'completion')"),
        ({"id": "a", "verdict": "drop", "completion": "x"}, "'drop' takes no completion"),
        ({"id": "a", "verdict": "keep", "time": "noon"}, "time must be ISO 8601, got 'noon'"),
        ('{"id": "a", "verdict": "correct", "completion": "\\ud800"}', "completion holds half a character (U+D800)"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: object, said: str) -> None:
    file = written(tmp_path, {"id": "fine", "verdict": "keep"}, line)
    with pytest.raises(ValueError) as error:
        read_verdicts(file)
    assert str(error.value).startswith(f"{file}:2: {said}")
    assert "\n" not in str(error.value)


def test_a_folder_is_no_file_of_verdicts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a folder, not a file of verdicts"):
        read_verdicts(tmp_path)


def test_what_decides_is_the_identity(tmp_path: Path) -> None:
    keep: dict[str, Any] = {"id": "a", "verdict": "keep"}
    plain = identity(written(tmp_path, keep))
    assert {key: plain[key] for key in ("keep", "drop", "correct")} == {"keep": 1, "drop": 0, "correct": 0}
    same = [
        (keep, {"id": "b", "verdict": "skip"}),
        (keep, {"id": "b", "verdict": "drop"}, {"id": "b", "verdict": "undo"}),
        ({"id": "a", "verdict": "drop"}, keep),
    ]
    assert [identity(written(tmp_path, *lines)) for lines in same] == [plain] * 3
    others = [(keep | {"reviewer": "x"},), (keep | {"seen": "0"},), ({"id": "a", "verdict": "drop"},), ()]
    found = [identity(written(tmp_path, *lines))["content"] for lines in others]
    assert len({*found, plain["content"]}) == 5


def test_rows_are_told_apart_by_what_they_say() -> None:
    one, other = toy_row(1), toy_row(2) | {"id": "row-1"}
    taken = toy_row(3) | {"id": "row-1@2"}
    keys = [key for key, _, _ in keyed([one, other, one, taken, other | {"domain": "code"}])]
    assert keys == ["row-1", "row-1@2", "row-1", "row-1@2@2", "row-1@2"]
    assert digest(one) == digest(one | {"domain": "code", "doubt": "x"})
    assert digest(one) != digest(one | {"completion": [{"role": "assistant", "content": "x"}]})


def test_a_line_says_only_what_is_set() -> None:
    verdict = Verdict(id="a", verdict=Choice.KEEP, reviewer="x")
    assert verdict.to_json() == {"id": "a", "verdict": "keep", "reviewer": "x"}
    assert parse(verdict.to_json(), "here") == verdict


@pytest.mark.parametrize(
    ("convention", "text", "fault"),
    [
        ("think_answer", "<think>a</think><answer>b</answer>", None),
        ("think_answer", " ", "the text is empty"),
        ("think_answer", "<think>a<answer>b</answer>", "</think> is missing"),
        ("think_answer", "<think>a</think></think><answer>b</answer>", "</think> must stand there once, it is there 2"),
        ("think_answer", "<answer>b</answer><think>a</think>", "the tags must come in the order <think> </think> <ans"),
        ("think_answer", "x<think>a</think><answer>b</answer>", "nothing may stand before <think>"),
        ("think_answer", "<think>a</think>x<answer>b</answer>", "nothing may stand between </think> and <answer>"),
        ("think_answer", "<think>a</think><answer>b</answer>x", "nothing may stand after </answer>"),
        ("think_answer", "<think> </think><answer>b</answer>", "the reasoning or the answer is empty"),
        ("zh", "<推理过程>a</推理过程><摘要>b", "</摘要> is missing"),
        ("boxed", "<think>a</think>", "the reasoning or the answer is empty"),
        ("none", "", "the text is empty"),
        ("none", "x", None),
    ],
)
def test_what_is_wrong_with_a_text_is_said(convention: str, text: str, fault: str | None) -> None:
    found = CONVENTIONS[convention].fault(text)
    assert (found is None) == CONVENTIONS[convention].parse(text).well_formed == (fault is None)
    assert (found or "").startswith(fault or "")
