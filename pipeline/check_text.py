"""Checks of rows as token ids: the template, what is learned, what rewards see of a prefill, what fits.

Everything goes through the functions that training and sampling use (stages/training/encode.py and models.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from data.artifact import Kind
from data.records import Row, is_text, user_text
from data.template import CONVENTIONS
from pipeline.check_findings import Finding, fail, fine
from pipeline.check_subject import Subject
from pipeline.step import Node
from stages.training.options import SupervisedConfig

if TYPE_CHECKING:
    from stages.training.encode import Encoded


MOST_CHARACTERS = 10_000
"""Of a document of raw text that are looked at."""


def learners(subject: Subject) -> Iterator[Node]:
    """The steps that learn completions (a preference model learns pairs)."""
    return (n for n in subject.steps if isinstance(n.config, SupervisedConfig) and n.stage.generative)


def inputs(node: Node) -> list[str]:
    """Names of its inputs that are datasets."""
    return [name for name in node.inputs if node.stage.needs[name].kind is Kind.DATASET]


def encoded(row: Row, tokenizer: Any, prefill: str = "") -> Encoded | None:
    """The row as it is learned; None where the chat template refuses its prompt, which the check of that says."""
    from stages.training.encode import encode

    try:
        return encode(row["prompt"], row["completion"], tokenizer, prefill)
    except Exception:
        return None


def template(subject: Subject) -> Iterator[Finding]:
    """The chat template takes every row; tags and texts survive the way to token ids and back, as TRL decodes them."""
    texts = 0
    done: set[tuple[str, str]] = set()
    broken: set[str] = set()
    for node in subject.steps:
        tokenizer = subject.tokenizer_or_none(node.inputs["init"][0]) if node.stage.generative else None
        if tokenizer is None:
            continue
        model = f"models.{subject.origin(node.inputs['init'][0])}"
        if lost := _lost_tag(subject, tokenizer):
            yield fail(
                f"{model}: the tag {lost} is a special token, which rewards never see; add it with special=False"
            )
            broken.add(model)
        for row in (row for name in inputs(node) for row in subject.rows(node, name).rows):
            if (model, row["id"]) in done or model in broken:
                continue
            done.add((model, row["id"]))
            if wrong := _round_trip(row, tokenizer):
                yield fail(f"{subject.where(node)}: row {row['id']!r}: {wrong} ({model})")
                broken.add(model)  # one row shows it
                continue
            texts += 1
    yield fine(f"{texts} rows render and come back as they were")


def _lost_tag(subject: Subject, tokenizer: Any) -> str | None:
    for tag in CONVENTIONS[subject.config.convention].tags:
        if tag not in tokenizer.decode(tokenizer(tag, add_special_tokens=False)["input_ids"], skip_special_tokens=True):
            return tag
    return None


def _round_trip(row: Row, tokenizer: Any) -> str | None:
    """What goes wrong with a row, if anything."""
    if is_text(row):
        text = row["text"][:MOST_CHARACTERS]
        return None if tokenizer.eos_token in text else _changed([text], tokenizer)
    try:
        shown = tokenizer.apply_chat_template(list(row["prompt"]), tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template may raise what it likes
        return f"the chat template refuses its prompt: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
    if user_text(row).strip() not in shown:
        return "the chat template does not show its last user message"
    learned = [message["content"] for message in row.get("completion") or ()]
    sound = [text for text in learned if tokenizer.eos_token not in text]  # see labels
    return _changed([user_text(row), *sound], tokenizer)


def _changed(texts: Sequence[str], tokenizer: Any) -> str | None:
    """How the first text that does not come back from its token ids comes back; None where all do."""
    for text in texts:
        back = tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"], skip_special_tokens=True)
        if back.split() != text.split():
            at = _parting(text, back)
            return f"its text changes in the tokenizer: {text[at : at + 24]!r} comes back as {back[at : at + 24]!r}"
    return None


def _parting(one: str, other: str) -> int:
    """Where two texts begin to differ."""
    shorter = min(len(one), len(other))
    return next((at for at in range(shorter) if one[at] != other[at]), shorter)


def labels(subject: Subject) -> Iterator[Finding]:
    """What is learned of one row: the completion, whose last label is EOS."""
    from stages.training.models import visible_prefill

    said = None
    opening = CONVENTIONS[subject.config.convention].reasoning_open
    for node in learners(subject):
        tokenizer = subject.tokenizer_or_none(node.inputs["init"][0])
        rows = [row for name in inputs(node) for row in subject.rows(node, name).rows if name == "data"]
        if tokenizer is None or not rows or node.stage.needs["data"].texts == "only":
            continue
        taught = [row for row in rows if row.get("completion")]
        made = any(subject.node(s) and s not in subject.datasets for s in node.inputs.get("data", ()))
        if not taught and not made:
            yield fail(f"{node.where}.data_from: none of {len(rows)} rows has a completion to learn")
        for row in taught:
            item = encoded(row, tokenizer, visible_prefill(tokenizer, opening))
            if item is None:
                continue
            learned = [i for i, m in zip(item.input_ids, item.completion_mask, strict=True) if m]
            eos = tokenizer.eos_token
            if tokenizer.eos_token_id in learned[:-1]:
                yield fail(f"{node.where}: row {row['id']!r}: its completion contains {eos!r}, which ends it")
                break
            if said is None:
                first, last = (tokenizer.decode(part) for part in (learned[:4], learned[-4:]))
                unlearned = len(item.input_ids) - len(learned)
                said = (
                    f"{node.where}: of row {row['id']!r} the first {unlearned} tokens are not learned, then "
                    f"{len(learned)} are, from {first!r} to {last!r}; the last label is EOS"
                )
    yield fine(said or "no step learns from completions")


def prefill(subject: Subject) -> Iterator[Finding]:
    """Rewards see what the chat template writes of an answer; without it every layout would count as wrong."""
    from stages.training.models import visible_prefill

    layout = CONVENTIONS[subject.config.convention]
    wanted = subject.config.prefill_text
    seen = {}
    for name in dict.fromkeys(subject.origin(n.inputs["init"][0]) for n in subject.steps if n.stage.generative):
        tokenizer = subject.tokenizer_or_none(name)
        if tokenizer is None:
            continue
        seen[name] = visible = visible_prefill(tokenizer, layout.reasoning_open)
        if wanted and layout.reasoning_open and layout.reasoning_open in wanted and visible != wanted:
            yield fail(
                f"prefill: {wanted!r} is not visible to rewards (they see {visible!r}), so every layout would count as "
                f"wrong; use `prefill: true`, or end the text after {layout.reasoning_open}"
            )
    told = sorted({repr(text) for text in seen.values() if text})
    yield fine(f"rewards see {', '.join(told)}" if told else "nothing is prefilled")
