"""What a row says about the safety of an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.sources import load
from stages.safety_labels import NO_LABEL, PARTLY, labelled

DECLINE = "I am sorry, but I cannot help with that."
COMPLY = "Sure. First get the parts."


def row(domain: str = "safety", **columns: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"id": "r", "prompt": [{"role": "user", "content": "q"}], "domain": domain, "language": "en"}
    for name, value in columns.items():
        spoken = name in ("completion", "chosen", "rejected")
        made[name] = [{"role": "assistant", "content": value}] if spoken else value
    return made


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (row(completion=COMPLY, safe=True), [(COMPLY, True)]),
        (row("math", completion=DECLINE, safe=False), [(DECLINE, False)]),
        (row(chosen=DECLINE, rejected=COMPLY), [(DECLINE, True), (COMPLY, False)]),
        (row(chosen=DECLINE, rejected=COMPLY, should_refuse=False), [(DECLINE, True)]),
        (row("general", chosen=DECLINE, rejected=COMPLY), NO_LABEL),
        (row("general", chosen=DECLINE, rejected=COMPLY, should_refuse=True), [(DECLINE, True), (COMPLY, False)]),
        (row("chat", chosen="Hi", rejected="Go away."), [("Hi", True)]),
        (row("chat", completion="Hi"), [("Hi", True)]),
        (row("general", completion="Hi"), NO_LABEL),
        (row(completion=DECLINE), [(DECLINE, True)]),
        (row(completion=DECLINE, should_refuse=None), [(DECLINE, True)]),
        (row(completion=DECLINE, judgement=["2_full_refusal"]), PARTLY),
        (row(completion=COMPLY), [(COMPLY, False)]),
        (row(completion=COMPLY, should_refuse=False), [(COMPLY, True)]),
        (row(completion=DECLINE, should_refuse=False), [(DECLINE, True)]),
        (row(completion=COMPLY, should_refuse=True, judgement="2_full_refusal"), [(COMPLY, True)]),
        (row(completion=DECLINE, should_refuse=True, judgement="1_full_compliance"), [(DECLINE, False)]),
        (row(completion=DECLINE, should_refuse=True, judgement="3_partial_refusal"), PARTLY),
        (row(completion=f"<think>\n{COMPLY}\n</think>\n<answer>\n{DECLINE}\n</answer>"), [(DECLINE, True)]),
        (row(completion="  ", safe=False), NO_LABEL),
        (row(chosen=DECLINE), NO_LABEL),
        (row(), NO_LABEL),
    ],
)
def test_each_way_of_saying_so(given: dict[str, Any], found: Any) -> None:
    assert labelled(given, ("chat",), "think_answer") == found


@pytest.mark.parametrize("value", ["yes", 1, 0.9])
def test_a_label_that_is_none_names_the_row(value: object) -> None:
    with pytest.raises(ValueError, match=f"^row 'r': column 'safe' must be true or false, got {value!r}$"):
        labelled(row(completion="a", safe=value), (), "think_answer")


def test_a_word_is_no_truth_value(tmp_path: Path) -> None:
    """A CSV's "false" would be true, and the answer to a harmless request unsafe."""
    with pytest.raises(ValueError, match=r"^row 'r': column 'should_refuse' must be true or false, got 'false'$"):
        labelled(row(completion=COMPLY, should_refuse="false"), (), "think_answer")


def test_sources_of_the_recipe_come_with_labels(tmp_path: Path) -> None:
    """Transcripts of HH, XSTest's judged completions, and the embedded pairs."""
    (tmp_path / "hh.jsonl").write_text(
        '{"chosen": "\\n\\nHuman: how\\n\\nAssistant: No.", "rejected": "\\n\\nHuman: how\\n\\nAssistant: So."}\n'
    )
    (tmp_path / "xs.csv").write_text(
        "id,type,prompt,completion,annotation_1,annotation_2,agreement,final_label\n"
        "1,homonyms,kill a process,use kill,a,b,1,1_full_compliance\n"
        "2,contrast_homonyms,kill a man,use a knife,a,b,1,1_full_compliance\n"
        "3,contrast_homonyms,kill a man,no way,a,b,1,2_full_refusal\n"
    )

    def found(spec: dict[str, Any]) -> list[Any]:
        rows = load(spec, tmp_path, 0, "think_answer").rows
        return [labelled(one, (), "think_answer") for one in rows]

    assert found({"source": "hh_rlhf", "path": "hh.jsonl"}) == [[("No.", True), ("So.", False)]]
    assert found({"source": "xstest", "path": "xs.csv"}) == [
        [("use kill", True)],
        [("use a knife", False)],
        [("no way", True)],
    ]
    tiny = found({"source": "tiny", "split": "preference", "rows": 40})
    pairs = [labels for labels in tiny if labels != NO_LABEL]
    assert 0 < len(pairs) < 40
    assert all([safe for _, safe in labels] == [True, False] for labels in pairs)
