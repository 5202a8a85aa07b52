"""Turn rows into token ids with the mask of what is learned: the completion, up to and including EOS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm import tqdm

from data.records import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Encoded:
    """One training sequence."""

    input_ids: list[int]
    """Length T: the rendered prompt, then the completion, then EOS."""
    completion_mask: list[int]
    """Length T: 1 where the token is learned. A tag that the chat template prefills belongs to the prompt."""


def prompt_ids(messages: Sequence[Mapping[str, str]], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a prompt with its generation prompt."""
    return tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=True, return_dict=True)[
        "input_ids"
    ]


def encode(
    prompt: Sequence[Mapping[str, str]],
    completion: Sequence[Mapping[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    prefill: str = "",
) -> Encoded:
    """Encode one conversation whose last message is learned.

    `prefill` is what the chat template writes of the answer itself; it belongs to the prompt. What a template
    writes after EOS (ChatML ends a turn with a line break) is not learned: the last label is EOS.
    """
    *context, last = completion
    head = prompt_ids([*prompt, *context], tokenizer)
    text = last["content"].removeprefix(prefill)
    tail = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return Encoded(head + tail, [0] * len(head) + [1] * len(tail))


def encode_rows(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    prefill: str = "",
    most: int | None = None,
) -> tuple[list[tuple[Row, Encoded]], dict[str, int]]:
    """The first `most` rows that can be learned (None: all), each with its sequence; the others counted by reason.

    A row longer than `max_length` tokens is left out whole: cut short, it would teach never to stop.
    """
    encoded: list[tuple[Row, Encoded]] = []
    counts = {"rows_used": 0}
    for row in tqdm(rows, desc="encoding", unit="row", leave=False, mininterval=0.5, delay=1):
        if len(encoded) == most:
            break
        if not row.get("completion"):
            reason = "unusable: no completion"
        else:
            item = encode(row["prompt"], row["completion"], tokenizer, prefill)
            if len(item.input_ids) <= max_length:
                encoded.append((row, item))
                reason = "rows_used"
            else:
                reason = f"unusable: longer than {max_length} tokens"
        counts[reason] = counts.get(reason, 0) + 1
    return encoded, counts
