from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict, defaultdict, namedtuple
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.sandbox_wire import MAX_DEPTH, MAX_ITEMS, decode, encode

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
hashable = st.recursive(scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5)
plain = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.sets(hashable, max_size=4)
    ),
    max_leaves=20,
)


def same(one: Any, other: Any) -> bool:
    """Equal with equal types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(map(same, one, other)) and all(map(same, one.values(), other.values()))
    if isinstance(one, float):
        return math.copysign(1, one) == math.copysign(1, other) and one == other
    return bool(one == other)


@settings(max_examples=40, deadline=None)
@given(plain)
def test_round_trip_keeps_values_and_types(value: object) -> None:
    text = encode(value)
    assert text.isascii()
    assert "\n" not in text
    assert same(decode(text), value)


tags = st.sampled_from(["i", "f", "c", "y", "Y", "d", "r", "g", "t", "s", "z", "?"])
messages = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(tags, inner, max_size=2),
)


@given(st.text() | st.binary() | messages.map(json.dumps))
def test_decoding_anything_gives_builtins_or_a_value_error(text: str | bytes) -> None:
    try:
        value = decode(text)
    except ValueError:
        return
    assert type(value).__module__ == "builtins"


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", '{"a":1,"b":2}', '{"?":1}', '{"i":5}', '{"i":"zz"}', '{"f":"x"}', '{"c":[1]}', '{"d":[[1]]}'),
        *("1.5", '{"d":[[[],1]]}', '{"s":[[]]}', '{"r":["a"]}', '{"r":[0,1,0]}', '{"y":"0"}', '{"t":5}'),
        *("NaN", "[" * 100_000, '{"g":1}'),
    ],
)
def test_malformed_messages(text: str) -> None:
    with pytest.raises(ValueError):
        decode(text)


def test_subclasses_are_reduced_to_their_base() -> None:
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        def __index__(self) -> int:
            return 99

        __hash__ = int.__hash__

    class Color(IntEnum):
        RED = 3

    class Text(str):
        def __str__(self) -> str:
            return "lie"

    pair = namedtuple("pair", "a b")
    values = [Liar(5), Color.RED, Text("truth"), pair(1, 2), Counter("aab"), OrderedDict(a=1), defaultdict(int, b=2)]
    expected = [5, 3, "truth", (1, 2), {"a": 2, "b": 1}, {"a": 1}, {"b": 2}]
    assert same(decode(encode(values)), expected)


def test_numbers_keep_their_kind() -> None:
    values = [1, 1.0, True, 2**64, -(2**70), 10**5000, 0.1, -0.0, float("inf"), float("-inf"), 1 + 2j]
    assert same(decode(encode(values)), values)
    assert math.isnan(decode(encode(math.nan)))


def test_iterators_and_ranges() -> None:
    assert list(decode(encode(x * x for x in range(4)))) == [0, 1, 4, 9]
    assert decode(encode(range(3, 9, 2))) == range(3, 9, 2)
    import itertools

    assert sum(1 for _ in decode(encode(itertools.count()))) == MAX_ITEMS


@pytest.mark.parametrize("value", [object(), len, int, {1: object()}, ValueError()])
def test_what_is_not_plain_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="is not plain data"):
        encode(value)


def test_depth_is_limited() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(ValueError, match="nested too deeply"):
        encode(value)
    with pytest.raises(ValueError, match="nested too deeply"):
        decode("[" * (MAX_DEPTH + 5) + "]" * (MAX_DEPTH + 5))
