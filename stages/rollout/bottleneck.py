"""Bottleneck adapters: small modules behind the blocks of a frozen model (Houlsby et al. 2019, arXiv 1902.00751).

Each makes h + up(gelu(down(h))) of what a block puts out, before that is added to the residual stream (section 2.1).
They are not linear, and cannot be merged: the folder BOTTLENECK of a checkpoint holds them, and the weights beside it
are those of the model below. Left out: norms of the base, which the paper trains along and which are its weights.

A module hangs in the block whose output it changes, so that the model keeps its class and its other names. Imports
torch. Dimensions: H width of the model, B sequences, T positions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from stages.rollout.beside import BOTTLENECK

NAME = "bottleneck"
"""Attribute of a block that holds its adapter, and so a part of the names of the parameters."""

WEIGHTS = "adapter.safetensors"

PLACES: Mapping[str, tuple[str, ...]] = {"feedforward": ("mlp",), "both": ("self_attn", "mlp")}
"""Placement to the blocks of a decoder layer that get one, by their names in Llama, Qwen and Mistral. `feedforward` is
that of Pfeiffer et al. 2020 (arXiv 2005.00247, section 3), `both` that of Houlsby et al."""


class Adapter(nn.Module):
    """One bottleneck."""

    hook: Any
    """Handle of what sends the output of the block through here."""

    def __init__(self, hidden: int, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down = nn.utils.skip_init(nn.Linear, hidden, size)
        self.up = nn.utils.skip_init(nn.Linear, size, hidden)
        with torch.no_grad():
            self.down.weight.normal_(std=hidden**-0.5, generator=generator)
            self.down.bias.zero_()
            self.up.weight.zero_()  # the start is exactly the model below
            self.up.bias.zero_()

    def forward(self, hidden_BTH: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.up(functional.gelu(self.down(hidden_BTH)))
        return hidden_BTH + made


def put_on(model: Any, size: int, placement: str, seed: int = 0) -> None:
    """Give a decoder its adapters, in the precision of the blocks that they follow.

    Nothing is drawn from the global generator. Raises ValueError for an architecture whose blocks are not found.
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = _blocks(model, PLACES[placement])
    for block in blocks:
        place = next(block.parameters())
        adapter = Adapter(model.config.hidden_size, size, generator).to(place.device, place.dtype)
        adapter.hook = block.register_forward_hook(_through)
        setattr(block, NAME, adapter)


def take_off(model: Any) -> None:
    """What is left is the plain architecture."""
    for block in [module for module in model.modules() if isinstance(getattr(module, NAME, None), Adapter)]:
        getattr(block, NAME).hook.remove()
        delattr(block, NAME)


def has_adapters(model: Any) -> bool:
    """Whether a model of transformers has bottlenecks on."""
    return next(_adapters(model), None) is not None


def save_bottleneck(model: Any, checkpoint: Path) -> None:
    """Write the adapters of `model` into their folder of `checkpoint`; the weights are somebody else's business."""
    folder = checkpoint / BOTTLENECK
    folder.mkdir(parents=True, exist_ok=True)
    found = dict(_adapters(model))
    placement = "both" if any(name.endswith(f"self_attn.{NAME}") for name in found) else "feedforward"
    settings = {"size": next(iter(found.values())).down.out_features, "placement": placement}
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    save_file({name: value.detach().cpu().contiguous() for name, value in _state(model).items()}, folder / WEIGHTS)


def load_bottleneck(model: Any, checkpoint: Path) -> None:
    """Put the adapters of `checkpoint` on `model`, which was loaded from the weights beside them.

    Raises ValueError where the folder does not hold the adapters of such a model.
    """
    folder = checkpoint / BOTTLENECK
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(settings["size"], int) or settings["size"] < 1:
            raise ValueError(f"size {settings['size']!r}")
        put_on(model, settings["size"], settings["placement"])
        saved = load_file(folder / WEIGHTS)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ValueError(f"{folder}: not the bottleneck adapters of a step: {error}") from None
    own = _state(model)
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in saved.items()}:
        raise ValueError(f"{folder / WEIGHTS}: not the adapters of the model whose weights lie beside it")
    with torch.no_grad():
        for name, value in saved.items():
            own[name].copy_(value)


def _through(block: Any, _: Any, output: Any) -> Any:
    """Hook of a block; attention puts out its probabilities too."""
    adapter = getattr(block, NAME)
    return (adapter(output[0]), *output[1:]) if isinstance(output, tuple) else adapter(output)


def _blocks(model: Any, names: tuple[str, ...]) -> list[Any]:
    layers = list(getattr(getattr(model, "model", None), "layers", []))
    if not layers or not all(hasattr(layer, name) for layer in layers for name in names):
        raise ValueError(
            f"bottleneck: the layers of {model.config.model_type} are none with {' and '.join(names)}, as those of "
            "Llama, Qwen and Mistral are; take lora"
        )
    return [getattr(layer, name) for layer in layers for name in names]


def _adapters(model: Any) -> Iterator[tuple[str, Adapter]]:
    yield from ((name, module) for name, module in model.named_modules() if isinstance(module, Adapter))


def _state(model: Any) -> dict[str, torch.Tensor]:
    return {f"{name}.{own}": value for name, module in _adapters(model) for own, value in module.named_parameters()}
