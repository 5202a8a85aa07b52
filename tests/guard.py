"""A safety model whose verdicts are known without training: what has enough of the letter x in it is unsafe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny_model import build_tokenizer

BAD = "x"
SHARE = 0.04
"""Share of x among the characters of an exchange from which it is rather unsafe than safe."""


def save_guard(path: Path, *, share: float = SHARE, **settings: Any) -> Path:
    """One layer that averages over the text how often x occurs, and a head that compares that with `share`.

    The first number of a hidden state counts x, the second is the same for every token; all other weights are 0.
    `settings` go into the checkpoint's configuration.
    """
    import torch
    import transformers as tf

    tokenizer = build_tokenizer()
    config = tf.Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=4,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        id2label={0: "unsafe", 1: "safe"},
        label2id={"unsafe": 0, "safe": 1},
    )
    model = tf.Qwen2ForSequenceClassification(config)
    bad = tokenizer.convert_tokens_to_ids(BAD)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            weight.fill_(1.0 if "norm" in name else 0.0)
        weights["model.embed_tokens.weight"][:, 1] = 1.0
        weights["model.embed_tokens.weight"][bad, 0] = 1.0
        # A normed x has sqrt(2) in both places; the last token of an exchange, a line break, is none.
        weights["model.layers.0.self_attn.v_proj.weight"][0, 0] = 2**-0.5
        weights["model.layers.0.self_attn.o_proj.weight"][0, 0] = 1.0
        weights["score.weight"][0, :2] = torch.tensor([2.0 / share, -2.0])
    for name, value in settings.items():
        setattr(model.config, name, value)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
