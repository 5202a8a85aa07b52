from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.program_output import difference

lines = st.lists(
    st.lists(st.text(alphabet="ab01.-", min_size=1, max_size=5), min_size=1, max_size=4), min_size=1, max_size=4
)


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("3", "3\n"),
        ("3\n\n\n", "3"),
        ("1  2 \r\n3", "1 2\n3"),
        ("\n1", "\n1"),
        ("0.333333", "0.3333333"),
        ("1", "1.0"),
        ("1e3", "1000.0"),
        ("-0", "0.0"),
        ("123456789.5", "123456790.0"),
        ("YES", "YES"),
        (".5", "0.50"),
    ],
)
def test_accepted(printed: str, expected: str) -> None:
    assert difference(printed, expected) is None


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("", "3"),
        ("3", "3\n4"),
        ("3\n4\n5", "3\n4"),
        ("", "\n3"),
        ("3 4", "3\n4"),
        ("\n3", "3"),
        ("3\n\n4", "3\n4"),
        ("3 ", "3 3"),
        ("yes", "YES"),
        ("3.0", "3"),
        ("03", "3"),
        ("+3", "3"),
        ("٣", "3"),
        ("３", "3"),
        ("3\u200b", "3"),
        ("1\u00a02", "1 2"),
        ("1\u20282", "1\n2"),
        ("0.34", "0.33"),
        ("nan", "0.5"),
        ("nan", "nan.0"),
        ("inf", "1.0"),
        ("1e999", "1.0"),
        ("1e999", "1e308"),
        ("1_0.0", "10.0"),
        ("0x1p0", "1.0"),
        ("10.0", "1e1.0"),
        ("1", "12345678901234567890"),
        ("12345678901234567891", "12345678901234567890"),
    ],
)
def test_refused(printed: str, expected: str) -> None:
    assert difference(printed, expected) is not None


def _text(rows: list[list[str]]) -> str:
    return "\n".join(" ".join(row) for row in rows)


@given(lines)
def test_output_agrees_with_itself(rows: list[list[str]]) -> None:
    assert difference(_text(rows) + "\n", _text(rows)) is None


@given(lines, st.data())
def test_a_missing_line_is_always_seen(rows: list[list[str]], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(rows) - 1))
    assert difference(_text(rows[:cut] + rows[cut + 1 :]), _text(rows)) is not None
