"""Programs that try to be graded right without solving anything. None may score, in any mode, for any user."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from rewards.reward import Status
from tests.program_attacks import FUNCTION, FUNCTION_ATTACKS, SCRIPT_ATTACKS, SECRET, STDIO, verdict
from tests.sandbox_modes import MODES
from tests.test_sandbox_attacks import WHY_NOT, as_nobody

SCRIPT = Path(__file__).with_name("program_attacks.py")


def test_there_are_enough_attacks() -> None:
    assert len(FUNCTION_ATTACKS) + len(SCRIPT_ATTACKS) >= 50


@pytest.mark.parametrize("mode", MODES)
def test_what_the_attacks_want_can_be_had(mode: str) -> None:
    """The rows are solvable, so a score of 0 says something about the attack."""
    honest = f"def f(x): return {{1: {SECRET}, 2: 'a secret text'}}.get(x, [4, 5]) if isinstance(x, int) else [4, 5]"
    assert verdict(mode, honest, FUNCTION) == (1.0, Status.OK)
    assert verdict(mode, f"print('\\n{SECRET}\\n77' if input() == '1' else 0.5)", STDIO) == (1.0, Status.OK)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FUNCTION_ATTACKS)
def test_function_attack_scores_nothing(mode: str, name: str) -> None:
    score, status = verdict(mode, FUNCTION_ATTACKS[name], FUNCTION)
    assert score == 0.0, status  # not None: a program must not get itself excused either
    assert status not in (Status.OK, Status.SANDBOX_ERROR, Status.UNPARSED_GOLD)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SCRIPT_ATTACKS)
def test_script_attack_scores_nothing(mode: str, name: str) -> None:
    score, status = verdict(mode, SCRIPT_ATTACKS[name], STDIO)
    assert score == 0.0, status
    assert status not in (Status.OK, Status.SANDBOX_ERROR, Status.UNPARSED_GOLD)


@functools.cache
def verdicts_of_nobody(mode: str) -> dict[str, list[object]]:
    """The same from a process that gave up root before it started."""
    found: dict[str, list[object]] = as_nobody(SCRIPT, mode)
    return found


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [*FUNCTION_ATTACKS, *(f"script: {name}" for name in SCRIPT_ATTACKS)])
def test_attack_scores_nothing_for_an_ordinary_user(mode: str, name: str) -> None:
    found = verdicts_of_nobody(mode)
    assert found["honest"] == [1.0, "ok"]
    score, status = found[name]
    assert score == 0.0, status
    assert status not in ("ok", "sandbox_error", "unparsed_gold")


MEMORY_SEARCH = """
import ctypes, os
libc = ctypes.CDLL(None)
libc.sbrk.restype = ctypes.c_void_p
libc.write.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
def f(x):
    # A write from an address that is not mapped fails, it does not crash: a safe way to look around.
    reader, writer = os.pipe()
    top, near = libc.sbrk(0) // 4096 * 4096, id(object()) // 4096 * 4096
    for page in [*range(top - (16 << 20), top, 4096), *range(near - (32 << 20), near + (32 << 20), 4096)]:
        if libc.write(writer, page, 4096) > 0 and b"51413_dekram" in os.read(reader, 4096)[::-1]:
            return "FOUND"
"""


@pytest.mark.parametrize("mode", MODES)
def test_one_program_learns_nothing_from_the_one_before(mode: str) -> None:
    """An earlier rollout that solved the row must not lie about in the next one's memory."""
    found: dict[str, object] = {"kind": "function", "entry_point": "f", "asserts": ["assert f(1) == 'FOUND'"]}
    assert verdict(mode, f"{MEMORY_SEARCH}# marked_31415\n", found) == (1.0, Status.OK)  # the search works
    earlier = "def f(x):\n    return None  # marked_31415\n" + "# padding\n" * 200
    for _ in range(3):
        assert verdict(mode, earlier, found) == (0.0, Status.WRONG)
        assert verdict(mode, MEMORY_SEARCH, found) == (0.0, Status.WRONG)
