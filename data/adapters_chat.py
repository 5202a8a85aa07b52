"""Adapters for conversations: instruction sets, reasoning traces, preference pairs, safety prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from data.adapters import At, Unusable, assistant, field, gold, lay_out, listed, relaid, text, user
from data.records import Row

ROLES: Mapping[str, str] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
}
"""Role names of the common conversation formats to ours."""

Messages = list[dict[str, str]]


def prompt_completion(value: Mapping[str, Any], at: At) -> Row:
    """Instruction sets: columns `prompt` and `completion`, and optionally `system`, `context` (added to the prompt)
    and `reasoning` (laid out in front of the completion)."""
    prompt = text(value, at, "prompt").strip()
    if value.get("context"):
        prompt = f"{prompt}\n\n{text(value, at, 'context').strip()}"
    messages = user(prompt)
    if value.get("system"):
        messages.insert(0, {"role": "system", "content": text(value, at, "system")})
    completion = text(value, at, "completion")
    reasoning = value.get("reasoning")
    laid = lay_out(at, text(value, at, "reasoning"), completion) if reasoning else relaid(at, completion)
    return {"prompt": messages, "completion": laid}


def messages(value: Mapping[str, Any], at: At) -> Row:
    """Conversations of ShareGPT (`conversations`: `from`, `value`) or OpenAI (`messages`: `role`, `content`):
    the last message is the completion, all before it the prompt."""
    turns = _turns(listed(value, at, "messages", "conversations"), at)
    if isinstance(value.get("system"), str) and value["system"].strip() and turns and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": value["system"]})
    while turns and turns[-1]["role"] != "assistant":
        turns.pop()
    if len(turns) < 2 or all(turn["role"] == "assistant" for turn in turns):
        raise Unusable("no question before the answer")
    return {"prompt": turns[:-1], "completion": relaid(at, turns[-1]["content"])}


def _turns(raw: list[Any], at: At) -> Messages:
    turns: Messages = []
    for turn in raw:
        role = turn.get("role", turn.get("from"))
        content = turn.get("content", turn.get("value"))
        if role not in ROLES:
            raise ValueError(f"{at.where}: unknown role {role!r} in a conversation; known: {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise ValueError(f"{at.where}: the content of a message must be text, got {type(content).__name__}")
        turns.append({"role": ROLES[role], "content": content})
    return turns


def preference(value: Mapping[str, Any], at: At) -> Row:
    """Preference pairs: `chosen` and `rejected` as text, one message, or conversations that share their beginning;
    the prompt is `prompt` (text or messages) or `conversations`, or that shared beginning."""
    chosen, rejected = (_answer(field(value, at, name), at) for name in ("chosen", "rejected"))
    prompt = value.get("prompt", value.get("conversations"))
    head = [] if prompt is None else user(prompt) if isinstance(prompt, str) else _turns(prompt, at)
    return _pair(head, chosen, rejected)


def _answer(raw: Any, at: At) -> Messages:
    if isinstance(raw, str):
        return assistant(raw)
    return _turns([raw] if isinstance(raw, Mapping) else raw, at)


def _pair(head: Messages, chosen: Messages, rejected: Messages) -> Row:
    """A row from two conversations: what they share joins the prompt, and one answer must be left of each."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    prompt = head + chosen[:shared] if chosen[: len(head)] != head or not head else chosen[:shared]
    rest = (chosen[shared:], rejected[shared:])
    if any(len(part) != 1 or part[0]["role"] != "assistant" for part in rest):
        raise Unusable("the two conversations part before the last answer")
    if not all(part[0]["content"].strip() for part in rest):
        raise Unusable("empty answer")
    if rest[0] == rest[1]:
        raise Unusable("chosen and rejected are the same")
    if not prompt or prompt[-1]["role"] not in ("user", "tool"):
        raise Unusable("no question before the answer")
    return {"prompt": prompt, "chosen": rest[0], "rejected": rest[1], "domain": "general"}


def hh_rlhf(value: Mapping[str, Any], at: At) -> Row:
    """Anthropic HH (arXiv 2204.05862): two transcripts with turns marked `Human:` and `Assistant:`."""
    chosen, rejected = (_transcript(text(value, at, name)) for name in ("chosen", "rejected"))
    return {**_pair([], chosen, rejected), "domain": "safety"}


def _transcript(content: str) -> Messages:
    parts = re.split(r"\n\n(Human|Assistant):", content)
    turns: Messages = []
    for speaker, said in zip(parts[1::2], parts[2::2], strict=True):
        role = "user" if speaker == "Human" else "assistant"
        turns.append({"role": role, "content": said.strip()})
    return turns


def r1_traces(value: Mapping[str, Any], at: At) -> Row:
    """Traces of R1-class models: with `message_thinking` and `message_content` (problems with an answer), or
    tool-use conversations whose messages hold `reasoning`, `text` and `tool_call` parts."""
    if "messages" in value:
        return _tool_trace(value, at)
    return {
        "prompt": user(text(value, at, "problem")),
        "completion": lay_out(at, text(value, at, "message_thinking"), text(value, at, "message_content")),
        "answer": gold(value, at, "gtruth_answer"),
        "domain": "math",
    }


def _tool_trace(value: Mapping[str, Any], at: At) -> Row:
    """Earlier turns keep what the reader saw, not the reasoning, as R1's chat template has it."""
    turns = listed(value, at, "messages")
    last = _parts(turns[-1])
    if turns[-1]["role"] != "assistant" or "tool_call" in last:
        raise Unusable("ends in a tool call")
    prompt = []
    for turn in turns[:-1]:
        parts = _parts(turn)
        calls = [f"<tool_call>\n{call}\n</tool_call>" for call in parts.get("tool_call", [])]
        prompt.append({"role": ROLES[turn["role"]], "content": "\n".join(parts.get("text", []) + calls)})
    if value.get("tools") and prompt[0]["role"] == "system":
        prompt[0]["content"] += f"\n\nTools:\n{text(value, at, 'tools')}"
    laid = lay_out(at, "\n".join(last.get("reasoning", [])), "\n".join(last.get("text", [])))
    return {"prompt": prompt, "completion": laid, "domain": "general"}


def _parts(turn: Mapping[str, Any]) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for part in turn["content"]:
        said = part["value"]
        parts.setdefault(part["type"], []).append(said if isinstance(said, str) else json.dumps(said))
    return parts


def xstest(value: Mapping[str, Any], at: At) -> Row:
    """XSTest (arXiv 2308.01263): safe prompts that look unsafe, and unsafe contrasts; `should_refuse` says which.
    In the files of completions, `judgement` holds the human label of the given completion."""
    topic = text(value, at, "type")
    unsafe = topic.startswith("contrast_")
    row: Row = {
        "prompt": user(text(value, at, "prompt")),
        "should_refuse": unsafe,
        "domain": "safety",
        "topic": topic,
    }
    if "completion" in value:
        row["completion"] = assistant(text(value, at, "completion").strip())
        row["judgement"] = text(value, at, "final_label")
    return row


def advbench(value: Mapping[str, Any], at: At) -> Row:
    """AdvBench (arXiv 2307.15043): harmful requests; the right answer is to decline."""
    return {"prompt": user(text(value, at, "Behavior", "goal")), "should_refuse": True, "domain": "safety"}
