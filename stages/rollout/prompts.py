"""From messages to the token ids that a model continues."""

from __future__ import annotations

from typing import Any

from stages.rollout.engine import Prompt


def prompt_ids(tokenizer: Any, prompt: Prompt, prefill: str = "") -> list[int]:
    """Token ids of a prompt: chat template, generation prompt, then `prefill` unless the template wrote it already.

    A conversation that ends with the assistant is continued, as TRL does. Token ids pass unchanged.
    Raises ValueError for an empty prompt.
    """
    if not prompt:
        raise ValueError("a prompt is empty")
    if isinstance(prompt[0], int):
        return list(prompt)  # type: ignore[arg-type]
    messages = [dict(message) for message in prompt]  # type: ignore[arg-type]
    continued = messages[-1]["role"] == "assistant"
    text: str = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=not continued, continue_final_message=continued
    )
    if prefill and not continued and not text.rstrip().endswith(prefill.rstrip()):
        text += prefill
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
