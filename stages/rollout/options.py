"""The knobs of everything that samples."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from stages.rollout.engine import OPTIONS, Sampling, engine_named
from stages.stage import StageConfig

SHARE_BESIDE_TRAINER = 0.3
"""gpu_memory_utilization of a vLLM that shares its GPU with the trainer, unless told otherwise; TRL's value."""


def engine_preflight(config: EngineConfig) -> None:
    """Stage.preflight of the stages that sample: raise ValueError where the engine is not installed."""
    if config.engine == "vllm" and "vllm" not in sys.modules and find_spec("vllm") is None:
        raise ValueError("engine: vllm needs vLLM: pip install 'r1-pipeline[vllm]'")


class EngineConfig(StageConfig):
    """Which engine samples; base of the configurations of everything that does."""

    engine: str = "transformers"
    """Name in `stages.rollout.engine.ENGINES`."""
    engine_options: Mapping[str, Any] = Field(default_factory=dict)
    """Further arguments of the engine: `batch_tokens` (transformers), `urls` (vllm_server), any of `vllm.LLM`."""

    @field_validator("engine")
    @classmethod
    def _known(cls, name: str) -> str:
        return engine_named(name)

    @model_validator(mode="after")
    def _options_are_the_engine_s(self) -> Self:
        known = self.option_names()
        for name in self.engine_options:
            if known is not None and name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
                raise ValueError(f"engine_options: unknown key {name!r} of the engine {self.engine!r}{hint}")
        if self.engine == "vllm_server" and not self.engine_options.get("urls"):
            raise ValueError("engine_options: the engine 'vllm_server' needs urls, such as [http://node:8000]")
        return self

    def option_names(self) -> tuple[str, ...] | None:
        """Keys that `engine_options` may have; None: any."""
        return OPTIONS.get(self.engine)


class SamplingConfig(EngineConfig):
    """Base of the configurations of stages that sample."""

    samples: int = Field(1, ge=1)
    """Completions per prompt."""
    temperature: float = Field(0.6, ge=0)
    """0 is greedy; DeepSeek-R1 evaluates at 0.6 and top_p 0.95."""
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    max_tokens: int = Field(512, ge=1)
    stop: tuple[str, ...] = ()
    shard_prompts: int = Field(256, ge=1)
    """Prompts behind one file of samples: what a kill costs at most."""

    def sampling(self, seed: int) -> Sampling:
        """As the engines take it."""
        return Sampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            n=self.samples,
            seed=seed,
            stop=self.stop,
        )
