"""Make the embedded base model and its student: seeded, a few minutes on two cores.

python -m data.tiny.pretrain                      both, into data/tiny/base and data/tiny/student
python -m data.tiny.pretrain --model base --tokens 1000000 --out /tmp/base
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.tiny.corpus import documents
from data.tiny.tokenizer import train_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How one of the two models is made."""

    layers: int
    width: int = 128
    inner: int = 384
    heads: int = 4
    tokens: int = 5_000_000
    length: int = 256
    """Tokens in a packed sequence."""
    batch: int = 8
    """Sequences in a step."""
    learning_rate: float = 3e-3
    seed: int = 0


RECIPES = {"base": Recipe(layers=4), "student": Recipe(layers=2, tokens=4_000_000)}
VOCABULARY = 1000
TOKENIZER_DOCUMENTS = 8000


def make_tokenizer() -> Qwen2Tokenizer:
    """The tokenizer of both models; the same on every call."""
    return train_tokenizer(documents(TOKENIZER_DOCUMENTS, seed=1), VOCABULARY)


def make_model(recipe: Recipe, tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """An untrained model."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(recipe.seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.inner,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads // 2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def batches(recipe: Recipe, tokenizer: Qwen2Tokenizer) -> Iterator[torch.Tensor]:
    """Endless batches of packed documents, `[batch, length]`."""
    import torch

    size = recipe.batch * recipe.length
    queue: list[int] = []
    start = 0
    while True:
        while len(queue) < size:
            texts = list(documents(512, recipe.seed, start))
            start += 512
            for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
                queue += ids
        yield torch.tensor(queue[:size]).view(recipe.batch, recipe.length)
        del queue[:size]


def train(recipe: Recipe, tokenizer: Qwen2Tokenizer, name: str, device: str = "cpu") -> Qwen2ForCausalLM:
    """A trained model. The loss of a step is on the progress bar."""
    import torch
    from tqdm import tqdm

    model = make_model(recipe, tokenizer).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    steps = recipe.tokens // (recipe.batch * recipe.length)
    warm = max(1, steps // 20)
    bar = tqdm(total=recipe.tokens, desc=f"pre-training {name}", unit="tok", unit_scale=True)
    model.train()
    for step, ids_BT in zip(range(steps), batches(recipe, tokenizer), strict=False):
        ids_BT = ids_BT.to(device)
        share = min(1.0, (step + 1) / warm) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * share
        loss = model(input_ids=ids_BT, labels=ids_BT).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        bar.update(ids_BT.numel())
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    bar.close()
    return model


def save(model: Any, tokenizer: Qwen2Tokenizer, out: Path) -> None:
    """Write weights (bf16), configuration, tokenizer and chat template, whole or not at all."""
    import torch
    from transformers import GenerationConfig

    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model = model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    for file in partial.iterdir():
        file.chmod(0o644)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    from dataclasses import replace

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(RECIPES), action="append", help="default: both")
    parser.add_argument("--tokens", type=int, help="training tokens instead of the recipe's")
    parser.add_argument("--device", default="cpu", help="the kept checkpoints differ in the last bits by device")
    parser.add_argument("--out", type=Path, default=HERE, help="directory that base/ and student/ are written into")
    options = parser.parse_args(arguments)
    tokenizer = make_tokenizer()
    for name in options.model or RECIPES:
        recipe = RECIPES[name]
        if options.tokens:
            recipe = replace(recipe, tokens=options.tokens)
        model = train(recipe, tokenizer, name, options.device).cpu()
        save(model, tokenizer, options.out / name)
        size = sum(p.numel() for p in model.parameters())
        print(f"{options.out / name}: {size:,} parameters, {len(tokenizer)} tokens", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
