"""Sources: every schema, every file format, real files with exact counts, and each refusal."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import sources
from data.adapters_code import entry_point
from data.adapters_math import last_boxed
from data.language import detect_language
from data.records import read_rows
from data.template import CONVENTIONS

REAL = Path(__file__).parents[2] / "shared" / "data"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the public data files are not in {REAL}")

GSM = {"question": "1 + 1?", "answer": "1+1 = <<1+1=2>>2\n#### 2"}


def write(folder: Path, name: str, values: list[Any]) -> str:
    text = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
    (folder / name).write_text(text, encoding="utf-8")
    return name


def rows_of(spec: dict[str, Any], base: Path, seed: int = 0, convention: str = "think_answer") -> list[dict[str, Any]]:
    return list(sources.load(spec, base, seed, convention).rows)


def one(tmp_path: Path, source: str, value: dict[str, Any], convention: str = "think_answer", **spec: Any) -> Any:
    """The row, or the counts where there is none."""
    loaded = sources.load(
        {"source": source, "path": write(tmp_path, "one.jsonl", [value]), **spec}, tmp_path, 0, convention
    )
    rows = list(loaded.rows)
    return rows[0] if rows else loaded.counts


@needs_real
@pytest.mark.parametrize(
    ("source", "path", "counts", "languages"),
    [
        ("gsm8k", "gsm8k/train.jsonl", {"used": 7473}, {"en": 7473}),
        ("math", "math_train/math.json", {"used": 7470, "unusable: no answer": 4}, {"en": 7470}),
        ("svamp", "svamp/test.jsonl", {"used": 1000}, {"en": 1000}),
        ("aime24", "aime24/test.jsonl", {"used": 30}, {"en": 30}),
        ("cmath", "cmath/*.jsonl", {"used": 960}, {"zh": 960}),
        ("mbpp", "mbpp/mbpp.jsonl", {"used": 974}, {"en": 974}),
        ("mbpp", "mbpp/sanitized-mbpp.json", {"used": 427}, {"en": 427}),
        ("mbpp", "sandboxfusion_oj/code_eval_mbpp.jsonl", {"used": 20}, {"en": 20}),
        ("code_contests", "sandboxfusion_oj/code_eval_code_contests.jsonl", {"used": 20}, {"en": 20}),
        ("kk_logic", "kk_logic/3ppl_test.parquet", {"used": 100}, {"en": 100}),
        ("r1_traces", "r1_traces/*outputs.json", {"used": 10}, {"en": 10}),
        (
            "r1_traces",
            "r1_traces/reason_tool_use_demo_50.jsonl",
            {
                "used": 37,
                "unusable: ends in a tool call": 11,
                "unusable: a tag of the output convention inside the text": 2,
            },
            {"en": 37},
        ),
        (
            "hh_rlhf",
            "hh_rlhf/test.jsonl.gz",
            {
                "used": 2303,
                "unusable: empty answer": 4,
                "unusable: the two conversations part before the last answer": 5,
            },
            {"en": 2303},
        ),
        ("dpo_demo", "dpo_demo/dpo_en_demo.json", {"used": 300}, {"en": 300}),
        ("dpo_demo", "dpo_demo/dpo_zh_demo.json", {"used": 300}, {"zh": 297, "en": 3}),
        ("xstest", "xstest/xstest_prompts.csv", {"used": 450}, {"en": 450}),
        ("xstest", "xstest/xstest_v2_completions_mistralinstruct.csv", {"used": 450}, {"en": 450}),
        ("advbench", "advbench/advbench_behaviors.csv", {"used": 520}, {"en": 520}),
    ],
)
def test_real_files_are_read_whole(source: str, path: str, counts: dict[str, int], languages: dict[str, int]) -> None:
    loaded = sources.load({"source": source, "path": path}, REAL, 0, "think_answer")
    rows = list(loaded.rows)
    assert loaded.counts == counts
    assert Counter(row["language"] for row in rows) == languages
    assert len({row["id"] for row in rows}) == len(rows)


@needs_real
@pytest.mark.parametrize("convention", sorted(CONVENTIONS))
@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("gsm8k", "gsm8k/train.jsonl"),
        ("mbpp", "mbpp/mbpp.jsonl"),
        ("kk_logic", "kk_logic/3ppl_test.parquet"),
        ("aime24", "aime24/test.jsonl"),
    ],
)
def test_worked_solutions_are_laid_out_in_every_convention(source: str, path: str, convention: str) -> None:
    spec = {"source": source, "path": path, "solutions": True, "rows": 300}
    rows = rows_of(spec, REAL, convention=convention)
    assert len(rows) == {"kk_logic": 100, "aime24": 30}.get(source, 300)
    layout = CONVENTIONS[convention]
    for row in rows:
        parsed = layout.parse(row["completion"][0]["content"])
        assert parsed.well_formed
        if source in ("gsm8k", "aime24") and layout.answer_open:
            assert parsed.answer == row["answer"]
        if source == "gsm8k":
            assert "<<" not in row["completion"][0]["content"]


@needs_real
def test_mbpp_splits_are_those_of_the_paper() -> None:
    counted = {
        split: len(rows_of({"source": "mbpp", "path": "mbpp/mbpp.jsonl", "split": split}, REAL))
        for split in ("prompt", "test", "validation", "train")
    }
    assert counted == {"prompt": 10, "test": 500, "validation": 90, "train": 374}


def test_gsm8k_takes_the_answer_after_the_mark(tmp_path: Path) -> None:
    row = one(tmp_path, "gsm8k", {"question": "q?", "answer": "a\n#### 1,234"}, solutions=True)
    assert row["answer"] == "1234"
    assert row["id"] == "gsm8k/one-0"
    assert row["completion"][0]["content"] == "<think>\na\n</think>\n<answer>\n1234\n</answer>"
    assert one(tmp_path, "gsm8k", {"question": "q?", "answer": "no mark"}) == {"used": 0, "unusable: no answer": 1}
    assert one(tmp_path, "gsm8k", {"question": " ", "answer": "#### 1"}) == {"used": 0, "unusable: no question": 1}
    assert one(tmp_path, "gsm8k", {"question": "q", "answer": "#### 1"}, solutions=True) == {
        "used": 0,
        "unusable: no worked solution": 1,
    }


def test_boxed_answers_where_a_convention_has_no_answer_tags(tmp_path: Path) -> None:
    assert one(tmp_path, "gsm8k", GSM, "boxed", solutions=True)["completion"][0]["content"].endswith("\\boxed{2}")
    assert one(tmp_path, "gsm8k", GSM, "none", solutions=True)["completion"][0]["content"] == "1+1 = 2\n\n\\boxed{2}"


def test_a_tag_inside_a_solution_makes_the_row_unusable(tmp_path: Path) -> None:
    value = {"question": "q", "answer": "see </think>\n#### 2"}
    reason = "unusable: a tag of the output convention inside the text"
    assert one(tmp_path, "gsm8k", value, solutions=True) == {"used": 0, reason: 1}


@pytest.mark.parametrize(
    ("value", "answer", "difficulty"),
    [
        ({"problem": "p", "answer": "\\frac12", "difficulty": 3.0}, "\\frac12", 3.0),
        (
            {"problem": "p", "solution": "so \\boxed{1} or \\boxed{\\frac{1}{2}}.", "level": "Level 5"},
            "\\frac{1}{2}",
            5,
        ),
        ({"problem": "p", "answer": 7.0, "level": "Level ?"}, "7", None),
    ],
)
def test_math_rows_of_both_layouts(tmp_path: Path, value: dict[str, Any], answer: str, difficulty: float) -> None:
    row = one(tmp_path, "math", value)
    assert (row["answer"], row.get("difficulty")) == (answer, difficulty)


@pytest.mark.parametrize(
    "value", [{"answer": None}, {"answer": " "}, {"solution": "no box"}, {"solution": "\\boxed{1"}]
)
def test_math_rows_without_an_answer_are_counted(tmp_path: Path, value: dict[str, Any]) -> None:
    assert one(tmp_path, "math", {"problem": "p", **value}) == {"used": 0, "unusable: no answer": 1}


@given(st.text(alphabet="ab{}\\boxed ", max_size=40))
def test_the_last_box_is_balanced_or_none(text: str) -> None:
    found = last_boxed(text)
    assert found is None or found.count("{") == found.count("}")


def test_gpqa_choices_are_shuffled_by_the_seed(tmp_path: Path) -> None:
    wrong = {f"Incorrect Answer {n}": f"wrong {n}" for n in (1, 2, 3)}
    values = [{"Question": f"q{n}", "Correct Answer": "right", **wrong, "Explanation": "e"} for n in range(40)]
    spec = {"source": "gpqa", "path": write(tmp_path, "gpqa.jsonl", values), "solutions": True}
    first, again, other = (rows_of(spec, tmp_path, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert set(Counter(row["answer"] for row in first)) == set("ABCD")
    assert all(f"{row['answer']}. right" in row["prompt"][0]["content"] for row in first)
    same = {"Question": "q", "Correct Answer": "x", **wrong, "Incorrect Answer 1": "x"}
    assert one(tmp_path, "gpqa", same) == {"used": 0, "unusable: two choices are the same": 1}


@pytest.mark.parametrize(
    ("asserts", "code", "name"),
    [
        (["assert f(1) == 2"], "def f(x): return 2", "f"),
        (["assert set(f(1)) == set((1,))"], "def f(x): return [1]", "f"),
        (["assert sum(3) == 1"], "def sum(x): return 1", "sum"),
        (["assert g(Pair(1), 2) == 3"], "class Pair: pass\ndef g(p, n): return 3", "g"),
        (["assert f(1) == 2", "assert g(1) == 2"], "def f(x): pass\ndef g(x): pass", None),
        (["assert f("], "def f(x): pass", None),
        (["assert f(1)"], "def f(", None),
        (["assert other(1)"], "def f(x): pass", None),
        ([], "def f(x): pass", None),
        (["assert f(1)\x00"], "def f(x): pass", None),
    ],
)
def test_the_function_under_test(asserts: list[str], code: str, name: str | None) -> None:
    assert entry_point(asserts, code) == name


def test_mbpp_rows_without_a_function_are_counted(tmp_path: Path) -> None:
    value = {"text": "t", "code": "x = 1", "task_id": 1, "test_setup_code": "import os", "test_list": ["assert f(1)"]}
    assert one(tmp_path, "mbpp", value) == {"used": 0, "unusable: no function name in the asserts": 1}
    row = one(tmp_path, "mbpp", {**value, "code": "def f(x): return 1"})
    assert row["tests"] == {"kind": "function", "entry_point": "f", "asserts": ["assert f(1)"], "setup": "import os"}
    with pytest.raises(ValueError, match=r"one.jsonl:1: column 'task_id' must be int, got str"):
        one(tmp_path, "mbpp", {**value, "task_id": "1"}, split="train")
    with pytest.raises(ValueError, match="column 'test_list' must be a list, got str"):
        one(tmp_path, "mbpp", {**value, "test_list": "assert f(1)"})


CF: dict[str, Any] = {
    "description": "Add.",
    "input_format": "two numbers",
    "output_format": "sum",
    "examples": [{"input": "1 2", "output": "3"}],
    "official_tests": [{"input": "2 2", "output": "4"}],
    "input_mode": "stdio",
    "rating": 800,
}


def test_codeforces_problems(tmp_path: Path) -> None:
    row = one(tmp_path, "codeforces", CF)
    assert row["tests"] == {"kind": "stdio", "cases": [{"input": "2 2", "output": "4"}]}
    assert row["difficulty"] == 800
    assert "Example input\n1 2" in row["prompt"][0]["content"]
    assert one(tmp_path, "codeforces", CF | {"official_tests": None})["tests"]["cases"][0]["output"] == "3"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"interaction_format": "ask"}, "interactive problem"),
        ({"input_mode": "file"}, "reads files"),
        ({"generated_checker": "code"}, "more than one right output"),
        ({"official_tests": [], "examples": []}, "no tests"),
    ],
)
def test_problems_that_text_cannot_decide_are_counted(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    assert one(tmp_path, "codeforces", CF | change) == {"used": 0, f"unusable: {reason}": 1}


def test_contest_tests_that_are_not_json_are_malformed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one.jsonl:1: column 'test' is not JSON"):
        one(tmp_path, "code_contests", {"content": "c", "test": "[", "labels": "{}"})


def test_instruction_sets_through_renamed_columns(tmp_path: Path) -> None:
    value = {"Question": "What is it?", "Complex_CoT": "I think.", "Response": "A cold.", "note": "cough"}
    columns = {"prompt": "Question", "reasoning": "Complex_CoT", "completion": "Response", "context": "note"}
    row = one(tmp_path, "prompt_completion", value, columns=columns, domain="medicine")
    assert row["domain"] == "medicine"
    assert row["prompt"][0]["content"] == "What is it?\n\ncough"
    assert CONVENTIONS["think_answer"].parse(row["completion"][0]["content"]).answer == "A cold."
    with pytest.raises(
        ValueError, match=r"the column 'Qestion' \(columns: prompt\) is missing; did you mean 'Question'"
    ):
        one(tmp_path, "prompt_completion", value, columns={"prompt": "Qestion"})


def test_prompt_answer_with_reasoning(tmp_path: Path) -> None:
    value = {"prompt": "p", "answer": 3, "reasoning": "because", "difficulty": 2}
    row = one(tmp_path, "prompt_answer", value, "zh", solutions=True)
    assert (row["answer"], row["difficulty"]) == ("3", 2)
    assert CONVENTIONS["zh"].parse(row["completion"][0]["content"]).well_formed
    with pytest.raises(ValueError, match="column 'answer' must be text or a number, got bool"):
        one(tmp_path, "prompt_answer", {"prompt": "p", "answer": True})


@pytest.mark.parametrize("convention", ["think_answer", "zh", "boxed"])
@pytest.mark.parametrize("said", ["<think>\nhm\n</think>\n\nSeven.", "<think>hm</think><answer>Seven.</answer>"])
def test_traces_of_other_models_are_laid_out_anew(tmp_path: Path, said: str, convention: str) -> None:
    value = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": said}]}
    parsed = CONVENTIONS[convention].parse(one(tmp_path, "messages", value, convention)["completion"][0]["content"])
    assert (parsed.reasoning, parsed.answer, parsed.well_formed) == ("hm", "Seven.", True)


def test_conversations_of_both_styles(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "human", "value": "c"}]
    row = one(tmp_path, "messages", {"conversations": turns, "system": "s"})
    assert [m["role"] for m in row["prompt"]] == ["system", "user"]
    assert row["completion"] == [{"role": "assistant", "content": "b"}]
    with pytest.raises(ValueError, match=r"one.jsonl:1: unknown role 'narrator'"):
        one(tmp_path, "messages", {"conversations": [{"from": "narrator", "value": "x"}]})
    with pytest.raises(ValueError, match="content of a message must be text, got int"):
        one(tmp_path, "messages", {"messages": [{"role": "user", "content": 3}]})
    unusable = {"used": 0, "unusable: no question before the answer": 1}
    assert one(tmp_path, "messages", {"conversations": turns[1:2]}) == unusable
    empty = [{"role": "user", "content": "q"}, {"role": "assistant", "content": " "}]
    assert one(tmp_path, "messages", {"messages": empty}) == {"used": 0, "unusable: empty completion": 1}


def test_preference_pairs_of_three_styles(tmp_path: Path) -> None:
    q, good, bad = ({"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "yes"), ("assistant", "no")))
    for value in (
        {"prompt": "q", "chosen": "yes", "rejected": "no"},
        {"prompt": "q", "chosen": [q, good], "rejected": [q, bad]},
        {"chosen": [q, good], "rejected": [q, bad]},
        {"conversations": [{"from": "human", "value": "q"}], "chosen": good, "rejected": bad},
    ):
        row = one(tmp_path, "preference", value)
        assert (row["prompt"], row["chosen"], row["rejected"]) == ([q], [good], [bad])
    same = {"prompt": "q", "chosen": "yes", "rejected": "yes"}
    assert one(tmp_path, "preference", same) == {"used": 0, "unusable: chosen and rejected are the same": 1}


def test_languages() -> None:
    assert detect_language("芳芳买了一本书有99页") == "zh"
    assert detect_language("Solve $x$") == "en"
    assert detect_language("求解 $\\text{a long english formula here}$ 的值") == "zh"
    assert detect_language("把 ```python\nfor i in range(10): print(i)\n``` 改写") == "zh"
    assert detect_language("") == "en"


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = [GSM, {"question": "二加二？\n多少", "answer": "#### 4"}]
    write(tmp_path, "a.jsonl", values)
    write(tmp_path, "a.json", values)
    (tmp_path / "b.json").write_text(json.dumps(values))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    pq.write_table(pa.Table.from_pylist(values), tmp_path / "a.parquet")
    quoted = [",".join('"' + v[k].replace('"', '""') + '"' for k in ("question", "answer")) for v in values]
    (tmp_path / "a.csv").write_text("\ufeffquestion,answer\n" + "\n".join(quoted) + "\n", encoding="utf-8")
    want = [(row["prompt"], row["answer"]) for row in rows_of({"source": "gsm8k", "path": "a.jsonl"}, tmp_path)]
    for name in ("a.json", "b.json", "a.jsonl.gz", "a.parquet", "a.csv"):
        got = rows_of({"source": "gsm8k", "path": name}, tmp_path)
        assert [(row["prompt"], row["answer"]) for row in got] == want, name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"question": "q", "answer": "#### 1"}\n{oops}\n', r"x.jsonl:2: not JSON"),
        ("x.jsonl", b"\n[1]\n", r"x.jsonl:2: expected an object, got list"),
        ("x.jsonl", b"\xff\xfe\n", r"x.jsonl:1: not UTF-8"),
        ("x.jsonl", b'{"question": 3, "answer": "#### 1"}', r"x.jsonl:1: column 'question' must be text, got int"),
        ("x.jsonl", b'{"qestion": "q", "answer": "#### 1"}', r"'question' is missing; did you mean 'qestion'"),
        ("x.jsonl", b"{}", r"x.jsonl:1: the column 'answer' is missing"),
        ("x.jsonl", b"[" * 100_000, r"x.jsonl:1: not JSON \(nested too deeply\)"),
        ("x.json", b"[{]", r"x.json: not JSON"),
        ("x.csv", b"question,answer\na,b,c\n", r"x.csv:2: the number of fields differs"),
        ("x.csv", b"question,answer\n\xff,b\n", r"x.csv: not UTF-8"),
        ("x.csv", b"question,answer\n" + b"a" * 200_000 + b",b\n", r"x.csv:2: not CSV"),
        ("x.parquet", b"PAR1 no", r"x.parquet: not parquet"),
        ("x.jsonl.gz", b"plain", r"x.jsonl.gz: not a whole gzip file"),
        ("x.jsonl.gz", gzip.compress(b'{"a": 1}' * 999, mtime=0)[:-9], r"x.jsonl.gz: not a whole gzip file"),
        ("x.doc", b"", r"x.doc: unknown format; known are .jsonl"),
        ("x", b"", r"x: unknown format"),
    ],
)
def test_a_malformed_file_is_one_clear_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        rows_of({"source": "gsm8k", "path": name}, tmp_path)
    assert "\n" not in str(caught.value)


def test_malformed_lines_can_be_counted_instead(tmp_path: Path) -> None:
    lines = [json.dumps(GSM), "{oops", '{"question": 3}', json.dumps(GSM)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    loaded = sources.load({"source": "gsm8k", "path": "x.jsonl", "on_error": "count"}, tmp_path, 0, "none")
    assert len(list(loaded.rows)) == 2
    assert loaded.counts == {"used": 2, "unusable: malformed": 2}


def test_a_row_of_another_schema_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one.jsonl:1: not a row of source 'code_contests' \(KeyError: 'input'\)"):
        one(tmp_path, "code_contests", {"content": "c", "test": [{}], "labels": {}})


def test_records_keep_their_own_columns(tmp_path: Path) -> None:
    value = {"id": "a", "prompt": [{"role": "user", "content": "q"}], "domain": "law", "language": "zh", "mine": 1}
    assert one(tmp_path, "records", value) == value | {"source": "records"}
    with pytest.raises(ValueError, match=r"one.jsonl:1: column 'prompt' must be list, got str"):
        one(tmp_path, "records", value | {"prompt": "q"})
    with pytest.raises(ValueError, match=r"one.jsonl:1: the column 'prompt' is missing"):
        one(tmp_path, "records", {"id": "a"})
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"one.jsonl:1: column 'difficulty' must be a finite number, got"):
            one(tmp_path, "records", value | {"difficulty": number})
    with pytest.raises(ValueError, match=r"one.jsonl:1: column 'completion' must end with what the assistant says"):
        one(tmp_path, "records", value | {"completion": value["prompt"]})


def test_rows_skip_shuffle_and_filters(tmp_path: Path) -> None:
    values = [{"prompt": f"{n}?", "answer": n, "difficulty": n} for n in range(20)]
    spec: dict[str, Any] = {"source": "prompt_answer", "path": write(tmp_path, "n.jsonl", values)}
    assert [r["answer"] for r in rows_of(spec | {"rows": 3, "skip": 2}, tmp_path)] == ["2", "3", "4"]
    shuffled = rows_of(spec | {"shuffle": True}, tmp_path, seed=5)
    assert shuffled == rows_of(spec | {"shuffle": True}, tmp_path, seed=5)
    assert shuffled != rows_of(spec | {"shuffle": True}, tmp_path, seed=6)
    assert sorted(int(r["answer"]) for r in shuffled) == list(range(20))
    parts = [rows_of(spec | {"shuffle": True, **part}, tmp_path) for part in ({"rows": 12}, {"skip": 12})]
    assert not {r["id"] for r in parts[0]} & {r["id"] for r in parts[1]}
    loaded = sources.load(spec | {"difficulties": [5, 7], "languages": ["en"]}, tmp_path, 0, "none")
    assert [r["answer"] for r in loaded.rows] == ["5", "6", "7"]
    assert loaded.counts == {"used": 3, "left out: difficulties": 17}
    assert rows_of(spec | {"domains": ["law"], "domain": "math"}, tmp_path) == []
    set_ = rows_of(spec | {"domain": "law", "language": "zh", "difficulty": 9, "rows": 1}, tmp_path)[0]
    assert (set_["domain"], set_["language"], set_["difficulty"]) == ("law", "zh", 0)
    bare = {"source": "gsm8k", "path": write(tmp_path, "g.jsonl", [GSM]), "difficulty": 9}
    assert rows_of(bare, tmp_path)[0]["difficulty"] == 9
    assert rows_of(bare | {"difficulties": [0, 8]}, tmp_path) == []


def test_the_embedded_world_with_filters() -> None:
    spec = {"source": "tiny", "split": "rl", "rows": 20, "skip": 5, "domains": ["math"], "languages": ["zh"]}
    loaded = sources.load(spec, Path(), 0, "think_answer")
    rows = list(loaded.rows)
    assert len(rows) == loaded.counts["used"] == 20
    assert {(row["domain"], row["language"]) for row in rows} == {("math", "zh")}
    shuffled = rows_of(spec | {"shuffle": True}, Path())
    assert sorted(r["id"] for r in shuffled) == sorted(r["id"] for r in rows)
    with pytest.raises(ValueError, match=r"tiny/rl: only 0 of 64 generated rows match the filters, 1 are needed"):
        rows_of({"source": "tiny", "split": "rl", "rows": 1, "domains": ["law"]}, Path())


def test_identity_is_content_not_place(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, f"{folder}.jsonl", [GSM])
    same = [sources.identity({"source": "gsm8k", "path": f"{f}/{f}.jsonl"}, tmp_path) for f in ("a", "b")]
    assert same[0] == same[1]
    assert str(tmp_path) not in json.dumps(same)
    write(tmp_path / "b", "b.jsonl", [GSM, GSM])
    assert sources.identity({"source": "gsm8k", "path": "b/b.jsonl"}, tmp_path) != same[0]
    assert sources.identity({"source": "gsm8k", "path": "a/a.jsonl", "rows": 1}, tmp_path) != same[0]
    order = [
        sources.identity({"source": "gsm8k", "path": p}, tmp_path) for p in (["a/a.jsonl", "b/b.jsonl"], "*/*.jsonl")
    ]
    assert order[0] == order[1]
    world = sources.identity({"source": "tiny", "split": "rl", "rows": 5}, tmp_path)
    assert world["content"]
    hub = {"source": "gsm8k", "hub": "openai/gsm8k", "revision": "e" * 40}
    assert sources.identity(hub, tmp_path)["revision"] == "e" * 40


def test_a_hub_data_set_is_read_by_the_datasets_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` takes a directory below the working directory for a repository of that name: no network needed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "someone" / "sums").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([GSM, GSM]), tmp_path / "someone" / "sums" / "train.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    spec = {"source": "gsm8k", "hub": "someone/sums", "revision": "a" * 40, "split": "train"}
    rows = rows_of(spec, tmp_path)
    assert [row["id"] for row in rows] == ["gsm8k/train-0", "gsm8k/train-1"]
    assert rows[0]["answer"] == "2"
    streamed = sources.load(spec, tmp_path, 0, "think_answer", stream=True)
    assert list(streamed.rows) == rows
    with pytest.raises(ValueError, match="hub dataset someone/sums: cannot be loaded"):
        rows_of(spec | {"split": "tset"}, tmp_path)


def test_an_unpinned_hub_data_set_is_a_valid_entry_that_cannot_run(tmp_path: Path) -> None:
    spec = {"source": "gsm8k", "hub": "openai/gsm8k", "revision": sources.UNPINNED}
    sources.check(spec)
    for use in (lambda: sources.identity(spec, tmp_path), lambda: rows_of(spec, tmp_path)):
        with pytest.raises(ValueError, match=r"hub dataset openai/gsm8k is not pinned: set its revision"):
            use()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "the key 'source' is missing; known sources: tiny"),
        ({"source": "gsm8"}, "unknown source 'gsm8'; did you mean 'gsm8k'"),
        ({"source": "gsm8k", "paht": "x"}, "unknown key 'paht' of source 'gsm8k'; did you mean 'path'"),
        ({"source": "gsm8k", "path": 3}, "path of source 'gsm8k' must be str or list, got 3"),
        ({"source": "gsm8k", "path": "x", "rows": True}, "rows of source 'gsm8k' must be int, got True"),
        ({"source": "gsm8k", "path": "x", "rows": 0}, "rows of source 'gsm8k' must not be 0"),
        ({"source": "gsm8k", "path": "x", "rows": 10**30}, "rows of source 'gsm8k' must not be 1000"),
        ({"source": "gsm8k", "path": "x", "skip": -1}, "skip of source 'gsm8k' must not be -1"),
        ({"source": "gsm8k", "path": "x", "on_error": "skip"}, "on_error must be stop or count, got 'skip'"),
        ({"source": "gsm8k", "path": "x", "difficulties": [2, 1]}, r"difficulties must be \[lowest, highest\]"),
        ({"source": "gsm8k"}, "source 'gsm8k' needs either 'path' or 'hub', got neither"),
        ({"source": "gsm8k", "path": "x", "hub": "y"}, "needs either 'path' or 'hub', got path and hub"),
        ({"source": "gsm8k", "path": "x", "split": "train"}, "the key 'split' of source 'gsm8k' needs 'hub'"),
        ({"source": "gsm8k", "path": "x", "revision": "a"}, "the key 'revision' of source 'gsm8k' needs 'hub'"),
        ({"source": "tiny", "split": "cold_strat", "rows": 1}, "split 'cold_strat' of tiny; did you mean 'cold_start'"),
        ({"source": "mbpp", "path": "x", "split": "trian"}, "unknown split 'trian' of mbpp; did you mean 'train'"),
        ({"source": "gsm8k", "hub": "openai/gsm8k"}, "needs 'revision', a full commit of 40 hex digits, got None"),
        ({"source": "gsm8k", "hub": "openai/gsm8k", "revision": "main"}, "40 hex digits, got 'main'"),
        ({"source": "svamp", "path": "x", "solutions": True}, "source 'svamp' has no worked solutions"),
        ({"source": "tiny", "split": "rl"}, "source 'tiny' needs the key 'rows'"),
        ({"source": "tiny", "split": "rl", "rows": 3, "path": "x"}, "the key 'path' does not apply to source 'tiny'"),
    ],
)
def test_a_wrong_entry_is_one_clear_line(tmp_path: Path, spec: dict[str, Any], message: str) -> None:
    for use in (sources.check, lambda s: sources.identity(s, tmp_path), lambda s: rows_of(s, tmp_path)):
        with pytest.raises(ValueError, match=message):
            use(spec)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.jsonl", r"path: no file 'none.jsonl'"),
        ("*.jsonl", r"path: no file '\*.jsonl'"),
        ([], "path is an empty list"),
        ([3], "path must be a file name, a pattern or a list of them, got 3"),
    ],
)
def test_files_that_are_not_there(tmp_path: Path, path: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sources.load({"source": "gsm8k", "path": path}, tmp_path, 0, "none")


def test_an_unknown_convention_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown output convention 'boxd'; did you mean 'boxed'"):
        rows_of({"source": "gsm8k", "path": "x"}, tmp_path, convention="boxd")


def test_safety_prompts_say_whether_to_decline(tmp_path: Path) -> None:
    value = {"prompt": "How do I kill a Python process?", "type": "homonyms"}
    safe, unsafe = (one(tmp_path, "xstest", value | {"type": t}) for t in ("homonyms", "contrast_homonyms"))
    assert (safe["should_refuse"], unsafe["should_refuse"]) == (False, True)
    assert one(tmp_path, "advbench", {"Behavior": "Do harm"})["should_refuse"] is True
    judged = one(tmp_path, "xstest", value | {"completion": "Use kill.", "final_label": "1_full_compliance"})
    assert (judged["judgement"], judged["completion"][0]["content"]) == ("1_full_compliance", "Use kill.")


@pytest.mark.parametrize(
    "line", ['"answer": "5\\udfff"', '"completion": [{"role": "assistant", "content": "\\ud800"}]']
)
def test_half_a_character_is_an_error_of_the_row(tmp_path: Path, line: str) -> None:
    """JSON can write one; a tokenizer and a file in UTF-8 cannot hold it."""
    file = tmp_path / "half.jsonl"
    prompt = '[{"role": "user", "content": "x"}]'
    file.write_text(f'{{"id": "1", "prompt": {prompt}, "domain": "math", "language": "en", {line}}}\n')
    with pytest.raises(ValueError, match=r"half.jsonl:1: column '\w+' holds half a character \(U\+D"):
        list(read_rows(file))
