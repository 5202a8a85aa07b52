"""Sizes of a decoder out of its config.json, without its weights and without torch.

    sizes = known("Qwen/Qwen2.5-7B")        # or read_config(Path("checkpoint/config.json"))
    sizes.parameters                        # 7_615_616_512, as published

Llama, Mistral, Qwen2 and Qwen3: pre-norm decoders with grouped-query attention and a gated feed-forward layer, without
experts. Numbers of published models are those of their config.json on the Hub.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.messages import nearest, shorten
from pipeline.weights import sizes as tensor_sizes

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Values of `model_type` whose layers are known."""
ENCODER_DECODER, ENCODER = "encoder-decoder", "encoder"
COUNTED = (ENCODER_DECODER, ENCODER)
"""Families of the models with an encoder, whose parameters are counted and nothing else."""
ENCODERS = frozenset(
    [
        "albert",
        "bert",
        "camembert",
        "deberta",
        "deberta-v2",
        "distilbert",
        "electra",
        "modernbert",
        "mpnet",
        "roberta",
        "xlm-roberta",
    ]
)
"""Values of `model_type` of encoders, from which preference and safety models may start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """What a decoder's memory and arithmetic depend on. Sizes are numbers, not bytes."""

    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    tied: bool
    """Whether the head is the transposed embedding."""
    stored: int | None = None
    """Numbers that the weight files hold, where they are at hand."""

    @property
    def known(self) -> bool:
        """Whether the sizes of its layers are; see `only_counted`."""
        return self.layers > 0

    @property
    def queries(self) -> int:
        """Width of the queries of one position, and of the attention's output."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of the keys of one position; the values are as wide."""
        return self.kv_heads * self.head_dim

    @property
    def embedding(self) -> int:
        """Parameters of the embedding; as many are those of the head."""
        return self.vocabulary * self.hidden

    @property
    def layer_matrices(self) -> int:
        """Parameters of one layer that take part in a matrix product."""
        attention = self.hidden * (2 * self.queries + 2 * self.keys)
        return attention + 3 * self.hidden * self.ffn

    @property
    def layer(self) -> int:
        """Parameters of one decoder layer."""
        biases = self.queries + 2 * self.keys if self.family == "qwen2" else 0
        head_norms = 2 * self.head_dim if self.family == "qwen3" else 0
        return self.layer_matrices + biases + head_norms + 2 * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters; a tied head counts once."""
        if self.stored is not None:
            return self.stored
        return self.layers * self.layer + self.hidden + self.embedding * (1 if self.tied else 2)

    @property
    def matrices(self) -> int:
        """Parameters that take part in a matrix product for every token: layers and head, not the embedding."""
        return self.layers * self.layer_matrices + self.embedding

    @property
    def outputs(self) -> int:
        """Rows of the linear layers: one number each is what DoRA adds."""
        return self.layers * (self.queries + 2 * self.keys + 2 * self.hidden + 2 * self.ffn)

    @property
    def adapted(self) -> int:
        """Sum of rows and columns over the linear layers: trainable parameters of LoRA on all of them, per rank."""
        attention = 2 * (self.hidden + self.queries) + 2 * (self.hidden + self.keys)
        return self.layers * (attention + 3 * (self.hidden + self.ffn))


def _qwen2(hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, vocabulary: int, tied: bool) -> Architecture:
    return _sized("qwen2", hidden, layers, heads, kv_heads, ffn, vocabulary, tied)


def _llama(hidden: int, layers: int, heads: int, kv_heads: int, ffn: int) -> Architecture:
    return _sized("llama", hidden, layers, heads, kv_heads, ffn, 128256, False)


def _sized(
    family: str, hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, vocabulary: int, tied: bool
) -> Architecture:
    return Architecture(
        family=family,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=hidden // heads,
        ffn=ffn,
        vocabulary=vocabulary,
        tied=tied,
    )


KNOWN = {
    "Qwen/Qwen2.5-0.5B": _qwen2(896, 24, 14, 2, 4864, 151936, True),
    "Qwen/Qwen2.5-1.5B": _qwen2(1536, 28, 12, 2, 8960, 151936, True),
    "Qwen/Qwen2.5-3B": _qwen2(2048, 36, 16, 2, 11008, 151936, True),
    "Qwen/Qwen2.5-7B": _qwen2(3584, 28, 28, 4, 18944, 152064, False),
    "Qwen/Qwen2.5-14B": _qwen2(5120, 48, 40, 8, 13824, 152064, False),
    "Qwen/Qwen2.5-32B": _qwen2(5120, 64, 40, 8, 27648, 152064, False),
    "Qwen/Qwen2.5-72B": _qwen2(8192, 80, 64, 8, 29568, 152064, False),
    "meta-llama/Llama-3.1-8B": _llama(4096, 32, 32, 8, 14336),
    "meta-llama/Llama-3.1-70B": _llama(8192, 80, 64, 8, 28672),
}
"""Repositories of the Hub whose sizes are built in; `-Instruct` behind a name changes none of them."""


def known(repository: str) -> Architecture:
    """Sizes of a published model. Raises ValueError naming the way out for one that is not built in."""
    name = repository.removesuffix("-Instruct")
    if name not in KNOWN:
        raise ValueError(
            f"the sizes of {repository} are not built in{nearest(name, KNOWN)}; give them with --model NAME=CONFIG.JSON"
        )
    return KNOWN[name]


def only_counted(parameters: int) -> Architecture:
    """A model of which nothing but the number of its parameters is known: its activations come to nothing."""
    return Architecture(
        family="",
        hidden=0,
        layers=0,
        heads=0,
        kv_heads=0,
        head_dim=0,
        ffn=0,
        vocabulary=0,
        tied=True,
        stored=parameters,
    )


def read_config(file: Path) -> Architecture:
    """Sizes out of a config.json, or the folder that holds it; its weight files, where present, have the last word on
    the number of parameters. Raises ValueError naming file and key.
    """
    file = file / "config.json" if file.is_dir() else file
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{file}: there is no such file") from None
    except (OSError, ValueError):
        raise ValueError(f"{file}: cannot be read as JSON") from None
    if isinstance(settings, dict) and settings.get("is_encoder_decoder"):
        return _counted(file, ENCODER_DECODER)
    if isinstance(settings, dict) and settings.get("model_type") in ENCODERS:
        return _counted(file, ENCODER)
    if not isinstance(settings, dict) or settings.get("model_type") not in FAMILIES:
        found = settings.get("model_type") if isinstance(settings, dict) else settings
        raise ValueError(f"{file}: model_type: {shorten(found)} has no plan; there is one for {', '.join(FAMILIES)}")
    heads = _size(settings, "num_attention_heads", file)
    hidden = _size(settings, "hidden_size", file)
    sizes = Architecture(
        family=settings["model_type"],
        hidden=hidden,
        layers=_size(settings, "num_hidden_layers", file),
        heads=heads,
        kv_heads=_size(settings, "num_key_value_heads", file, heads),
        head_dim=_size(settings, "head_dim", file, max(1, hidden // heads)),
        ffn=_size(settings, "intermediate_size", file),
        vocabulary=_size(settings, "vocab_size", file),
        tied=bool(settings.get("tie_word_embeddings", False)),
    )
    return replace(sizes, stored=_stored(file.parent, sizes.tied))


def _counted(file: Path, family: str) -> Architecture:
    stored = _stored(file.parent, tied=True)
    if stored is None:
        kind = "encoder" if family == ENCODER else f"{family} model"
        raise ValueError(f"{file}: an {kind} is planned by its weights, and no *.safetensors lie beside it")
    return replace(only_counted(stored), family=family)


def _size(settings: dict[str, Any], key: str, file: Path, default: int | None = None) -> int:
    value = settings.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{file}: {key}: expected a whole number above 0, got {shorten(value)}")
    return value


def _stored(folder: Path, tied: bool) -> int | None:
    """Numbers in the safetensors files of a folder, from their headers; None where there are none."""
    found = [item for file in sorted(folder.glob("*.safetensors")) for item in tensor_sizes(file).items()]
    return sum(size for name, size in found if not (tied and re.search(r"(^|\.)lm_head\.weight$", name))) or None
