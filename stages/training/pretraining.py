"""Raw text to pre-train on: documents as token ids, packed into blocks, and blocks among completions.

Left out on purpose: masks that keep documents of one block apart. As in the pre-training of GPT-3 (Brown et al. 2020,
arXiv 2005.14165, appendix B), EOS alone tells that what follows has nothing to do with what came before.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from data.records import Row
from stages.stage import Context, StageConfig
from stages.training.encode import Encoded

AT_ONCE = 256
"""Documents that the tokenizer is given in one call."""


class Pretraining(StageConfig):
    """`pretraining` of a step that learns completions: text of `pretraining_from` among them, against forgetting.

    The mixed pre-training objective of PPO-ptx (Ouyang et al. 2022, arXiv 2203.02155, section 3.5) in supervised
    fine-tuning. The loss is a mean over learned tokens, so the tokens of the two decide what each weighs.
    """

    share: float = Field(0.1, gt=0, lt=1)
    """Share of the step's sequences that are blocks of text."""
    length: int | None = Field(None, ge=8)
    """Tokens in a block; None: `max_length`."""


def documents(rows: Sequence[Row], model: Path, context: Context) -> list[tuple[Row, list[int]]]:
    """Each row of raw text with its token ids: what the tokenizer of `model` opens a text with, the text, EOS."""
    from stages.training.models import load_tokenizer
    from stages.training.progress import quiet

    quiet()  # that a document is longer than the model takes is no news: it is cut into blocks
    tokenizer = load_tokenizer(model, context.prefill)
    eos = tokenizer.eos_token_id
    found: list[tuple[Row, list[int]]] = []
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        for row, ids in zip(part, tokenizer([row["text"] for row in part])["input_ids"], strict=True):
            found.append((row, ids if ids[-1:] == [eos] else [*ids, eos]))
    return found


def pack(texts: Sequence[list[int]], length: int, seed: int) -> list[Encoded]:
    """Blocks of `length` tokens out of documents in an order drawn from the seed; the last block may be shorter.

    All tokens are learned but the first of a block, which nothing comes before. A last block of one token is left out.
    """
    order = list(texts)
    random.Random(f"{seed}/documents").shuffle(order)
    stream = [token for ids in order for token in ids]
    cut = [stream[start : start + length] for start in range(0, len(stream), length)]
    return [Encoded(ids, [0] + [1] * (len(ids) - 1)) for ids in cut if len(ids) > 1]


def interleave(completions: Sequence[Encoded], blocks: Sequence[Encoded]) -> list[Encoded]:
    """The two merged, each in its order, so that every stretch holds its share of both."""
    placed = [
        ((at + 0.5) / len(items), kind, item)
        for kind, items in enumerate((completions, blocks))
        for at, item in enumerate(items)
    ]
    return [item for *_, item in sorted(placed, key=lambda entry: entry[:2])]


def mixed(
    config: Pretraining,
    completions: Sequence[Encoded],
    rows: Sequence[Row],
    model: Path,
    max_length: int,
    context: Context,
    counts: dict[str, int],
) -> list[Encoded]:
    """`completions` with blocks of the raw text of `rows` among them, as many as `config.share` says.

    Text that is too little comes again, in another order. What was used is added to `counts`.
    """
    texts = [ids for _, ids in documents(rows, model, context)]
    length = min(config.length or max_length, max_length)
    wanted = max(1, round(len(completions) * config.share / (1 - config.share)))
    blocks: list[Encoded] = []
    turn = 0
    while len(blocks) < wanted:
        turn += 1
        blocks += pack(texts, length, context.seed * 1009 + turn)
        if not blocks:
            raise ValueError(f"pretraining_from: {len(texts)} documents hold no token to learn")
    counts["blocks of text"] = wanted
    counts["documents of text"] = len(texts)
    return interleave(completions, blocks[:wanted])
