"""Adapters for programming problems: unit tests as data, in the form that the program reward reads.

`{"kind": "function", "entry_point", "asserts", "setup"}` or `{"kind": "stdio", "cases": [{"input", "output"}]}`.
"""

from __future__ import annotations

import ast
import builtins
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from data.adapters import At, Unusable, field, lay_out, listed, text, user
from data.records import Row

MBPP_SPLITS: Mapping[str, tuple[int, int]] = {
    "prompt": (1, 10),
    "test": (11, 510),
    "validation": (511, 600),
    "train": (601, 974),
}
"""First and last `task_id` of each split (arXiv 2108.07732, section 2.1)."""


def mbpp(value: Mapping[str, Any], at: At) -> Row:
    """MBPP (arXiv 2108.07732), full and sanitised. The first assert is shown, since it alone names the function."""
    task = field(value, at, "task_id", "id")
    if at.split is not None and not _in_split(task, at):
        raise Unusable(f"not in split {at.split}")
    asserts = [str(line).strip() for line in listed(value, at, "test_list")]
    code = text(value, at, "code", "canonical_solution").replace("\r\n", "\n").rstrip()
    name = entry_point(asserts, code)
    if name is None:
        raise Unusable("no function name in the asserts")
    setup = "\n".join(map(str, [*(value.get("test_imports") or []), value.get("test_setup_code") or ""])).strip()
    question = text(value, at, "text", "prompt", "content").strip()
    row: Row = {
        "prompt": user(f"{question}\nWrite it in Python. It must pass tests such as:\n```python\n{asserts[0]}\n```"),
        "domain": "code",
        "tests": {"kind": "function", "entry_point": name, "asserts": asserts, "setup": setup},
        "solution": code,
    }
    if at.solutions:
        reasoning = f"The tests call `{name}`, for example `{asserts[0]}`, so the program has to define it."
        row["completion"] = lay_out(at, reasoning, f"```python\n{code}\n```")
    return row


def _in_split(task: object, at: At) -> bool:
    first, last = MBPP_SPLITS[str(at.split)]
    if not isinstance(task, int):
        raise ValueError(f"{at.where}: column 'task_id' must be int, got {type(task).__name__}")
    return first <= task <= last


def entry_point(asserts: Sequence[str], code: str) -> str | None:
    """Name of the function under test: called in every assert, outermost first, defined in `code`.

    Built-in names (`set(f(x)) == ...`) count only when `code` defines them itself. Both texts are parsed, never run.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "invalid escape sequence" is the data set's affair
            called = [_calls(ast.parse(line)) for line in asserts]
            body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    defined = {n.name for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    common = [name for name in called[0] if all(name in names for names in called)] if called else []
    own = [name for name in common if name in defined and not hasattr(builtins, name)]
    return next(iter(own or [name for name in common if name in defined]), None)


def _calls(tree: ast.AST) -> list[str]:
    return [n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]


def code_contests(value: Mapping[str, Any], at: At) -> Row:
    """Contest problems read from standard input (CodeContests as SandboxFusion lays it out)."""
    cases = [
        {"input": str(case["input"]["stdin"]), "output": str(case["output"]["stdout"])}
        for case in _decoded(value, at, "test")
    ]
    labels = _decoded(value, at, "labels")
    row = _contest(text(value, at, "content"), cases)
    level = str(labels.get("difficulty", ""))
    if len(level) == 1 and "A" <= level <= "Z":
        row["difficulty"] = ord(level) - ord("A") + 1
    return row


def codeforces(value: Mapping[str, Any], at: At) -> Row:
    """Codeforces problems with the columns of open-r1/codeforces; difficulty is the rating.

    A problem whose outputs a checker judges, or that reads files or interacts, cannot be decided by comparing text.
    """
    if value.get("interaction_format"):
        raise Unusable("interactive problem")
    if value.get("input_mode") not in (None, "stdio"):
        raise Unusable("reads files")
    if value.get("generated_checker"):
        raise Unusable("more than one right output")
    parts = [text(value, at, "description").strip()]
    for title, column in (("Input", "input_format"), ("Output", "output_format"), ("Note", "note")):
        if value.get(column):
            parts.append(f"{title}\n{text(value, at, column).strip()}")
    for example in value.get("examples") or []:
        parts.append(f"Example input\n{example['input'].strip()}\nExample output\n{example['output'].strip()}")
    tests = listed(value, at, "official_tests") or (value.get("examples") or [])
    row = _contest("\n\n".join(parts), [{"input": str(t["input"]), "output": str(t["output"])} for t in tests])
    if value.get("rating") is not None:
        row["difficulty"] = value["rating"]
    return row


def _contest(statement: str, cases: list[dict[str, str]]) -> Row:
    if not cases:
        raise Unusable("no tests")
    ask = "Write a Python program that reads standard input and writes standard output."
    return {
        "prompt": user(f"{statement.strip()}\n\n{ask}"),
        "domain": "code",
        "tests": {"kind": "stdio", "cases": cases},
    }


def _decoded(value: Mapping[str, Any], at: At, name: str) -> Any:
    """A column that is JSON, or text that holds JSON."""
    found = field(value, at, name)
    if not isinstance(found, str):
        return found
    try:
        return json.loads(found)
    except json.JSONDecodeError as error:
        raise ValueError(f"{at.where}: column {name!r} is not JSON ({error.msg})") from None
