"""The tokenizer: byte-level BPE of a few hundred tokens, digits apart, tags as ordinary added tokens.

It is a `Qwen2Tokenizer`, whose way of cutting text is fixed: transformers gives every model of type qwen2 that class,
and a tokenizer that cut otherwise would silently change on loading. Tags are added with special=False: trainers
decode completions with special tokens skipped, and a reward would never see them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from data.template import THINK_ANSWER, ZH

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

START = "<|im_start|>"
EOS = "<|im_end|>"
PAD = "<|endoftext|>"
SPECIAL = (PAD, START, EOS)
TAGS = (*THINK_ANSWER.tags, *ZH.tags)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Qwen2Tokenizer:
    """Learn merges from `texts`; `vocabulary` counts bytes and merges, special tokens and tags come on top."""
    import json

    from tokenizers import AddedToken, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    core = Qwen2Tokenizer(vocab={}, merges=[]).backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    core.train_from_iterator(map(_unmarked, texts), trainer)
    learned = json.loads(core.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for token, index in learned["vocab"].items() if index < vocabulary},
        merges=[tuple(merge) for merge in learned["merges"]],
        eos_token=EOS,
        pad_token=PAD,
        unk_token=None,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=1024,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [START]})
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _unmarked(text: str) -> str:
    """The text without special tokens and tags, which must not shape the merges."""
    for mark in (*SPECIAL, *TAGS):
        text = text.replace(mark, "\n")
    return text
