from __future__ import annotations

import json
from typing import Any

import pytest

from rewards.program_tests import FunctionTests, StdioTests, find_entry_point, prepare_tests

FUNCTION = {"kind": "function", "entry_point": "add", "asserts": ["assert add(1, 2) == 3"]}
STDIO = {"kind": "stdio", "cases": [{"input": "1 2", "output": "3"}]}


def test_the_three_forms() -> None:
    assert prepare_tests({**FUNCTION, "setup": "import math"}) == FunctionTests(
        entry_point="add", setup="import math", tests=("assert add(1, 2) == 3",)
    )
    check = "def check(candidate):\n    assert candidate(1, 2) == 3"
    prepared = prepare_tests({"kind": "function", "entry_point": "add", "check": check})
    assert prepared == FunctionTests(entry_point="add", setup=f"\n{check}", tests=("check(add)",))
    assert prepare_tests(STDIO) == StdioTests(cases=(("1 2", "3"),))


def test_json_text_and_nulls() -> None:
    """Columnar files give every row every key."""
    padded = {**FUNCTION, "check": None, "setup": None, "cases": None}
    assert prepare_tests(json.dumps(padded)) == prepare_tests(FUNCTION)


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ([], "expected an object, got list"),
        (None, "expected an object, got NoneType"),
        ({}, "kind must be one of function, stdio, got None"),
        ({"kind": "functon"}, r"did you mean 'function'\?"),
        ({"kind": ["stdio"]}, "kind must be one of"),
        ({**FUNCTION, "assert": ["x"]}, r"unknown key 'assert' for kind 'function' \(did you mean 'asserts'\?\)"),
        ({**STDIO, "entry_point": "f"}, "unknown key 'entry_point' for kind 'stdio'"),
        ({**FUNCTION, "entry_point": None}, "entry_point must be the name"),
        ({**FUNCTION, "entry_point": "a.b"}, "entry_point must be the name"),
        ({**FUNCTION, "setup": ["import math"]}, "setup must be text"),
        ({**FUNCTION, "setup": "import"}, "setup is not Python"),
        ({**FUNCTION, "check": "def check(c): pass"}, "either asserts or check"),
        ({"kind": "function", "entry_point": "f"}, "either asserts or check"),
        ({"kind": "function", "entry_point": "f", "check": 5}, "check must be text"),
        ({"kind": "function", "entry_point": "f", "check": "def chek(c): pass"}, "must define a function check"),
        ({"kind": "function", "entry_point": "f", "check": "def check(:"}, "check is not Python"),
        ({**FUNCTION, "asserts": []}, "at least one statement"),
        ({**FUNCTION, "asserts": "assert add(1, 2) == 3"}, "asserts must be a list"),
        ({**FUNCTION, "asserts": ["assert 1", "  "]}, "assert 2 must be text"),
        ({**FUNCTION, "asserts": ["assert add(1, 2) == "]}, "assert 1 is not Python"),
        ({**FUNCTION, "asserts": ["assert\0"]}, "assert 1 is not Python"),
        ({**FUNCTION, "asserts": ["(" * 5000 + ")" * 5000]}, "assert 1 is not Python"),
        ({"kind": "stdio"}, "at least one case"),
        ({"kind": "stdio", "cases": []}, "at least one case"),
        ({"kind": "stdio", "cases": [["1", "2"]]}, "case 1 must have input and output"),
        ({"kind": "stdio", "cases": [{"input": "1"}]}, "case 1 must have input and output"),
        ({"kind": "stdio", "cases": [{"input": "1", "output": 2}]}, "case 1: input and output must be text"),
        ({"kind": "stdio", "cases": [{"input": "\ud800", "output": "2"}]}, "case 1 holds half a character"),
        ({"kind": "stdio", "cases": [{"input": "1", "output": " \n"}]}, "every expected output is empty"),
    ],
)
def test_malformed_tests_are_named_in_one_line(tests: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        prepare_tests(tests)
    assert "\n" not in str(caught.value)


def test_entry_point_is_found() -> None:
    solution = "def helper(x): return x\ndef area(r): return helper(r)"
    assert find_entry_point(["assert math.isclose(area(2), abs(3))"], solution) == "area"
    assert find_entry_point(["assert other(2)"], solution) is None
    assert find_entry_point(["assert ("], solution) is None
    assert find_entry_point(["assert area(1)"], "def area(:") is None
