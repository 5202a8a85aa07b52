"""Random encoder-decoder models of some ten thousand weights, with the tokenizer of data/tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

Family = Literal["t5", "bart"]
EMBEDDED = Path(__file__).resolve().parents[1] / "data" / "tiny" / "base"


def build_student(family: Family, width: int = 16, **settings: Any) -> tuple[Any, Any]:
    """(model, tokenizer): two layers of encoder, three of decoder, which starts with the pad token (T5) or EOS (BART).

    `settings` go over those of the model's configuration.
    """
    import torch
    import transformers as tf

    tf.utils.logging.disable_progress_bar()
    tokenizer = tf.AutoTokenizer.from_pretrained(EMBEDDED)
    shape = {"vocab_size": len(tokenizer), "d_model": width, "bos_token_id": None}
    shape |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        match family:
            case "t5":
                shape |= {"d_kv": width // 4, "d_ff": 2 * width, "num_layers": 2, "num_decoder_layers": 3}
                shape |= {"num_heads": 4, "decoder_start_token_id": tokenizer.pad_token_id}
                model: Any = tf.T5ForConditionalGeneration(tf.T5Config(**{**shape, **settings}))
            case "bart":
                shape |= {
                    f"{side}_{key}": n
                    for side in ("encoder", "decoder")
                    for key, n in (("layers", 2 + (side == "decoder")), ("attention_heads", 4), ("ffn_dim", 2 * width))
                }
                shape |= {"decoder_start_token_id": tokenizer.eos_token_id, "max_position_embeddings": 256}
                shape |= {"forced_eos_token_id": tokenizer.eos_token_id}  # as published
                model = tf.BartForConditionalGeneration(tf.BartConfig(**{**shape, **settings}))
    return model, tokenizer


def save_student(path: Path, family: Family, width: int = 16, **settings: Any) -> Path:
    """A checkpoint directory of one."""
    model, tokenizer = build_student(family, width, **settings)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
