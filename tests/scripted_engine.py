"""A sampler that knows the answers: it writes right, wrong, malformed and cut-off text by a seeded draw."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from stages.rollout.engine import Completion, Sampling


class ScriptedEngine:
    """Answers prompts like "3+4="; `fail_after` shards it dies, as a kill would."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.fail_after = fail_after
        self.calls: list[int] = []
        self.opened = 0
        self.closed = 0

    def open(self, checkpoint: Any, settings: Any) -> ScriptedEngine:
        """An entry for the table of engines."""
        self.opened += 1
        return self

    def generate(self, prompts: Sequence[Any], sampling: Sampling) -> list[list[Completion]]:
        if self.fail_after is not None and len(self.calls) >= self.fail_after:
            raise KeyboardInterrupt
        self.calls.append(len(prompts))
        rng = random.Random(sampling.seed)
        return [[self._write(prompt[-1]["content"], rng) for _ in range(sampling.n)] for prompt in prompts]

    @staticmethod
    def _write(question: str, rng: random.Random) -> Completion:
        left, right = question.rstrip("=").split("+")
        value = int(left) + int(right)
        style = rng.randrange(6)
        step = rng.choice(["we add the two numbers together", "first take the left number and add the right one"])
        text = f"<think>\n{step}: {left} + {right} = {value}\n</think>\n<answer>\n{value}\n</answer>"
        if style == 0:
            text = text.replace(str(value), str(value + 1))
        elif style == 1:
            text = text.removesuffix("</answer>")
        elif style == 2:
            text = text.replace(step, "我们把两个数字加起来得到结果 and then " + step[:8])
        finished = style != 1
        tokens = len(text.split())
        return Completion(token_ids=[0] * tokens, text=text, finished=finished, logprobs=[0.0] * tokens)

    def score(self, sequences: Any) -> Any:
        raise NotImplementedError

    def sync(self, model: Any) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.closed += 1
