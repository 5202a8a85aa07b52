"""Tell a policy where the tokens of a left-padded batch stand, if it minds.

TRL scores completions behind prompts that are padded on the left, and tells no positions: a model then counts the
padding. Rotary positions forgive that as long as all tokens move together. A prefix does not move along, and a model
that looks its positions up (GPT-2) gets others than the sampler's.

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

    `called` is the policy or its reference, bare or wrapped. Nothing happens where a shift of the whole sequence
    changes nothing, or where the model takes no positions. The positions leave a prefix out: peft adds its length,
    and with the prefix off, as for a reference, the first token stands at 0.
    """
    model = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
    takes_them = "position_ids" in inspect.signature(model.forward).parameters
    if not takes_them or not (is_prefixed(policy) or _absolute(model)):
        yield
        return
    hook = called.register_forward_pre_hook(_with_positions, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _absolute(model: Any) -> bool:
    """Whether the model's positions are, as far as can be told, not rotary ones."""
    return getattr(model.config.get_text_config(), "rope_parameters", None) is None


def _with_positions(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    positions_BT = (kwargs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return args, {**kwargs, "position_ids": positions_BT}
