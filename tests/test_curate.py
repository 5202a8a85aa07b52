"""Curation: duplicates, contamination, readability, best by score, cap per prompt."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.curate import cap_per_prompt, deduplicate, ngrams, prompt_key, top_fraction, words
from data.decontaminate import decontaminate
from data.readability import Readability, language_share, readable, unreadable


def row(prompt: str, completion: str = "", language: str = "en", **columns: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"prompt": [{"role": "user", "content": prompt}], "language": language, **columns}
    if completion:
        made["completion"] = [{"role": "assistant", "content": completion}]
    return made


STORY = " ".join(f"word{n}" for n in range(60))


def test_words_are_words_only() -> None:
    assert words("Hello, World! x=3") == ["hello", "world", "x", "3"]
    assert words("小明有3个ＡＢ苹果") == ["小", "明", "有", "3", "个", "ab", "苹", "果"]
    assert words("\\frac{1}{2}") == ["frac", "1", "2"]


def test_exact_duplicates_ignore_spacing_but_not_signs_or_case() -> None:
    kept = deduplicate([row("x - 1"), row("x  -\n1"), row("x + 1"), row("X - 1"), row("ｘ - 1")])
    assert [r["prompt"][0]["content"] for r in kept.rows] == ["x - 1", "x + 1", "X - 1"]
    assert kept.counts == {"exact duplicate": 2}


def test_the_same_prompt_with_another_answer_is_no_duplicate() -> None:
    assert len(deduplicate([row("q", "a"), row("q", "b")]).rows) == 2


def test_near_duplicates_are_found_among_many() -> None:
    rows = [row(" ".join(f"{k}-{n}" for n in range(50))) for k in range(200)]
    altered = row(rows[77]["prompt"][0]["content"] + " and one more")
    kept = deduplicate([*rows, altered, row("short")], near=0.8)
    assert kept.counts == {"exact duplicate": 0, "near duplicate": 1}
    assert altered not in kept.rows
    assert len(deduplicate([*rows, altered], near=1.0).rows) == 201


def test_texts_without_words_do_not_stop_the_search() -> None:
    assert len(deduplicate([row(""), row(" "), row("a")], near=0.5).rows) == 2


@pytest.mark.parametrize("near", [0.0, 1.5, -1.0])
def test_a_similarity_outside_its_range_is_refused(near: float) -> None:
    with pytest.raises(ValueError, match="near must be above 0 and at most 1"):
        deduplicate([], near=near)


@given(st.lists(st.sampled_from(["a", "b", "c d", "c  d"]), max_size=20))
def test_deduplication_is_idempotent_and_keeps_order(prompts: list[str]) -> None:
    once = deduplicate([row(p) for p in prompts])
    assert deduplicate(once.rows).rows == once.rows
    assert len(once.rows) + once.counts["exact duplicate"] == len(prompts)


@given(st.lists(st.text(max_size=3), max_size=30), st.integers(0, 8))
def test_ngrams_are_all_runs(said: list[str], n: int) -> None:
    runs = ngrams(said, n)
    assert len(runs) == (max(0, len(said) - n + 1) if n else 0)
    assert all(list(run) == said[i : i + n] for i, run in enumerate(runs))


def test_a_shared_run_of_words_is_contamination_and_a_shorter_one_is_not() -> None:
    test = [row(STORY)]
    shared = " ".join(f"word{n}" for n in range(20, 33))
    shorter = " ".join(f"WORD{n}," for n in range(20, 32))
    kept = decontaminate([row(f"before {shared} after"), row(f"before {shorter} after"), row("free")], test)
    assert [r["prompt"][0]["content"] for r in kept.rows] == [f"before {shorter} after", "free"]
    assert kept.counts == {"shares 13 words with a test question": 1}
    assert len(decontaminate(kept.rows, test, n=10).rows) == 1


def test_short_questions_are_compared_whole_with_their_signs() -> None:
    kept = decontaminate(
        [row("What is 3 + 4?"), row("What is 3 - 4?"), row("What is  3 + 4?")], [row("What is 3 + 4?")]
    )
    assert [r["prompt"][0]["content"] for r in kept.rows] == ["What is 3 - 4?"]


def test_ngrams_of_no_words_are_refused() -> None:
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        decontaminate([], [], n=0)


def test_the_best_fraction_is_rounded_up_and_ties_go_to_the_earlier() -> None:
    rows = [row("q", score=s) for s in (1.0, 3.0, 3.0, 2.0, None)]
    kept = top_fraction(rows, lambda r: r["score"], 0.26)
    assert kept.rows == rows[1:3]
    assert kept.counts == {"below the top fraction": 2, "no score": 1}
    assert top_fraction(rows, lambda r: r["score"], 0.25).rows == rows[1:2]


def test_the_best_fraction_of_each_prompt() -> None:
    rows = [row(p, score=s) for p, s in (("a", 0.1), ("b", 0.9), ("a", 0.2), ("b", 0.8))]
    assert top_fraction(rows, lambda r: r["score"], 0.5, per="prompt").rows == [rows[1], rows[2]]
    assert top_fraction(rows, lambda r: r["score"], 0.5).rows == [rows[1], rows[3]]


@given(st.lists(st.floats(-5, 5), max_size=40), st.floats(0.01, 1))
def test_nothing_removed_beats_anything_kept(scores: list[float], fraction: float) -> None:
    rows = [row("q", score=s, n=n) for n, s in enumerate(scores)]
    kept = top_fraction(rows, lambda r: r["score"], fraction)
    removed = [r["score"] for r in rows if r not in kept.rows]
    assert len(kept.rows) + kept.counts["below the top fraction"] == len(rows)
    assert not removed or min(r["score"] for r in kept.rows) >= max(removed)


@pytest.mark.parametrize("fraction", [0.0, 1.1])
def test_a_fraction_outside_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction to keep"):
        top_fraction([], lambda r: 1.0, fraction)


def test_a_prompt_gives_at_most_its_cap() -> None:
    rows = [row("a", score=s) for s in (1.0, None, 3.0)] + [row("b", score=0.0)]
    assert cap_per_prompt(rows, 1).rows == [rows[0], rows[3]]
    best = cap_per_prompt(rows, 1, score=lambda r: r["score"])
    assert best.rows == [rows[2], rows[3]]
    assert best.counts == {"over the cap per prompt": 2}
    with pytest.raises(ValueError, match="cap per prompt must be at least 1"):
        cap_per_prompt(rows, 0)


def test_a_prompt_is_all_its_messages() -> None:
    plain = row("a")
    with_system = {"prompt": [{"role": "system", "content": "be brief"}, *plain["prompt"]]}
    assert prompt_key(plain) == prompt_key(row("a", "x"))
    assert prompt_key(plain) != prompt_key(with_system)


def test_language_share_leaves_out_formulas_and_code() -> None:
    assert language_share("所以 $x = \\frac{abc}{def}$，答案是 `print(value)`。", "zh") == 1.0
    assert language_share("So the answer is seven", "zh") == 0.0
    assert language_share("3 + 4 = 7", "en") == 1.0
    assert 0 < language_share("So we add 三和四 and get seven", "en") < 0.9


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("A short thought.", None),
        ("First add 三和四然后得到结果 and stop.", "mixed languages"),
        ("word " * 500, "long paragraph"),
        ("word " * 300 + "\n" + "word " * 300, None),
        ("I write\n```python\nprint(1)\n```", "code block"),
        ("", None),
    ],
)
def test_what_a_reader_cannot_follow(text: str, reason: str | None) -> None:
    assert unreadable(text, "en", Readability()) == reason


def test_only_the_reasoning_is_read() -> None:
    answer = "<answer>\n```python\nprint(1)\n```\n</answer>"
    good = row("q", f"<think>\nI print one.\n</think>\n{answer}")
    bad = row("q", f"<think>\n```python\nprint(1)\n```\n</think>\n{answer}")
    kept = readable([good, bad], "think_answer")
    assert kept.rows == [good]
    assert kept.counts == {"mixed languages": 0, "long paragraph": 0, "code block": 1}
    assert readable([bad], "think_answer", Readability(code_blocks=True)).rows == [bad]
    assert readable([row("q", "```x```")], "none").counts["code block"] == 1
