"""Checks of lengths in tokens: what is left out as too long, and whether prompt and answer fit the limits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from data.adapters import At, Unusable, lay_out
from data.records import Row
from data.template import CONVENTIONS
from pipeline.architecture import ENCODERS
from pipeline.check_findings import Finding, fail, fine, warn
from pipeline.check_judged import judged_sizes
from pipeline.check_subject import Subject
from pipeline.check_text import encoded, inputs, learners
from pipeline.step import Node
from pipeline.weights import read_json
from stages.continued_pretraining import ContinuedPretrainingConfig
from stages.distillation import DistillationConfig
from stages.preference_model import PreferenceModelConfig
from stages.rollout.options import SamplingConfig
from stages.safety_model import SafetyModelConfig
from stages.sft_mix import SftMixConfig
from stages.training.classifier import ClassifierConfig
from stages.training.options import ReinforcementConfig, SupervisedConfig

POSITIONS = ("max_position_embeddings", "n_positions")
"""Names of the longest sequence in the configurations of common architectures; the second has a table of positions,
and breaks behind its end. Most encoders have one too."""
ROTARY_ENCODERS = ("modernbert",)
UNUSED = ("camembert", "mpnet", "roberta", "xlm-roberta")
"""Values of `model_type` whose positions begin behind that of padding: the first rows of the table stay unused."""


class Sampler(NamedTuple):
    """A step's limit on what is sampled."""

    key: str
    limit: int
    model: str
    data: str


def samplers(node: Node) -> Iterator[Sampler]:
    """What a step samples, if it does."""
    config = node.config
    if isinstance(config, ReinforcementConfig):
        yield Sampler("max_completion_tokens", config.max_completion_tokens, node.inputs["init"][0], "data")
    elif isinstance(config, SamplingConfig):
        yield Sampler("max_tokens", config.max_tokens, node.inputs["init"][0], "data")
    elif isinstance(config, DistillationConfig) and node.inputs.get("teacher"):
        yield Sampler("teacher.max_tokens", config.teacher.max_tokens, node.inputs["teacher"][0], "prompts")


def learned(subject: Subject) -> Iterator[Finding]:
    """Rows fit `max_length` and the model's positions; a longer row is left out whole."""
    longest = 0
    for node in learners(subject):
        tokenizer = subject.tokenizer_or_none(node.inputs["init"][0])
        if tokenizer is None:
            continue
        sizes = _learned_sizes(subject, node, tokenizer)
        yield from _too_long(subject, node, sizes)
        longest = max([longest, *(size for size, _ in sizes)])
    for node in subject.steps:
        if isinstance(node.config, ClassifierConfig):
            yield from _judged(subject, node)
    yield fine(f"the longest row has {longest} tokens" if longest else "no step learns from completions")


def _learned_sizes(subject: Subject, node: Node, tokenizer: Any) -> list[tuple[int, str]]:
    """(tokens, id) of every row that the step would learn a completion from."""
    rows = [row for name in inputs(node) for row in subject.rows(node, name).rows if row.get("completion")]
    sizes = [(len(item.input_ids), row["id"]) for row in rows if (item := encoded(row, tokenizer))]
    return sizes + [(size, "a block of text") for size in blocks(node)]


def blocks(node: Node) -> Iterator[int]:
    """Tokens in the blocks that a step cuts raw text into."""
    if isinstance(node.config, ContinuedPretrainingConfig):
        yield node.config.max_length
    elif isinstance(node.config, SftMixConfig) and node.config.pretraining is not None:
        yield min(node.config.pretraining.length or node.config.max_length, node.config.max_length)


def _judged(subject: Subject, node: Node) -> Iterator[Finding]:
    """What a step that makes a scorer would learn from."""
    tokenizer = subject.tokenizer_or_none(node.inputs["init"][0], scoring=True)
    rows = subject.rows(node, "data").rows
    paired = isinstance(node.config, PreferenceModelConfig)
    if paired and rows and not any(row.get("chosen") and row.get("rejected") for row in rows):
        yield fail(f"{node.where}.data_from: none of {len(rows)} rows is a pair (columns chosen and rejected)")
    if tokenizer is None:
        return
    try:
        sizes = judged_sizes(subject, node, tokenizer)
    except ValueError as error:
        yield fail(f"{node.where}.data_from: {error}")
        return
    if rows and not sizes and isinstance(node.config, SafetyModelConfig):
        yield fail(f"{node.where}.data_from: none of {len(rows)} rows says whether an answer is safe")
    yield from _too_long(subject, node, sizes)


def longest_seen(subject: Subject, node: Node) -> tuple[int, int]:
    """(tokens of the longest row that the step would learn from, of the longest prompt that it would sample an answer
    to); 0 where there is none, or no tokenizer."""
    scores = isinstance(node.config, ClassifierConfig)
    tokenizer = subject.tokenizer_or_none(node.inputs["init"][0], scoring=scores)
    if tokenizer is None:
        return 0, 0
    if scores:
        try:
            sizes = judged_sizes(subject, node, tokenizer)
        except ValueError:  # the check of the lengths says why
            sizes = []
    else:
        sizes = _learned_sizes(subject, node, tokenizer) if isinstance(node.config, SupervisedConfig) else []
    limit = getattr(node.config, "max_length", 0)
    fitting = [size for size, _ in sizes if size <= limit]
    prompts = [size for s in samplers(node) for size, _ in _prompt_sizes(subject.rows(node, s.data).rows, tokenizer)]
    return max(fitting, default=0), max(prompts, default=0)


