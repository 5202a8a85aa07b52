"""Sampling for models with an encoder (T5 and its kin), through transformers' `generate`.

`generate` draws from the global random state; it is seeded for the batch and put back afterwards. A sequence's tokens
therefore depend on its batch, unlike those of causal models.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig

from stages.rollout.batching import Unit
from stages.rollout.engine import Sampling


def generate_batch(model: Any, eos: tuple[int, ...], units: list[Unit], sampling: Sampling) -> tuple[Any, Any, Any]:
    """Sample one batch; returns tokens_BT, logprobs_BT and lengths_B on the CPU."""
    rows = [unit.ids for unit in units for _ in range(unit.count)]
    width = max(map(len, rows))
    input_BT = torch.tensor([ids + [eos[0]] * (width - len(ids)) for ids in rows])
    mask_BT = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in rows])
    with torch.random.fork_rng(), _nothing_but_the_model(model):
        torch.manual_seed(
            (sampling.seed * 1_000_003 + (sampling.first_prompt + units[0].prompt) * 1009 + units[0].first) % 2**63
        )
        output = model.generate(
            input_ids=input_BT.to(model.device),
            attention_mask=mask_BT.to(model.device),
            max_new_tokens=sampling.max_tokens,
            eos_token_id=list(eos),
            pad_token_id=eos[0],
            # `generate` would make a cache as deep as a T5's encoder is, and fail where its decoder is deeper.
            use_cache=True,
            past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache()),
            return_dict_in_generate=True,
            output_logits=True,
            **_generate_options(sampling),
        )
    logits_BTV = torch.stack(output.logits, dim=1).float() / (sampling.temperature or 1.0)
    steps = logits_BTV.shape[1]
    tokens_BT = output.sequences[:, -steps:]
    logprobs_BT = torch.log_softmax(logits_BTV, -1).gather(-1, tokens_BT[:, :, None]).squeeze(-1)
    ended_BT = torch.isin(tokens_BT, torch.tensor(eos, device=tokens_BT.device))
    lengths_B = torch.where(ended_BT.any(1), ended_BT.int().argmax(1) + 1, steps)
    return tokens_BT.cpu(), logprobs_BT.cpu(), lengths_B.cpu()


def _generate_options(sampling: Sampling) -> dict[str, Any]:
    if sampling.temperature == 0:
        return {"do_sample": False}
    return {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
    }


@contextmanager
def _nothing_but_the_model(model: Any) -> Iterator[None]:
    """For a while, `generate` knows nothing but where the decoder starts.

    Published checkpoints ask for beams, forced tokens (BART ends at the limit with EOS, and a completion that was cut
    short would count as finished) and penalties: none of them is what the model was trained for, or is scored as.
    """
    kept = model.generation_config
    start = kept.decoder_start_token_id
    start = getattr(model.config, "decoder_start_token_id", None) if start is None else start
    model.generation_config = GenerationConfig(decoder_start_token_id=start, bos_token_id=kept.bos_token_id)
    try:
        yield
    finally:
        model.generation_config = kept
