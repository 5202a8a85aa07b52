"""Attention for one new token a sequence, where several query heads share a key-value head.

transformers' SDPA path copies the keys and values once for each query head of a group, at every token. A single query
position needs no causal order, so the query heads of a group can stand where query positions stand: the kernel reads
the cache once, and nothing is copied. Longer inputs (the prefill) go to transformers' own function.

Dimensions: B sequences, H query heads, K key-value heads, G = H / K heads a group, T positions, D head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "grouped_sdpa"


def grouped_attention_forward(
    module: Any, query_BHQD: Any, key_BKTD: Any, value_BKTD: Any, attention_mask: Any, **options: Any
) -> tuple[Any, None]:
    """Signature and result, (B, Q, H, D), of transformers' attention functions."""
    batch, heads, positions, width = query_BHQD.shape
    groups = getattr(module, "num_key_value_groups", 1)
    plain = positions == 1 and groups > 1 and options.get("position_bias") is None
    if not plain or (attention_mask is not None and attention_mask.shape[1] != 1):
        return sdpa_attention_forward(module, query_BHQD, key_BKTD, value_BKTD, attention_mask, **options)
    query_BKGD = query_BHQD.reshape(batch, heads // groups, groups, width)
    mixed_BKGD = scaled_dot_product_attention(
        query_BKGD, key_BKTD, value_BKTD, attn_mask=attention_mask, scale=options.get("scaling")
    )
    return mixed_BKGD.reshape(batch, 1, heads, width), None


AttentionInterface.register(NAME, grouped_attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def grouped_attention(model: Any) -> Iterator[None]:
    """For a while, a model that uses SDPA decodes with the function above; others are left alone."""
    config = model.config
    if getattr(config, "_attn_implementation", None) != "sdpa":
        yield
        return
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"
