"""Sequence classifiers that score an exchange: loading one, the text that it reads, its logits; torch when called."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

Exchange = tuple[str, str]
"""What the user asked and what the reader was shown."""


def conversation(tokenizer: Any, prompt: str, answer: str) -> str:
    """The text that is scored: one exchange in the chat template. Training a classifier encodes the same."""
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    if tokenizer.chat_template is None:
        return f"{prompt}\n{answer}"
    return str(tokenizer.apply_chat_template(messages, tokenize=False))


def encode(tokenizer: Any, texts: str | Sequence[str], **options: Any) -> Any:
    """Conversations as token ids; a tokenizer without a chat template adds its own special tokens."""
    return tokenizer(texts, add_special_tokens=tokenizer.chat_template is None, **options)


def logits(model: Any, tokenizer: Any, texts: Sequence[str], max_length: int) -> Any:
    """Logits, one row a text and one column a label, on the model's device. What is too long loses its beginning."""
    import torch

    tokenizer.truncation_side = "left"
    limit = longest(model, tokenizer, max_length)
    batch = encode(tokenizer, list(texts), return_tensors="pt", padding=True, truncation=True, max_length=limit)
    batch.pop("token_type_ids", None)
    with torch.inference_mode():
        return model(**batch.to(model.device)).logits.float()


def longest(model: Any, tokenizer: Any, max_length: int) -> int:
    """`max_length`, or fewer tokens where the model has fewer positions: an encoder breaks behind its last one."""
    positions = getattr(model.config, "max_position_embeddings", None) or max_length
    tables = [module for name, module in model.named_modules() if name.endswith("position_embeddings")]
    # RoBERTa and its kin count positions from behind that of padding: the first rows of the table stay unused.
    unused = max(
        (table.padding_idx + 1 for table in tables if getattr(table, "padding_idx", None) is not None), default=0
    )
    return int(min(max_length, positions - unused, tokenizer.model_max_length))


def load(path: str, device: str | None, reward: str) -> tuple[Any, Any]:
    """Model and tokenizer. Raises ValueError, which begins with the name of the reward, where they cannot be loaded."""
    try:
        return _load(path, device)
    except (OSError, ValueError) as error:
        raise ValueError(f"{reward}: cannot load {path}: {str(error).splitlines()[0]}") from None


@lru_cache(maxsize=3)
def _load(path: str, device: str | None) -> tuple[Any, Any]:
    """Once in a process."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(chosen).eval(), tokenizer
