"""Sampling with vLLM in this process. vLLM is imported when the engine is opened.

Weights are taken over by vLLM's own `reload_weights`, which renames and shards them as it does when it loads a
checkpoint; the prefix cache is emptied with them, or old keys and values would answer for new weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stages.rollout.engine import Completion, Prompt, Sampling
from stages.rollout.prompts import prompt_ids
from stages.rollout.weights import checkpoint_weights


class VllmEngine:
    """`vllm.LLM` behind the protocol. `options` are its constructor's: tensor_parallel_size, max_model_len, ..."""

    def __init__(
        self,
        checkpoint: Path,
        *,
        prefill: str = "",
        progress: Callable[[int], object] | None = None,
        chunk: int = 4096,
        **options: Any,
    ) -> None:
        """`chunk`: completions handed to vLLM at a time. On a CPU the defaults are float32, as with the
        transformers engine, and no compilation.

        Raises ValueError where vLLM is not installed, or does not know an option.
        """
        # The engine core in this very process: weights are then handed over, not sent through a pipe.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        # Threads of the process are also the trainer's: vLLM's CPU build would pin them to cores.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        try:
            from vllm import LLM
            from vllm.platforms import current_platform
        except ImportError as error:
            raise ValueError(f"the engine 'vllm' needs vLLM: pip install 'r1-pipeline[vllm]' ({error})") from None
        # Log-probabilities after the temperature, as the trainer recomputes them.
        defaults: dict[str, Any] = {"logprobs_mode": "processed_logprobs"}
        if current_platform.is_cpu():
            # A prompt prefilled in chunks would set back its seeded generator, which a CPU's cannot do.
            defaults |= {"dtype": "float32", "enforce_eager": True, "enable_chunked_prefill": False}
        try:
            self.llm = LLM(model=str(checkpoint), **{**defaults, **options})
        except TypeError as error:
            raise ValueError(f"engine_options: vLLM says {error}") from None
        self.tokenizer = self.llm.get_tokenizer()
        self.prefill = prefill
        self.progress = progress
        self.chunk = chunk

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See `Engine.generate`. Each prompt has a seed of its own, from `sampling.seed` and its number.

        vLLM's log-probabilities are taken after top_p and top_k too: with them, they are larger than a trainer's.
        """
        made: list[list[Completion]] = []
        step = max(1, self.chunk // sampling.n)
        for start in range(0, len(prompts), step):
            part = prompts[start : start + step]
            outputs = self.llm.generate(
                [{"prompt_token_ids": prompt_ids(self.tokenizer, prompt, self.prefill)} for prompt in part],
                [self._parameters(sampling, start + i) for i in range(len(part))],
                use_tqdm=False,
            )
            made += [[_completion(output) for output in request.outputs] for request in outputs]
            if self.progress:
                self.progress(len(part) * sampling.n)
        return made

    @staticmethod
    def _parameters(sampling: Sampling, prompt: int) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            n=sampling.n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_tokens,
            seed=(sampling.seed * 1_000_003 + sampling.first_prompt + prompt) % 2**63,
            stop=list(sampling.stop) or None,
            logprobs=0,
            skip_special_tokens=True,
        )

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `Engine.score`."""
        from vllm import SamplingParams

        outputs = self.llm.generate(
            [{"prompt_token_ids": list(sequence)} for sequence in sequences],
            SamplingParams(max_tokens=1, temperature=1.0, prompt_logprobs=0),
            use_tqdm=False,
        )
        return [
            [entry[token].logprob for token, entry in zip(sequence[1:], output.prompt_logprobs[1:], strict=True)]
            for sequence, output in zip(sequences, outputs, strict=True)
        ]

    def sync(self, model: Any) -> None:
        """Take over the weights of `model`, a transformers or PEFT model on any device."""
        with checkpoint_weights(model) as weights:
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self.llm.reset_prefix_cache()

    def replicas(self) -> list[VllmEngine]:
        return [self]

    def close(self) -> None:
        """Shut the engine down and give its memory back."""
        import gc

        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()


def _completion(output: Any) -> Completion:
    ids = list(output.token_ids)
    return Completion(
        token_ids=ids,
        text=output.text,
        finished=output.finish_reason == "stop",
        logprobs=[entry[token].logprob for token, entry in zip(ids, output.logprobs, strict=True)],
    )
