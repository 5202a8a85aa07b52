"""Tell a prefixed policy where the tokens of a left-padded batch stand.

TRL scores completions behind prompts that are padded on the left, and tells no positions: a model then counts the
padding. Rotary positions forgive that as long as all tokens move together; a prefix does not move along.

Dimensions: B rows of the batch, T positions, padding included.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stages.rollout.prefix import is_prefixed


@contextmanager
def positions_from_mask(policy: Any, called: Any) -> Iterator[None]:
    """Inside, each pass of `called` gets the positions that the sampling loop of `policy` gives the same tokens.

    `called` is the policy, bare or wrapped. Nothing happens where the policy has no prefix, or where the model below
    takes no positions. The positions leave the prefix out: peft adds its length, and with the prefix off, as for a
    reference, the first token stands at 0.
    """
    if not is_prefixed(policy) or "position_ids" not in inspect.signature(policy.get_base_model().forward).parameters:
        yield
        return
    hook = called.register_forward_pre_hook(_with_positions, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _with_positions(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    positions_BT = (kwargs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return args, {**kwargs, "position_ids": positions_BT}
