"""Rows that change places carry their columns with them, whatever each process padded its own to."""

from __future__ import annotations

from threading import Barrier, Thread, current_thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stages.training import balance
from stages.training.batching import HAS_KL, live_rows

PAD = 99


def share(process: int, live: list[bool], prompt: int, completion: int) -> dict[str, Any]:
    """A share of a batch in which every figure tells whose row it is."""
    rows = len(live)
    number_N = torch.arange(rows) + 10 * process + 1
    lengths_N = torch.arange(rows) % completion + 1
    mask_NC = (torch.arange(completion) < lengths_N[:, None]).int()
    prompt_mask_NP = (torch.arange(prompt) >= torch.arange(rows)[:, None] % prompt).int()
    return {
        "prompt_ids": torch.where(prompt_mask_NP.bool(), number_N[:, None], PAD),
        "prompt_mask": prompt_mask_NP,
        "completion_ids": torch.where(mask_NC.bool(), number_N[:, None], PAD),
        "completion_mask": mask_NC,
        "advantages": torch.tensor(live) * number_N.float(),
        "old_per_token_logps": mask_NC * number_N[:, None].float(),
        "importance_sampling_ratio": number_N[:, None].float(),
        "sampling_per_token_logps": mask_NC * number_N[:, None].float(),
        "kl_tier": number_N.clone(),
        "num_items_in_batch": torch.tensor(77),
        "names": [str(number) for number in number_N.tolist()],
    }


def exchanged(shares: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each process holds in the end; processes are threads."""
    barrier = Barrier(len(shares))
    told: dict[int, list[Any]] = {}
    made: dict[int, dict[str, Any]] = {}

    def run(process: int) -> None:
        accelerator = SimpleNamespace(num_processes=len(shares), process_index=process, device="cpu")
        made[process] = balance.balanced(shares[process], accelerator, PAD)

    def gather(values: list[Any]) -> list[Any]:
        told[int(current_thread().name)] = values
        barrier.wait(10)
        found = [value for process in sorted(told) for value in told[process]]
        barrier.wait(10)
        return found

    monkeypatch.setattr(balance, "gather_object", gather)
    threads = [Thread(target=run, args=(process,), name=str(process)) for process in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return [made[process] for process in range(len(shares))]


def rows_of(batch: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Every row as what it says where its masks are 1; a column whose width does not fit does not come out."""
    found = []
    for i, name in enumerate(batch["names"]):
        prompt, completion = batch["prompt_mask"][i].bool(), batch["completion_mask"][i].bool()
        tokens = [batch[key][i][completion].tolist() for key in ("completion_ids", "old_per_token_logps")]
        scored = batch["sampling_per_token_logps"][i][completion].tolist()
        single = [batch[key][i].tolist() for key in ("advantages", "importance_sampling_ratio", "kl_tier")]
        assert set(batch["prompt_ids"][i][~prompt].tolist()) <= {PAD}
        assert set(batch["completion_ids"][i][~completion].tolist()) <= {PAD}
        found.append(
            (name, batch["prompt_ids"][i][prompt].tolist(), *map(tuple, tokens), tuple(scored), *map(str, single))
        )
    return found


LIVES = {
    "all on one": [[True] * 4, [False] * 4, [False] * 4],
    "one lacks": [[True] * 4, [True] * 4, [False] * 4],
    "even": [[True, False, False, True], [False, True, True, False]],
    "none": [[False] * 4, [False] * 4],
}


@pytest.mark.parametrize("name", LIVES)
@pytest.mark.parametrize("widths", [[(3, 1), (1, 5), (2, 3)], [(2, 2), (2, 2), (2, 2)], [(1, 4), (4, 1), (1, 1)]])
def test_no_row_is_lost_or_torn(name: str, widths: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    before = [share(p, live, *widths[p]) for p, live in enumerate(LIVES[name])]
    after = exchanged(before, monkeypatch)
    assert sorted(row for batch in after for row in rows_of(batch)) == sorted(row for b in before for row in rows_of(b))
    counts = [int(live_rows(batch).sum()) for batch in after]
    assert max(counts) - min(counts) <= 1
    assert [len(batch["names"]) for batch in after] == [4] * len(after)
    assert all(batch["num_items_in_batch"] == 77 for batch in after)


def test_a_row_with_a_kl_term_counts_as_one_with_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [share(process, [False] * 4, 2, 2) for process in range(2)]
    for process, batch in enumerate(before):
        batch[HAS_KL] = torch.tensor([process == 0] * 4)
    after = exchanged(before, monkeypatch)
    assert [int(batch[HAS_KL].sum()) for batch in after] == [2, 2]
    for batch in after:
        assert [number < 10 for number in batch["kl_tier"].tolist()] == batch[HAS_KL].tolist()
