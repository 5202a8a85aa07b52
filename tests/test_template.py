"""Output conventions: what is laid out comes back, and untrusted text never breaks the parser."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.template import BOXED, CONVENTIONS, NONE, THINK_ANSWER, ZH

TAGS = sorted({tag for convention in CONVENTIONS.values() for tag in convention.tags})
PROSE = st.text(min_size=1).filter(lambda text: text.strip() and not any(tag in text for tag in TAGS))
SCRAPS = st.lists(st.one_of(st.sampled_from(TAGS), st.text(max_size=8)), max_size=12).map("".join)


@pytest.mark.parametrize("convention", [THINK_ANSWER, ZH, BOXED], ids=lambda c: c.name)
@given(reasoning=PROSE, answer=PROSE)
def test_what_is_laid_out_comes_back(convention, reasoning, answer):
    parsed = convention.parse(convention.render(reasoning, answer))
    assert parsed.well_formed
    assert parsed.reasoning == reasoning.strip()
    assert parsed.answer == answer.strip()


@given(answer=PROSE)
def test_without_a_convention_everything_is_the_answer(answer):
    assert NONE.parse(NONE.render("ignored", answer)).answer == answer.strip()


@pytest.mark.parametrize("convention", CONVENTIONS.values(), ids=lambda c: c.name)
@given(text=SCRAPS)
def test_no_text_breaks_the_parser_and_well_formed_means_laid_out(convention, text):
    parsed = convention.parse(text)
    if convention.tags and parsed.well_formed:
        assert parsed.reasoning
        assert parsed.answer
        again = convention.parse(convention.render(parsed.reasoning, parsed.answer))
        assert again == parsed


@pytest.mark.parametrize("convention", [THINK_ANSWER, ZH], ids=lambda c: c.name)
def test_layouts_that_are_not_the_convention(convention):
    ropen, rclose, aopen, aclose = convention.tags
    good = f"{ropen}a{rclose}{aopen}b{aclose}"
    assert convention.parse(good).well_formed
    for bad in (
        f"{ropen}a{rclose}b",
        f"{ropen}a{aopen}b{aclose}",
        f"hello {good}",
        f"{good} bye",
        f"{good}{good}",
        f"{ropen} {rclose}{aopen}b{aclose}",
        f"{ropen}a{rclose}{aopen} {aclose}",
        f"{aopen}b{aclose}{ropen}a{rclose}",
        f"{ropen}{ropen}a{rclose}{aopen}b{aclose}",
    ):
        assert not convention.parse(bad).well_formed, bad


@pytest.mark.parametrize("convention", [THINK_ANSWER, ZH, BOXED], ids=lambda c: c.name)
def test_an_answer_inside_the_reasoning_does_not_count(convention):
    ropen, rclose = convention.tags[:2]
    aopen, aclose = convention.tags[2:] or ("", "")
    assert convention.parse(f"{ropen}{aopen}42{aclose}").answer is None
    assert convention.parse(f"{ropen}{aopen}41{aclose}{rclose}{aopen}42{aclose}").answer == "42"


def test_a_tag_inside_the_text_is_refused():
    with pytest.raises(ValueError, match="the tag </think> of convention 'think_answer' occurs inside"):
        THINK_ANSWER.render("a</think>b", "c")
