"""The modules of multi-token prediction, attached to a model while it is trained and taken off before it is saved.

DeepSeek-V3 (arXiv 2412.19437), section 2.2. With h^0 the model's hidden states, module k makes (equations 21 to 23)

    h'^k_i = M_k [RMSNorm(h^(k-1)_i); RMSNorm(Emb(t_(i+k)))]      a projection of 2 H to H
    h^k    = TRM_k(h'^k)                                          a decoder layer of the model's own kind
    p^k_i  = OutHead(Norm_k(h^k_i))                               predicts t_(i+k+1)

Embedding and head are the model's own. Imports torch: import it inside a stage's run().
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from stages.training.mtp import MTP

NAME = "mtp"
"""Attribute of the model that holds the modules, and so the beginning of their parameters' names."""

LAYERS = ("layers", "h")
NORMS = ("norm", "ln_f", "final_layer_norm")
"""Names of the decoder layers and of the norm behind them, in Llama and its kin and in GPT-2."""

IGNORED = -100
Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of a call of a decoder layer, the hidden states among them."""


class Module(nn.Module):
    """Module k."""

    def __init__(self, layer: nn.Module, norm: nn.Module, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        place = next(layer.parameters())
        like: dict[str, Any] = {"device": place.device, "dtype": place.dtype}
        self.hidden_norm = nn.RMSNorm(hidden, eps=1e-6, **like)
        self.token_norm = nn.RMSNorm(hidden, eps=1e-6, **like)
        self.projection = nn.Linear(2 * hidden, hidden, bias=False, device="meta").to_empty(device=place.device)
        self.projection.to(place.dtype)
        drawn = torch.empty(hidden, 2 * hidden).normal_(std=(2 * hidden) ** -0.5, generator=generator)
        with torch.no_grad():  # keeps the scale of what the norms make
            self.projection.weight.copy_(drawn)
        self.block = copy.deepcopy(layer)
        self.final_norm = copy.deepcopy(norm)
        self.requires_grad_(True)

    def forward(self, hidden_BTH: torch.Tensor, tokens_BTH: torch.Tensor, call: Call) -> torch.Tensor:
        """h^k out of h^(k-1) and the embeddings of the tokens k places on; both, and what it returns, (B, T, H)."""
        joined_BT2H = torch.cat([self.hidden_norm(hidden_BTH), self.token_norm(tokens_BTH)], dim=-1)
        made = self.block(
            self.projection(joined_BT2H), *call[0][1:], **{k: v for k, v in call[1].items() if k != "hidden_states"}
        )
        return made[0] if isinstance(made, tuple) else made


class Modules(nn.Module):
    """All modules of a model, and what the last training pass measured of them."""

    def __init__(self, modules: list[Module], weight: float) -> None:
        super().__init__()
        self.heads = nn.ModuleList(modules)
        self.weight = weight
        self.sums: torch.Tensor | None = None
        """(1 + depth,): negative log-likelihoods of the last pass, summed over labels: next token, then module k."""

    def forward(self, hidden_BTH: torch.Tensor, ids_BT: torch.Tensor, embed: nn.Module, call: Call) -> torch.Tensor:
        """Hidden states before the head, those of the model first: ((1 + depth) B, T, H).

        The last k positions of module k see tokens that are not there; no label belongs to them, and the layers are
        causal.
        """
        found = [hidden_BTH]
        last_BTH = hidden_BTH
        for k, head in enumerate(self.heads, start=1):
            last_BTH = head(last_BTH, embed(_ahead(ids_BT, k, 0)), call)
            found.append(head.final_norm(last_BTH))
        return torch.cat(found)


def attach(model: Any, config: MTP, seed: int) -> int:
    """Give a causal model its modules, with layers copied from its last one; returns how many numbers they hold.

    Nothing is drawn from the global generator. Raises ValueError for an architecture whose parts are not found.
    """
    layer, norm = _last_layer(model), _part(model.base_model, NORMS)
    if layer is None or norm is None or getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(
            f"mtp: {type(model).__name__} is no decoder whose layers and final norm are known; leave it out"
        )
    hidden = model.get_input_embeddings().weight.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    modules = [Module(layer, norm, hidden, generator) for _ in range(config.depth)]
    setattr(model, NAME, Modules(modules, config.weight))
    return sum(parameter.numel() for parameter in getattr(model, NAME).parameters())


def detach(model: Any) -> None:
    """Take the modules off: what is left is the plain architecture."""
    delattr(model, NAME)


def predict_ahead(model: Any) -> None:
    """Let a model with modules and TRL's fused head add their log-probabilities to its own while it trains.

    TRL's loss is the sum of `log_probs` over a count of labels that gradient accumulation and processes share. With
    weight / depth times those of the modules added, that sum over that count is equations 24 and 25, where each loss is
    divided by the length of the main one. Only labelled positions meet the head, as without modules.
    """
    plain = model.forward

    @functools.wraps(plain)
    def forward(*args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if fused_lm_head and model.training:
            return _with_modules(model, plain, args, kwargs)
        return plain(*args, fused_lm_head=fused_lm_head, **kwargs)

    model.forward = forward


def _with_modules(model: Any, plain: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    modules: Modules = getattr(model, NAME)
    ids_BT, labels_BT = kwargs["input_ids"], kwargs["labels"]
    calls: list[Call] = []

    def note(_: Any, call_args: Any, call_kwargs: Any) -> None:
        calls.append((call_args, call_kwargs))

    def extend(_: Any, __: Any, output: Any) -> Any:
        output.last_hidden_state = modules(output.last_hidden_state, ids_BT, model.get_input_embeddings(), calls[0])
        return output

    layer = _last_layer(model)
    assert layer is not None
    hooks = [
        layer.register_forward_pre_hook(note, with_kwargs=True),  # mask and positions, whatever the architecture
        model.base_model.register_forward_hook(extend),
    ]
    depths = range(1 + len(modules.heads))
    try:
        output = plain(
            *args,
            fused_lm_head=True,
            **{**kwargs, "labels": torch.cat([_ahead(labels_BT, k, IGNORED) for k in depths])},
        )
    finally:
        for hook in hooks:
            hook.remove()
    logprobs_DBT = output.log_probs.unflatten(0, (len(depths), -1))
    modules.sums = -logprobs_DBT.detach().sum(dim=(1, 2))
    rows = len(ids_BT)
    return type(output)(
        log_probs=logprobs_DBT[0] + modules.weight * logprobs_DBT[1:].mean(dim=0),
        entropy=output.entropy[:rows],
        is_top1=output.is_top1[:rows],
        label_mask=output.label_mask[:rows],
        aux_loss=output.aux_loss,
    )


def _ahead(values_BT: torch.Tensor, places: int, fill: int) -> torch.Tensor:
    """What stands `places` further on in each row; `fill` behind the end."""
    return functional.pad(values_BT[:, places:], (0, min(places, values_BT.shape[1])), value=fill)


def _last_layer(model: Any) -> nn.Module | None:
    layers = _part(model.base_model, LAYERS)
    return layers[-1] if isinstance(layers, nn.ModuleList) else None


def _part(backbone: Any, names: tuple[str, ...]) -> Any:
    return next((found for name in names if (found := getattr(backbone, name, None)) is not None), None)
