"""One step of sampling: logits in, tokens and their log-probabilities out.

Dimensions: B sequences, V vocabulary. Randomness comes in as one uniform number per sequence and step, so a sequence's
tokens depend on its own numbers and not on who shares its batch (up to rounding in the forward pass).
"""

from __future__ import annotations

from typing import Any

from stages.rollout.engine import Sampling


def draw(logits_BV: Any, uniform_B: Any, sampling: Sampling) -> tuple[Any, Any]:
    """Choose a token per row by inverting the cumulative distribution; greedy at temperature 0.

    Returns (tokens_B, logprobs_B); see `Completion.logprobs` for which distribution.
    """
    import torch

    if sampling.temperature == 0:
        logprobs_BV = torch.log_softmax(logits_BV.float(), dim=-1)
        tokens_B = logits_BV.argmax(-1)
    else:
        logprobs_BV = torch.log_softmax(logits_BV.float() / sampling.temperature, dim=-1)
        cdf_BV = _truncated(logprobs_BV.exp(), sampling).cumsum(-1)
        tokens_B = torch.searchsorted(cdf_BV, uniform_B[:, None] * cdf_BV[:, -1:], right=True).squeeze(-1)
    return tokens_B, logprobs_BV.gather(-1, tokens_B[:, None]).squeeze(-1)


def _truncated(probs_BV: Any, sampling: Sampling) -> Any:
    """Zero what top_k and then top_p leave out; not normalised."""
    import torch

    if 0 < sampling.top_k < probs_BV.shape[-1]:
        kth_B1 = probs_BV.topk(sampling.top_k, dim=-1).values[:, -1:]
        probs_BV = torch.where(probs_BV < kth_B1, 0.0, probs_BV)
    if sampling.top_p < 1:
        sorted_BV, order_BV = probs_BV.sort(dim=-1, descending=True)
        before_BV = sorted_BV.cumsum(-1) - sorted_BV
        kept_BV = torch.where(before_BV < sampling.top_p * sorted_BV.sum(-1, keepdim=True), sorted_BV, 0.0)
        probs_BV = torch.zeros_like(probs_BV).scatter(-1, order_BV, kept_BV)
    return probs_BV


def uniforms(seed: int, prompt: int, n: int, steps: int) -> Any:
    """Numbers in [0, 1) for the `n` completions of prompt number `prompt`: a float32 tensor (n, steps).

    Clamped a little below 1, so that rounding never reaches past the last token with any probability.
    """
    import torch

    generator = torch.Generator().manual_seed((seed * 1_000_003 + prompt) % 2**63)
    return torch.rand(n, steps, generator=generator).clamp_(max=1 - 2**-22)
