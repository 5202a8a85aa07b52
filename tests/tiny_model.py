"""Random models of a few thousand weights with a character tokenizer, for tests that need no trained checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

Family = Literal["qwen2", "llama", "gpt2", "mistral"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 \n:+-*/=?.,<>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small lose far more to waking a second thread than it can compute; import it to use it."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build_tokenizer() -> Any:
    """One token a character. Of the class that transformers gives to every checkpoint of type qwen2, so that it comes
    back from disk as it was."""
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer

    letters = [{" ": "Ġ", "\n": "Ċ"}.get(c, c) for c in CHARACTERS]  # byte-level BPE writes them so
    vocabulary = {token: i for i, token in enumerate(["<eos>", "<pad>", *letters])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], eos_token="<eos>", pad_token="<pad>", unk_token="<pad>")
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in TAGS])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def build_model(family: Family = "qwen2", seed: int = 0) -> Any:
    """A model with weights large enough that its choices are far from uniform; about 1 completion in 20 tokens ends."""
    import torch
    import transformers as tf

    vocabulary = len(build_tokenizer())
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 1,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        match family:
            case "qwen2":
                model: Any = tf.Qwen2ForCausalLM(tf.Qwen2Config(**shape))
            case "llama":
                model = tf.LlamaForCausalLM(tf.LlamaConfig(**shape))
            case "mistral":
                model = tf.MistralForCausalLM(tf.MistralConfig(**shape, sliding_window=16))
            case "gpt2":
                model = tf.GPT2LMHeadModel(
                    tf.GPT2Config(
                        vocab_size=vocabulary,
                        n_embd=32,
                        n_layer=2,
                        n_head=4,
                        n_positions=256,
                        bos_token_id=None,
                        eos_token_id=0,
                        pad_token_id=1,
                    )
                )
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(4)
    model.generation_config.eos_token_id = [0, 5, 9]  # three ways to end keep completions short and of many lengths
    model.generation_config.pad_token_id = 1
    return model.eval()


def save_checkpoint(path: Path, seed: int = 0) -> Path:
    """A checkpoint directory as a step of the pipeline makes it."""
    build_model(seed=seed).save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    return path
