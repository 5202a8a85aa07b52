"""The one protocol of every sampler, and the table of samplers.

RL, rejection sampling, distillation and evaluation speak to this protocol only, so that the engine is one line of
configuration. Engines are opened from a checkpoint on disk here; a trainer that holds a live model builds
`TransformersEngine` itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stages.rollout.beside import refuse_beside

Message = Mapping[str, str]
Prompt = Sequence[Message] | Sequence[int]
"""A conversation, or the token ids of a prompt that somebody else has rendered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How to sample. Temperature 0 is greedy decoding; top_k 0 and top_p 1 are off."""

    max_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    n: int = 1
    """Completions per prompt."""
    seed: int = 0
    first_prompt: int = 0
    """Number of the first prompt, where a call samples a part of a larger batch: seeds go by (seed, number)."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion, beside the end-of-sequence token. They stay out of `Completion.text`."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.n < 1:
            raise ValueError(f"max_tokens and n must be at least 1, got {self.max_tokens} and {self.n}")
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(
                f"temperature {self.temperature} must be >= 0, top_p {self.top_p} in (0, 1] and top_k {self.top_k} >= 0"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What a model wrote after one prompt."""

    token_ids: list[int]
    """Includes the end-of-sequence token where there is one."""
    text: str
    """Decoded with special tokens skipped, as TRL does; without the prefill that ends the prompt."""
    finished: bool
    """False where the limit of tokens cut it off."""
    logprobs: list[float]
    """Natural log-probability of each token of `token_ids` under softmax(logits / temperature), before top_k and top_p
    cut it (temperature 1 for greedy decoding): the quantity that a trainer recomputes for importance weights."""


class Engine(Protocol):
    """A sampler. Same inputs, same outputs; the global random state is neither read nor written."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Outer list: one entry per prompt, in order; inner list: `sampling.n` completions."""
        ...

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability (temperature 1) of every token but the first, given those before it."""
        ...

    def sync(self, model: Any) -> None:
        """Take over the weights of the trainer's model, a transformers or PEFT model whose parameters are whole."""
        ...

    def replicas(self) -> Sequence[Engine]:
        """The samplers behind this one, each with weights of its own: what a canary must hear one by one."""
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...


def _transformers(checkpoint: Path, settings: Mapping[str, Any]) -> Engine:
    from stages.rollout.transformers_engine import TransformersEngine

    return TransformersEngine.from_checkpoint(checkpoint, **settings)


def _vllm(checkpoint: Path, settings: Mapping[str, Any]) -> Engine:
    from stages.rollout.vllm_engine import VllmEngine

    refuse_beside(checkpoint, NOT_BY_VLLM)
    return VllmEngine(checkpoint, **settings)


def _vllm_server(checkpoint: Path, settings: Mapping[str, Any]) -> Engine:
    from stages.rollout.server_engine import ServerEngine

    refuse_beside(checkpoint, NOT_BY_VLLM)
    return ServerEngine(checkpoint, **settings)


NOT_BY_VLLM = "sampled by vLLM; take engine: transformers"


ENGINES: Mapping[str, Callable[[Path, Mapping[str, Any]], Engine]] = {
    "transformers": _transformers,
    "vllm": _vllm,
    "vllm_server": _vllm_server,
}


OPTIONS: Mapping[str, tuple[str, ...] | None] = {
    "transformers": ("batch_tokens",),
    "vllm": None,
    "vllm_server": ("urls", "model", "concurrency", "timeout", "pause"),
}
"""Keys of `engine_options`; None passes any to `vllm.LLM`, which knows its own."""


def engine_named(name: str) -> str:
    """Return `name` if there is such an engine; raises ValueError with the nearest one if not."""
    if name not in ENGINES:
        near = difflib.get_close_matches(name, ENGINES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(ENGINES)}"
        raise ValueError(f"unknown engine {name!r}{hint}")
    return name


@contextmanager
def open_engine(name: str, checkpoint: Path, **settings: Any) -> Iterator[Engine]:
    """Open the engine `name` on a checkpoint and close it at the end; `settings` are those of its constructor.

    Raises ValueError for a name that is not in `ENGINES`.
    """
    engine = ENGINES[engine_named(name)](checkpoint, settings)
    try:
        yield engine
    finally:
        engine.close()