def _too_long(subject: Subject, node: Node, sizes: Sequence[tuple[int, str]]) -> Iterator[Finding]:
    limit = getattr(node.config, "max_length", 0)
    over = [name for size, name in sizes if size > limit]
    if over:
        line = (
            f"{node.where}.max_length: {len(over)} of {len(sizes)} rows ({len(over) / len(sizes):.0%}) are longer than "
            f"{limit} tokens and left out, the first is {over[0]!r}; the longest has {max(sizes)[0]}"
        )
        yield fail(line) if len(over) == len(sizes) else warn(line)
    positions, table = _positions(subject, node.inputs["init"][0])
    beyond = [name for size, name in sizes if size <= limit and size > positions]
    if beyond:
        line = (
            f"{node.where}: row {beyond[0]!r} is longer than the {positions} positions of the model; "
            f"set max_length to {positions}"
        )
        yield fail(line) if table else warn(line)


def sampled(subject: Subject) -> Iterator[Finding]:
    """Prompts leave room for an answer within the model's positions, and a right answer fits the limit of tokens."""
    said = []
    for node in subject.steps:
        for sampler in samplers(node):
            tokenizer = subject.tokenizer_or_none(sampler.model)
            rows = subject.rows(node, sampler.data).rows
            if tokenizer is None or not rows:
                continue
            prompts = _prompt_sizes(rows, tokenizer)
            yield from _room(subject, node, sampler, prompts)
            shortest = _shortest_right(subject, rows, tokenizer)
            if shortest is not None and shortest > sampler.limit:
                yield fail(
                    f"{subject.where(node)}.{sampler.key} is {sampler.limit}, but the shortest right answer in the "
                    f"convention {subject.config.convention!r} takes {shortest} tokens"
                )
            said.append(f"{subject.where(node)} up to {max(prompts, default=(0, ''))[0]} + {sampler.limit} tokens")
    yield fine(", ".join(dict.fromkeys(said)) or "nothing is sampled")


def _prompt_sizes(rows: Sequence[Row], tokenizer: Any) -> list[tuple[int, str]]:
    from stages.training.encode import prompt_ids

    sizes = []
    for row in rows:
        try:
            sizes.append((len(prompt_ids(row["prompt"], tokenizer)), row["id"]))
        except Exception:  # the check of the template says why
            continue
    return sizes


def _room(subject: Subject, node: Node, sampler: Sampler, prompts: Sequence[tuple[int, str]]) -> Iterator[Finding]:
    positions, table = _positions(subject, sampler.model)
    model = f"models.{subject.origin(sampler.model)}"
    none = [name for size, name in prompts if size >= positions]
    tight = [name for size, name in prompts if size < positions < size + sampler.limit]
    if none:
        line = (
            f"{subject.where(node)}: {len(none)} of {len(prompts)} prompts alone fill the {positions} positions of "
            f"{model}, the first is that of row {none[0]!r}"
        )
        yield fail(line) if table or len(none) == len(prompts) else warn(line)
    if tight:
        yield warn(
            f"{subject.where(node)}.{sampler.key}: {len(tight)} of {len(prompts)} prompts and {sampler.limit} tokens "
            f"exceed the {positions} positions of {model}"
        )


def _positions(subject: Subject, name: str) -> tuple[float, bool]:
    try:
        return positions_of(read_json(subject.model(name).path / "config.json"))
    except ValueError:
        return math.inf, False


def positions_of(config: Mapping[str, Any]) -> tuple[float, bool]:
    """The longest sequence that a model was made for, by its config.json, and whether a longer one breaks it.

    An encoder-decoder model has so many for the prompt and as many for the completion; T5's number is no bound at all.
    """
    if config.get("is_encoder_decoder"):
        return config.get(POSITIONS[0], math.inf), False
    key = next((key for key in POSITIONS if isinstance(config.get(key), int)), None)
    if key is None:
        return math.inf, False
    kind, pad = config.get("model_type"), config.get("pad_token_id")
    unused = (1 if pad is None else pad) + 1 if kind in UNUSED else 0
    return config[key] - unused, key == POSITIONS[1] or (kind in ENCODERS and kind not in ROTARY_ENCODERS)


def _shortest_right(subject: Subject, rows: Sequence[Row], tokenizer: Any) -> int | None:
    """Tokens of the shortest gold laid out behind one word of reasoning, EOS included."""
    from stages.training.models import visible_prefill

    layout = CONVENTIONS[subject.config.convention]
    opening = visible_prefill(tokenizer, layout.reasoning_open)
    sizes = []
    for row in rows:
        if row.get("tests") is None and isinstance(row.get("answer"), str):
            try:
                text = lay_out(At(where="", name="", convention=layout.name), ".", row["answer"], exact=True)
            except Unusable:
                continue
            content = text[0]["content"].removeprefix(opening)
            sizes.append(len(tokenizer(content, add_special_tokens=False)["input_ids"]) + 1)
    return min(sizes, default=None)
