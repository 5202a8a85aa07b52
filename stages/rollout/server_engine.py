"""Sampling from one or several servers that speak the OpenAI completions protocol with vLLM's token ids.

    vllm serve CHECKPOINT --logprobs-mode processed_logprobs

Prompts go out as token ids, so the server's own template is never applied. A server keeps the checkpoint that it was
started with, which serves evaluation, rejection sampling and teachers; reinforcement learning sends it new weights.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path
from typing import Any

from stages.rollout.engine import Completion, Prompt, Sampling
from stages.rollout.prompts import prompt_ids
from stages.rollout.server_weights import WeightSync, transport
from stages.rollout.weights import checkpoint_weights

ATTEMPTS = 4
"""Tries of one request, each at the next server; the pauses between them double."""


class ServerEngine:
    """A client of `urls`; prompts take turns over them."""

    def __init__(
        self,
        checkpoint: Path,
        *,
        urls: Sequence[str] = (),
        model: str | None = None,
        prefill: str = "",
        progress: Callable[[int], object] | None = None,
        concurrency: int = 64,
        timeout: float = 1800.0,
        pause: float = 1.0,
        weight_sync: WeightSync | None = None,
        weights: str | Path | None = None,
    ) -> None:
        """`urls` like http://node:8000; `model` is the name that the server gives it, the checkpoint's path if None.

        The tokenizer comes from `checkpoint`. `weight_sync` is how `sync` reaches the servers (None: not at all), and
        `weights` the shared folder of the way "disk". Raises ValueError without a url.
        """
        from transformers import AutoTokenizer

        if not urls:
            raise ValueError("the engine 'vllm_server' needs engine_options: {urls: [http://host:8000]}")
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.model = model or str(checkpoint)
        self.urls = [url.rstrip("/") for url in urls]
        self.prefill = prefill
        self.progress = progress
        self.timeout = timeout
        self.pause = pause
        self.pool = ThreadPoolExecutor(concurrency, thread_name_prefix="sampling")
        folder = None if weights is None else Path(weights)
        self.transport = weight_sync and transport(weight_sync, self.urls, folder, timeout)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See `Engine.generate`. Each prompt is one request with a seed of its own.

        Raises RuntimeError naming the server when a request fails at every try.
        """

        def one(number: int) -> list[Completion]:
            body = {
                "prompt": prompt_ids(self.tokenizer, prompts[number], self.prefill),
                "n": sampling.n,
                "max_tokens": sampling.max_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "seed": (sampling.seed * 1_000_003 + sampling.first_prompt + number) % 2**63,
                "stop": list(sampling.stop) or None,
                "logprobs": 0,
                "return_token_ids": True,
                "skip_special_tokens": True,
            }
            choices = sorted(self._ask(number, body)["choices"], key=lambda choice: int(choice["index"]))
            if self.progress:
                self.progress(len(choices))
            return [_completion(choice) for choice in choices]

        return list(self.pool.map(one, range(len(prompts))))

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `Engine.score`."""

        def one(number: int) -> list[float]:
            ids = list(sequences[number])
            body = {"prompt": ids, "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0}
            entries = self._ask(number, body)["choices"][0]["prompt_logprobs"]
            return [entry[str(token)]["logprob"] for token, entry in zip(ids[1:], entries[1:], strict=True)]

        return list(self.pool.map(one, range(len(sequences))))

    def sync(self, model: Any) -> None:
        """Send the weights of `model` to every server. Raises ValueError where no `weight_sync` says how."""
        if self.transport is None:
            raise ValueError(f"the server at {self.urls[0]} keeps its own weights: no weight_sync names a way to it")
        with checkpoint_weights(model) as weights:
            self.transport.send(weights, model.device)

    def replicas(self) -> list[ServerEngine]:
        """A client for each url, which share this one's threads."""
        each = [copy(self) for _ in self.urls]
        for client, url in zip(each, self.urls, strict=True):
            client.urls = [url]
        return each

    @property
    def name(self) -> str:
        return f"vLLM at {', '.join(self.urls)}"

    def close(self) -> None:
        """Wait for requests under way."""
        self.pool.shutdown()

    def _ask(self, number: int, body: dict[str, Any]) -> dict[str, Any]:
        data = json.dumps({"model": self.model, **body}).encode()
        for attempt in range(ATTEMPTS):
            url = self.urls[(number + attempt) % len(self.urls)]
            request = urllib.request.Request(f"{url}/v1/completions", data, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    answer: dict[str, Any] = json.load(response)
                    return answer
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {error.read(500).decode(errors='replace')}"
                if error.code < 500 and error.code != 429:  # our request is at fault: asking again changes nothing
                    break
            except (OSError, json.JSONDecodeError) as error:
                reason = str(error)
            time.sleep(self.pause * 2**attempt)
        raise RuntimeError(f"sampling from {url} failed: {' '.join(reason.split())}")


def _completion(choice: dict[str, Any]) -> Completion:
    return Completion(
        token_ids=list(choice["token_ids"]),
        text=choice["text"],
        finished=choice["finish_reason"] == "stop",
        logprobs=list(choice["logprobs"]["token_logprobs"]),
    )
