"""Several ranks sample what one would."""

from __future__ import annotations

from stages.training.share import share_of

A, B, C, D = ([n] for n in range(4))


def batch(*prompts: list[int], group: int) -> list[list[int]]:
    return [ids for ids in prompts for _ in range(group)]


def test_ranks_hold_consecutive_groups_of_one_batch() -> None:
    whole = batch(A, B, C, D, group=3)
    assert share_of(whole, 3, 0) == ([(A, 3), (B, 3), (C, 3), (D, 3)], 0)
    assert share_of(whole[:6], 3, 0) == ([(A, 3), (B, 3)], 0)
    assert share_of(whole[6:], 3, 1) == ([(C, 3), (D, 3)], 2)


def test_a_prompt_that_comes_twice_is_two_groups() -> None:
    assert share_of(batch(A, A, group=2), 2, 0) == ([(A, 2), (A, 2)], 0)


def test_parts_of_groups_have_numbers_of_their_own() -> None:
    """Two ranks that share the completions of a prompt must not sample the same ones."""
    whole = batch(A, B, C, group=2)
    first, second = share_of(whole[:3], 2, 0), share_of(whole[3:], 2, 1)
    assert (first, second) == (([(A, 2), (B, 1)], 0), ([(B, 1), (C, 2)], 3))


def test_a_share_that_divides_but_cuts_groups() -> None:
    """Three completions a prompt, shares of six that begin in the middle of one."""
    assert share_of([A, B, B, B, C, C], 3, 1)[0] == [(A, 1), (B, 3), (C, 2)]
