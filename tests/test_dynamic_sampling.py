"""Which groups are drawn again and which take their places, over any number of processes; rows of batches merged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.training.dynamic_sampling import further_prompts, most_lacking, replacements, split
from stages.training.merging import with_rows


def test_further_prompts_come_once_before_any_comes_again_and_depend_on_seed_and_step_alone() -> None:
    first = further_prompts(0, 7, 10, 0, 4)
    assert first + further_prompts(0, 7, 10, 4, 6) == further_prompts(0, 7, 10, 0, 10)
    assert sorted(further_prompts(0, 7, 10, 0, 10)) == list(range(10))
    assert further_prompts(0, 7, 10, 0, 20)[10:] == further_prompts(0, 7, 10, 0, 10)
    assert further_prompts(0, 7, 10, 10, 4) == first
    assert len({tuple(further_prompts(seed, step, 50, 0, 9)) for seed in (0, 1) for step in (0, 1)}) == 4


def test_each_process_fills_its_own_places_in_order() -> None:
    signal = [True, False, False, True, True, False]  # two processes of three groups
    assert split(signal, 2) == [[True, False, False], [True, True, False]]
    assert most_lacking(signal, 2) == 2
    further = [False, True, True, True]  # two groups each
    assert replacements(signal, further, 2) == [[(1, 1)], [(2, 0)]]
    assert most_lacking([True, True], 2) == 0


@given(st.data())
def test_a_place_is_filled_once_by_a_group_with_signal(data: Any) -> None:
    processes = data.draw(st.integers(1, 4))
    share = data.draw(st.integers(1, 5))
    flags = st.lists(st.booleans(), min_size=processes * share, max_size=processes * share)
    signal = data.draw(flags)
    count = most_lacking(signal, processes) * processes
    further = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    pairs = replacements(signal, further, processes)
    for held, drawn, found in zip(split(signal, processes), split(further, processes), pairs, strict=True):
        assert all(not held[place] and drawn[source] for place, source in found)
        assert len({place for place, _ in found}) == len({source for _, source in found}) == len(found)
        assert len(found) == min(held.count(False), drawn.count(True))


PAD = 9


def batch(rows: list[tuple[int, int, int]]) -> dict[str, Any]:
    """Of rows (prompt tokens, completion tokens, value)."""
    prompt, completion = max(row[0] for row in rows), max(row[1] for row in rows)
    longest = max(c for _, c, _ in rows)
    masks = [[1] * c + [0] * (longest - c) for _, c, _ in rows]
    return {
        "prompt_ids": torch.tensor([[PAD] * (prompt - p) + [v] * p for p, _, v in rows]),
        "prompt_mask": torch.tensor([[0] * (prompt - p) + [1] * p for p, _, _ in rows]),
        "completion_ids": torch.tensor([[v] * c + [PAD] * (completion - c) for _, c, v in rows]),
        "completion_mask": torch.tensor(masks),
        "ref_per_token_logps": torch.tensor([[-float(v)] * c + [0.0] * (completion - c) for _, c, v in rows]),
        "importance_sampling_ratio": torch.tensor([[v / 10] for *_, v in rows]),
        "advantages": torch.tensor([float(v) for *_, v in rows]),
        "kl_tier": torch.tensor([v for *_, v in rows]),
        "texts": [str(v) for *_, v in rows],
        "num_items_in_batch": torch.tensor(99),
    }


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value == other[name] if isinstance(value, list) else torch.equal(value, other[name]), name


@pytest.mark.parametrize("longer", [(5, 6, 3), (1, 1, 3)], ids=["wider", "narrower"])
def test_merged_rows_are_those_of_a_batch_that_had_them_from_the_start(longer: tuple[int, int, int]) -> None:
    first, second, third = (2, 4, 1), (3, 2, 2), (1, 3, 4)
    merged = with_rows(batch([first, second, third]), batch([longer, (3, 4, 5)]), [0, 2], [1, 0], PAD)
    expected = batch([(3, 4, 5), second, longer])
    width, length = merged["prompt_ids"].shape[1], merged["completion_ids"].shape[1]
    assert (width, length) == (max(3, longer[0]), max(4, longer[1]))
    assert_equal(merged, expected)


def test_nothing_to_merge_changes_nothing() -> None:
    whole = batch([(2, 4, 1), (3, 2, 2)])
    assert_equal(with_rows(whole, batch([(1, 1, 3)]), [], [], PAD), whole)
