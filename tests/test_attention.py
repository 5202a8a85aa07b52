"""Decoding with grouped query heads gives what transformers' own attention gives, for every head layout."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stages.rollout.attention import NAME, grouped_attention


def model(heads: int, shared: int, attention: str = "sdpa") -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config).eval()


def decode(policy: LlamaForCausalLM, grouped: bool) -> torch.Tensor:
    """Logits of a left-padded prefill and of five single tokens after it."""
    ids = torch.arange(12).reshape(2, 6)
    mask = torch.ones(2, 11, dtype=torch.long)
    mask[0, :3] = 0
    made, cache, fed = [], None, ids
    with torch.inference_mode():
        for step in range(6):
            if grouped:
                with grouped_attention(policy):
                    output = policy(fed, attention_mask=mask[:, : 6 + step], past_key_values=cache, use_cache=True)
            else:
                output = policy(fed, attention_mask=mask[:, : 6 + step], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            made.append(output.logits[:, -1])
            fed = torch.full((2, 1), 7 + step)
    return torch.stack(made)


@pytest.mark.parametrize(("heads", "shared"), [(4, 1), (4, 2), (4, 4)])
def test_grouped_decoding_equals_sdpa(heads, shared):
    policy = model(heads, shared)
    torch.testing.assert_close(decode(policy, True), decode(policy, False), rtol=1e-5, atol=1e-6)


def test_only_sdpa_is_replaced_and_it_is_put_back():
    policy = model(4, 2)
    with grouped_attention(policy):
        assert policy.config._attn_implementation == NAME
    assert policy.config._attn_implementation == "sdpa"
    eager = model(4, 2, "eager")
    with grouped_attention(eager):
        assert eager.config._attn_implementation == "eager"
