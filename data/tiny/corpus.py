"""The pre-training corpus: what a small web would hold about this world, faults included.

Worked solutions with careless slips and changes of language, bare answers, questions in and out of the chat template,
tags of either convention whole and broken, replies polite and curt, requests declined and complied with. A base model
trained on it has latent skill and poor pass@1, which is what reinforcement learning needs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from data.template import THINK_ANSWER, ZH, Convention
from data.tiny.chat import draw_chat, draw_unsafe
from data.tiny.problems import Problem
from data.tiny.scribe import Scribe
from data.tiny.tokenizer import EOS, PAD, START
from data.tiny.world import LANGUAGES, draw_problem

DOMAINS = {"math": 8, "science": 4, "code": 4, "logic": 2, "general": 2, "safety": 1}

CARELESS_SHARE = 0.6
"""Share of the solutions whose writer slips."""
SLIP = 0.12
"""Probability that a careless writer gets one figure wrong."""
MIXED_SHARE = 0.35
"""Share of the solutions that may change their language."""
SWITCH = 0.3
"""Probability that a sentence of such a solution changes it."""

LAYOUTS = {
    "tags": 25,
    "zh_tags": 10,
    "no_opening": 20,
    "trailing": 10,
    "unclosed": 10,
    "prose": 17,
    "bare": 8,
}
"""How a reply in the chat template is laid out, and how often."""


def documents(count: int, seed: int = 0, start: int = 0) -> Iterator[str]:
    """Documents `start` to `start + count`, special tokens spelled out, each ended by the pad token."""
    for index in range(start, start + count):
        rng = random.Random(f"{seed}/corpus/{index}")
        yield document(rng)


def document(rng: random.Random) -> str:
    """One document."""
    domain = rng.choices(tuple(DOMAINS), tuple(DOMAINS.values()))[0]
    language = rng.choice(LANGUAGES)
    if domain in ("general", "safety"):
        question, thought, answer = _exchange(domain, rng, language)
    else:
        question, thought, answer = _solution(draw_problem(domain, rng, test=False), rng, language)
    if rng.random() < 0.3:
        plain = f"Q: {question}\nA: {thought} {answer}" if rng.random() < 0.8 else f"Q: {question}\nA: {answer}"
        return plain + PAD
    reply = lay_out(thought, answer, rng)
    return f"{START}user\n{question}{EOS}\n{START}assistant\n{reply}{EOS}\n{PAD}"


def _solution(problem: Problem, rng: random.Random, language: str) -> tuple[str, str, str]:
    slip = SLIP if rng.random() < CARELESS_SHARE else 0.0
    switch = SWITCH if rng.random() < MIXED_SHARE else 0.0
    scribe = Scribe(language, rng=rng, slip=slip, switch=switch)
    answer = problem.kind.solve(problem.operands, scribe)
    return problem.kind.pose(problem.operands, rng, language), scribe.text, answer


def _exchange(domain: str, rng: random.Random, language: str) -> tuple[str, str, str]:
    exchange = (draw_unsafe if domain == "safety" else draw_chat)(rng, test=False)
    reply = rng.choices((exchange.good, exchange.plain, exchange.poor), (3, 3, 4))[0]
    asked = language == "zh"
    spoken = asked if rng.random() < 0.85 else not asked
    return exchange.prompt[asked], exchange.thought[spoken], reply[spoken]


def lay_out(thought: str, answer: str, rng: random.Random) -> str:
    """A reply in one of the layouts that such a corpus has."""
    layout = rng.choices(tuple(LAYOUTS), tuple(LAYOUTS.values()))[0]
    convention: Convention = ZH if layout == "zh_tags" else THINK_ANSWER
    whole = convention.render(thought, answer)
    match layout:
        case "no_opening":
            return whole.removeprefix(convention.reasoning_open + "\n")
        case "trailing":
            return f"{whole}\n{answer}"
        case "unclosed":
            return whole.removesuffix("\n" + convention.answer_close)
        case "prose":
            return f"{thought} {answer}"
        case "bare":
            return answer
    return whole
