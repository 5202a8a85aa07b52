"""Copies of rows: where they come from, what they leave alone, and that none reaches what is held out."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from data import augment_text, sources
from data.augment_chain import Refused
from data.augment_text import paraphrase, read_table, synonyms
from data.augment_words import SYNONYMS, TASK, UNITS
from data.curate import normalised
from data.decontaminate import apart, decontaminate
from data.records import prompt_origin
from pipeline.config import load
from pipeline.graph import build
from stages import STAGES
from stages.training.classifier import split_by_prompt
from stages.training.early_stopping import EarlyStopping, hold_out

EN = 'My mom bought 3 kg of "large" apples for Tom\'s child at 2.50 a kg. How many more dollars did she pay?'
ZH = "妈妈喜欢番茄，购买了3千克，每千克5元。一共不多不少付了多少元？"


def rng(seed: int = 0) -> random.Random:
    return random.Random(seed)


def records(folder: Path, *rows: dict[str, Any], name: str = "rows.jsonl") -> str:
    filled = [{"id": str(n), "domain": "math", "language": "en", **row} for n, row in enumerate(rows)]
    (folder / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in filled), encoding="utf-8")
    return name


def asks(text: str, **columns: Any) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": text}], **columns}


def says(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def loaded(folder: Path, *rows: dict[str, Any], seed: int = 0, **augment: Any) -> tuple[list[Any], dict[str, int]]:
    spec = {"source": "records", "path": records(folder, *rows), "augment": augment}
    found = sources.load(spec, folder, seed, "think_answer")
    return list(found.rows), found.counts


def content(row: dict[str, Any]) -> str:
    return row["prompt"][-1]["content"]


def test_originals_come_first_unchanged_and_copies_name_their_origin(tmp_path: Path) -> None:
    rows = [asks(EN, answer="7"), asks(ZH, language="zh")]
    made, counts = loaded(tmp_path, *rows, methods=["synonyms", "paraphrase"], copies=2)
    plain = list(sources.load({"source": "records", "path": "rows.jsonl"}, tmp_path, 0, "think_answer").rows)
    assert made[:2] == plain
    copies = made[2:]
    assert [row["id"] for row in copies[:2]] == ["0+synonyms1", "0+synonyms2"]
    assert all(row["origin_prompt"] == plain[int(row["origin"])]["prompt"] for row in copies)
    assert [row["answer"] for row in copies if row["origin"] == "0"] == ["7"] * 4
    assert counts["used"] == len(made)
    assert counts["augmented by synonyms"] + counts["augmented by paraphrase"] == len(copies) == 8
    assert len({normalised(content(row)) for row in made}) == len(made)


def test_copies_are_a_function_of_the_seed_and_of_their_own_row(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"methods": ["paraphrase"], "copies": 2}
    once, _ = loaded(tmp_path, asks(EN), asks(ZH, language="zh"), **keys)
    again, _ = loaded(tmp_path, asks(EN), asks(ZH, language="zh"), **keys)
    other, _ = loaded(tmp_path, asks(EN), asks(ZH, language="zh"), seed=1, **keys)
    alone, _ = loaded(tmp_path, asks(EN), **keys)
    assert once == again
    assert [content(r) for r in once] != [content(r) for r in other]
    assert alone[1:] == [row for row in once if row.get("origin") == "0"]


def test_synonyms_replace_words_and_nothing_else() -> None:
    seen = set()
    for seed in range(20):
        text = synonyms(EN, "", "en", SYNONYMS, 1.0, rng(seed))
        seen.add(text)
        for kept in ("3 kg", '"large"', "Tom's", "2.50", "How many more dollars"):
            assert kept in text
    assert any("mother purchased" in text for text in seen)


def test_chinese_words_are_replaced_and_the_task_is_not() -> None:
    for seed in range(10):
        text = synonyms(ZH, "", "zh", SYNONYMS, 1.0, rng(seed))
        assert text != ZH
        for kept in ("3千克", "每千克5元", "一共不多不少付了多少元？"):
            assert kept in text
        assert "母亲" in text
        assert "西红柿" in text


@pytest.mark.parametrize(
    "text",
    [
        "Run `bought` and ```children``` here.",
        "Let $bought + children$ be \\bought.",
        'He said "the children bought it".',
        "The song 'everyone bought' is long.",
        "Mom, the mom of Ann.",  # with a capital it may be a name
        "A child-like step-mom's child's",
        "see https://children.org/bought",
        "An automobile passed.",  # "an car" would be wrong
        "The mom and the mother.",  # two people would become one
        "nothing in the table",
    ],
)
def test_code_formulas_quotes_names_and_misfits_are_left_alone(text: str) -> None:
    with pytest.raises(Refused, match="no word of the prompt may be replaced"):
        synonyms(text, "", "en", SYNONYMS, 1.0, rng())


def test_a_word_that_the_completion_uses_is_not_replaced(tmp_path: Path) -> None:
    row = asks("The child bought pens.", completion=says("The CHILD has pens."))
    made, _ = loaded(tmp_path, row, methods=["synonyms"], share=1.0)
    assert [content(r) for r in made] == ["The child bought pens.", "The child purchased pens."]
    assert made[1]["completion"] == made[0]["completion"]


def test_the_share_is_of_the_words_and_at_least_one_is_replaced() -> None:
    text = "The mom and the dad bought a large couch for everyone at home"
    for share, changed in ((0.01, 1), (0.2, 3), (1.0, 6)):
        new = synonyms(text, "", "en", SYNONYMS, share, rng())
        assert sum(a != b for a, b in zip(text.split(), new.split(), strict=True)) == changed


def test_the_bundled_tables_touch_no_task_and_no_unit() -> None:
    assert len(SYNONYMS) > 40
    assert not [word for word in SYNONYMS if augment_text._untouchable(word)]
    for others in SYNONYMS.values():
        assert not set(others) & (TASK | UNITS)


def test_a_paraphrase_holds_the_whole_text_or_its_parts_in_another_order() -> None:
    text = "Tom has 3 pens. He buys 5. How many pens has he now?"
    moved = 0
    for seed in range(60):
        new = paraphrase(text, "en", rng(seed))
        assert new != text
        assert Counter(re.findall(r"\d+", new)) == Counter("35")
        if text not in new:
            moved += 1
            assert new.index("How many pens has he now?") < new.index("Tom has 3 pens. He buys 5.")
    assert moved


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Who lives at the house of Mr. Smith?", "en"),
        ("Tom has 3 pens. Then he buys 5 more and asks Ann?", "en"),
        ("Write a poem. Make it long.", "en"),
        ("写一首诗。要长。", "zh"),
        ("Given $x=1. Y$. What is x?", "en"),
    ],
)
def test_a_text_that_cannot_be_taken_apart_for_certain_stays_whole(text: str, language: str) -> None:
    for seed in range(40):
        new = paraphrase(text, language, rng(seed))
        assert text in new
        assert ("question" in new.lower()) <= text.endswith("?")


def test_a_chinese_question_may_come_first() -> None:
    text = "小明有3支笔。又买了5支。现在有多少支？"
    found = {paraphrase(text, "zh", rng(seed)) for seed in range(60)}
    assert "现在有多少支？已知：小明有3支笔。又买了5支。" in found


def test_rows_that_a_method_does_not_apply_to_are_counted_with_the_reason(tmp_path: Path) -> None:
    turns = {"prompt": [*asks("The child bought it.")["prompt"], *says("Yes."), *asks("Who?")["prompt"]]}
    rows = [turns, asks("The child bought it.", domain="code"), asks("  "), asks("Hi.", language="fr"), asks("Hi.")]
    made, counts = loaded(tmp_path, *rows, methods=["synonyms"], copies=3)
    assert len(made) == 5
    assert {key: value for key, value in counts.items() if key != "used"} == {
        "not augmented by synonyms: the prompt has several turns": 1,
        "not augmented by synonyms: a program is asked for, whose words may be names": 1,
        "not augmented by synonyms: the prompt is empty": 1,
        "not augmented by synonyms: no words for language fr": 1,
        "not augmented by synonyms: no word of the prompt may be replaced": 1,
    }


def test_copies_never_repeat_an_original_or_one_another(tmp_path: Path) -> None:
    rows = [asks("The child ran."), asks("The kid ran."), asks("The kid ran to mom.")]
    made, counts = loaded(tmp_path, *rows, methods=["synonyms"], copies=5)
    texts = [normalised(content(row)) for row in made]
    assert len(set(texts)) == len(texts)
    assert counts["not augmented by synonyms: every further copy would be a duplicate"] == 2


def test_a_table_of_ones_own_replaces_the_bundled_one_and_is_part_of_the_identity(tmp_path: Path) -> None:
    table = tmp_path / "mine.jsonl"
    table.write_text('{"word": "pens", "synonyms": ["pencils"]}\n')
    keys: dict[str, Any] = {"methods": ["synonyms"], "table": "mine.jsonl"}
    made, _ = loaded(tmp_path, asks("The child has pens."), **keys)
    assert content(made[1]) == "The child has pencils."
    spec = {"source": "records", "path": "rows.jsonl", "augment": keys}
    before = sources.identity(spec, tmp_path)
    assert "mine.jsonl" not in json.dumps(before)
    table.write_text('{"word": "pens", "synonyms": ["crayons"]}\n')
    assert sources.identity(spec, tmp_path) != before
    assert "augment" not in sources.identity({"source": "records", "path": "rows.jsonl"}, tmp_path)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"word": "more", "synonyms": ["extra"]}', "'more' carries the task"),
        ('{"word": "hours", "synonyms": ["minutes"]}', "'hours' is a unit"),
        ('{"word": "千克", "synonyms": ["公斤"]}', "'千克' is a unit"),
        ('{"word": "至少", "synonyms": ["起码"]}', "'至少' carries the task"),
        ('{"word": "买", "synonyms": ["购"]}', "is one character"),
        ('{"word": "Tom", "synonyms": ["Tim"]}', "is not one word in small letters"),
        ('{"word": "x1", "synonyms": ["x2"]}', "is not one word in small letters"),
        ('{"word": "pens"}', "expected"),
        ('{"word": "pens", "synonyms": []}', "expected"),
        ('["pens"]', "expected"),
    ],
)
def test_a_table_that_would_change_the_task_is_refused_with_its_line(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "t.jsonl").write_text('{"word": "pens", "synonyms": ["pencils"]}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        read_table(tmp_path / "t.jsonl")
    assert "t.jsonl:2" in str(error.value)


def test_a_table_that_is_empty_or_absent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("")
    for name, told in (("t.jsonl", "no synonyms in it"), ("none.jsonl", "augment.table: no file 'none.jsonl'")):
        with pytest.raises(ValueError, match=told):
            loaded(tmp_path, asks("x"), methods=["synonyms"], table=name)


@pytest.mark.parametrize(
    ("augment", "told"),
    [
        ({"method": ["synonyms"]}, "augment: unknown key 'method'; did you mean 'methods'?"),
        ({}, "augment.methods is missing; known: synonyms, paraphrase, numbers"),
        ({"methods": ["synonym"]}, "unknown method 'synonym'; did you mean 'synonyms'?"),
        ({"methods": ["paraphrase", "paraphrase"]}, "a method occurs twice"),
        (
            {"methods": ["numbers"]},
            "numbers needs rows that note their calculations (source gsm8k), not those of 'records'",
        ),
        ({"methods": ["paraphrase"], "copies": 0}, "augment.copies must be at least 1, got 0"),
        ({"methods": ["paraphrase"], "copies": True}, "augment.copies must be int, got True"),
        ({"methods": ["synonyms"], "share": 0}, "augment.share must be above 0 and at most 1, got 0"),
        ({"methods": ["paraphrase"], "share": 0.1}, "augment.share belongs to the method synonyms"),
        ({"methods": ["paraphrase"], "table": "t"}, "augment.table belongs to the method synonyms"),
    ],
)
def test_a_wrong_entry_is_refused_before_a_file_is_opened(augment: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        sources.check({"source": "records", "path": "none.jsonl", "augment": augment})


def test_the_notes_of_a_solution_stay_inside(tmp_path: Path) -> None:
    gsm = {"question": "Tom has 3 pens and 5 boxes.", "answer": "3+5 = <<3+5=8>>8\n#### 8"}
    (tmp_path / "g.jsonl").write_text(json.dumps(gsm) + "\n")
    spec = {"source": "gsm8k", "path": "g.jsonl", "augment": {"methods": ["numbers"], "copies": 3}}
    rows = list(sources.load(spec, tmp_path, 0, "think_answer").rows)
    assert len(rows) == 4
    assert "<<" not in json.dumps(rows)
    assert "completion" not in rows[1]
    for row in rows:
        assert sum(map(int, re.findall(r"\d+", content(row)))) == int(row["answer"])


LONG = "In the old house on the hill the large children of the village bought one red book each, and then they left?"


def test_a_copy_that_equals_an_evaluation_row_is_removed_as_an_original_would_be(tmp_path: Path) -> None:
    """Copies pass through decontamination; and a copy of a contaminated row goes with it, however it is worded."""
    made, _ = loaded(tmp_path, asks("The child ran."), methods=["synonyms"])
    assert [content(row) for row in made] == ["The child ran.", "The kid ran."]
    counts: dict[str, int] = {}
    kept = list(apart(made, [asks("The kid ran.")], counts))
    assert [row["id"] for row in kept] == ["0"]
    assert counts == {"shares 13 words with a test question": 1}
    made, _ = loaded(tmp_path, asks(LONG), methods=["synonyms"], share=1.0)
    counts = {}
    assert list(apart(made, [asks(LONG)], counts)) == []
    assert counts == {"shares 13 words with a test question": 1, "copy of a row that does": 1}
    assert list(apart(made[1:], [asks(LONG)], {})), "the copy alone would have passed"


def configuration(folder: Path, data: dict[str, Any], evaluate: Any = None) -> Path:
    tree = {
        "name": "small",
        "sandbox": "weak",
        "models": {"base": {"path": "model"}},
        "data": data,
        "evaluate": {"data_from": evaluate} if evaluate else None,
        "steps": [{"name": "sft", "stage": "cold_start", "init_from": "base", "data_from": "train"}],
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(tree))
    return folder / "small.yaml"


def test_the_key_decontaminate_prepares_the_held_out_rows_first_and_removes_what_they_ask(tmp_path: Path) -> None:
    from pipeline.preparation import PREPARATION
    from stages.stage import Context

    records(tmp_path, asks("The child ran."), asks("The dog ran."), asks(LONG))
    records(tmp_path, asks("The kid ran."), asks(LONG, id="l"), name="test.jsonl")
    data = {
        "train": {
            "source": "records",
            "path": "rows.jsonl",
            "augment": {"methods": ["synonyms"], "share": 1.0},
            "decontaminate": "held_out",
        },
        "held_out": {"source": "records", "path": "test.jsonl"},
    }
    file = configuration(tmp_path, data)
    nodes = build(load(file), STAGES, file)
    assert [node.name for node in nodes][:2] == ["held_out", "train"]
    from data.artifact import Artifact, Kind
    from data.records import read_rows

    outs = {}
    for node in nodes[:2]:
        out = tmp_path / node.name
        out.mkdir()
        inputs = {
            name: [Artifact(kind=Kind.DATASET, path=tmp_path / source, fingerprint="x") for source in names]
            for name, names in node.inputs.items()
        }
        context = Context(seed=0, convention="think_answer", work=tmp_path, sandbox="weak")
        outs[node.name] = PREPARATION.run(node.config, inputs, out, context)
    assert [content(row) for row in read_rows(tmp_path / "train" / "rows.jsonl")] == ["The child ran.", "The dog ran."]
    assert outs["train"].counts["used"] == 2
    assert outs["train"].counts["left out: shares 13 words with a test question"] == 2
    assert outs["train"].counts["left out: copy of a row that does"] == 1


TRAIN = {"source": "tiny", "split": "rl", "rows": 3}
COPIES = {"augment": {"methods": ["paraphrase"]}}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"train": {**TRAIN, "decontaminate": "tset"}, "test": TRAIN}, "data.train.decontaminate: unknown name 'tset'"),
        ({"train": {**TRAIN, "decontaminate": "train"}}, "cannot be kept apart from itself"),
        ({"train": {**TRAIN, "decontaminate": "test"}, "test": {**TRAIN, **COPIES}}, "held-out rows have no copies"),
        ({"train": {**TRAIN, "decontaminate": []}}, "decontaminate must name entries of data"),
        (
            {"train": {**TRAIN, "decontaminate": "test"}, "test": {**TRAIN, "decontaminate": "train"}},
            "data: the inputs go in a circle: test -> train -> test",
        ),
    ],
)
def test_a_wrong_decontaminate_is_refused(tmp_path: Path, data: dict[str, Any], told: str) -> None:
    file = configuration(tmp_path, data)
    with pytest.raises(ValueError, match=re.escape(told)):
        build(load(file), STAGES, file)


def test_an_evaluation_on_copies_is_refused(tmp_path: Path) -> None:
    file = configuration(tmp_path, {"train": TRAIN, "test": {**TRAIN, **COPIES}}, evaluate="test")
    with pytest.raises(ValueError, match=re.escape("data.test.augment: an evaluation reads it")):
        build(load(file), STAGES, file)


@pytest.mark.parametrize("stage", ["evaluation", "rejection_sampling"])
def test_an_evaluation_on_copies_is_refused_through_a_step_too(tmp_path: Path, stage: str) -> None:
    file = configuration(tmp_path, {"train": TRAIN, "test": {**TRAIN, **COPIES}})
    tree = yaml.safe_load(file.read_text())
    tree["models"] = {"base": {"path": str(Path("data/tiny/base").resolve()), "evaluate": False}}
    tree["steps"].append({"name": "made", "stage": stage, "init_from": "base", "data_from": "test"})
    if stage != "evaluation":
        tree["steps"].append({"name": "told", "stage": "evaluation", "init_from": "base", "data_from": "made"})
    file.write_text(yaml.safe_dump(tree))
    with pytest.raises(ValueError, match=re.escape("data.test.augment: an evaluation reads it")):
        build(load(file), STAGES, file)


def test_raw_text_is_kept_apart_from_questions_and_has_no_copies(tmp_path: Path) -> None:
    asked = "what is the sum of one and two and three and four and five and six"
    texts = [{"text": f"They say: {asked}!"}, {"text": "Nothing of it."}]
    kept = decontaminate(texts, [asks(asked)])
    assert kept.rows == texts[1:]
    file = configuration(tmp_path, {"train": TRAIN, "book": {"source": "text", "path": "b.jsonl", **COPIES}})
    with pytest.raises(ValueError, match="augment makes copies of questions, and raw text has none"):
        build(load(file), STAGES, file)


def test_a_column_of_ones_own_is_no_origin() -> None:
    asked = "what is the sum of one and two and three and four and five and six"
    rows = [{**asks(asked), "id": "7"}, {**asks("another one"), "origin": "7"}, {**asks("a third"), "origin": ["web"]}]
    assert decontaminate(rows, [asks(asked)]).rows == rows[1:]
    assert prompt_origin({**asks("a"), "origin_prompt": "mine"}) == prompt_origin(asks("a"))


def test_a_table_is_relative_to_the_file_that_names_it(tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    entry = {**TRAIN, "augment": {"methods": ["synonyms"], "table": "mine.jsonl"}}
    configuration(below, {"train": entry})
    (tmp_path / "top.yaml").write_text("extends: below/small.yaml\n")
    assert load(tmp_path / "top.yaml").data["train"]["augment"]["table"] == str(below / "mine.jsonl")


def test_what_a_step_holds_out_takes_the_copies_along(tmp_path: Path) -> None:
    rows = [asks(f"The child {n} ran.", chosen=says("a"), rejected=says("b")) for n in range(30)]
    made, _ = loaded(tmp_path, *rows, methods=["paraphrase"], copies=2)

    def family(row: dict[str, Any]) -> str:
        return row.get("origin", row["id"])

    pairs: list[Any] = [(row, row["id"]) for row in made]
    trained, held = hold_out(pairs, EarlyStopping(share=0.3), 0)
    heads = {family(row) for row in made if row["id"] in held}
    assert held
    assert not heads & {family(row) for row, _ in trained}
    train, test = split_by_prompt(made, prompt_origin, 0.3, 0)
    assert test
    assert not {family(row) for row in train} & {family(row) for row in test}
