"""What a row's `tests` column may say, checked once: asserts for a function, or cases for a whole program."""

from __future__ import annotations

import ast
import difflib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_KEYS: Mapping[str, tuple[str, ...]] = {
    "function": ("kind", "entry_point", "asserts", "check", "setup"),
    "stdio": ("kind", "cases"),
}


_FILE = "<text of a data set>"
warnings.filterwarnings("ignore", module=_FILE)
"""Nobody here can mend the escape sequences in other people's tests."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FunctionTests:
    """Python statements that call `entry_point`, one outcome each; `setup` runs once before them."""

    entry_point: str
    setup: str
    tests: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class StdioTests:
    """What a program reads, and what it must print."""

    cases: Sequence[tuple[str, str]]


def prepare_tests(tests: object) -> FunctionTests | StdioTests:
    """Read a `tests` column, a mapping or its JSON text. Raises ValueError with one line if it cannot be used.

        {"kind": "function", "entry_point": "add", "asserts": ["assert add(1, 2) == 3"], "setup": "import math"}
        {"kind": "function", "entry_point": "add", "check": "def check(candidate): ..."}
        {"kind": "stdio", "cases": [{"input": "1 2", "output": "3"}]}

    Datasets put null where a key does not apply, so null is the same as a missing key.
    """
    if isinstance(tests, (str, bytes)):
        try:
            tests = json.loads(tests)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"tests: not JSON: {error}") from None
    if not isinstance(tests, Mapping):
        raise ValueError(f"tests: expected an object, got {type(tests).__name__}")
    given = {key: value for key, value in tests.items() if value is not None}
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in _KEYS:
        raise ValueError(f"tests: kind must be one of {', '.join(_KEYS)}, got {kind!r}{_nearest(kind, _KEYS)}")
    for key in given:
        if key not in _KEYS[kind]:
            raise ValueError(f"tests: unknown key {key!r} for kind {kind!r}{_nearest(key, _KEYS[kind])}")
    return _function(given) if kind == "function" else _stdio(given)


def _function(given: Mapping[str, Any]) -> FunctionTests:
    entry_point, setup = given.get("entry_point"), given.get("setup", "")
    if not isinstance(entry_point, str) or not entry_point.isidentifier():
        raise ValueError(f"tests: entry_point must be the name of a function, got {entry_point!r}")
    if not isinstance(setup, str):
        raise ValueError(f"tests: setup must be text, got {type(setup).__name__}")
    if ("asserts" in given) == ("check" in given):
        raise ValueError("tests: give either asserts or check")
    if "check" in given:
        check = given["check"]
        if not isinstance(check, str):
            raise ValueError(f"tests: check must be text, got {type(check).__name__}")
        if "check" not in {node.name for node in _parse(check, "check").body if isinstance(node, ast.FunctionDef)}:
            raise ValueError("tests: check must define a function check(candidate)")
        setup, asserts = f"{setup}\n{check}", [f"check({entry_point})"]
    else:
        asserts = given["asserts"]
        if not isinstance(asserts, Sequence) or isinstance(asserts, str) or not asserts:
            raise ValueError("tests: asserts must be a list with at least one statement")
        for number, text in enumerate(asserts, start=1):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"tests: assert {number} must be text")
            _parse(text, f"assert {number}")
    _parse(setup, "setup")
    return FunctionTests(entry_point=entry_point, setup=setup, tests=tuple(asserts))


def _stdio(given: Mapping[str, Any]) -> StdioTests:
    cases = given.get("cases")
    if not isinstance(cases, Sequence) or isinstance(cases, str) or not cases:
        raise ValueError("tests: cases must be a list with at least one case")
    pairs = []
    for number, case in enumerate(cases, start=1):
        if not isinstance(case, Mapping) or set(case) != {"input", "output"}:
            raise ValueError(f"tests: case {number} must have input and output, and nothing else")
        if not isinstance(case["input"], str) or not isinstance(case["output"], str):
            raise ValueError(f"tests: case {number}: input and output must be text")
        try:
            f"{case['input']}{case['output']}".encode()
        except UnicodeEncodeError:
            raise ValueError(f"tests: case {number} holds half a character, which no program can read") from None
        pairs.append((case["input"], case["output"]))
    if not any(output.strip() for _, output in pairs):
        raise ValueError("tests: every expected output is empty, so a program that does nothing would pass")
    return StdioTests(cases=tuple(pairs))


def _parse(text: str, what: str) -> ast.Module:
    try:
        return ast.parse(text, _FILE)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"tests: {what} is not Python: {error}".replace("\n", " ")) from None


def _nearest(name: object, names: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(str(name), list(names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def find_entry_point(asserts: Sequence[str], solution: str) -> str | None:
    """The function of `solution` that `asserts` call, for data sets that do not name it; None if there is none.

    The first name, in the order of the asserts' text, that the solution defines at its top level.
    """
    try:
        defined = {
            n.name for n in ast.parse(solution, _FILE).body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
        }
        trees = [ast.parse(text, _FILE) for text in asserts]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    called = (
        node.func.id
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    )
    return next((name for name in called if name in defined), None)
