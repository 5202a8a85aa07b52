"""Sampling with any causal model of transformers, faster than `generate` for groups of completions.

The completions of one prompt share its prefill; query heads that share keys read them once (attention.py); finished
sequences leave the batch; prompts of similar length travel together, under a budget of tokens; the cache grows in
place. Models with an encoder go through `generate`.

Dimensions: B sequences in a batch, U prompts in it, T positions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from stages.rollout.attention import grouped_attention
from stages.rollout.batching import Unit, batches
from stages.rollout.beside import with_beside
from stages.rollout.cache import growing_cache
from stages.rollout.encoder_decoder import generate_batch
from stages.rollout.engine import Completion, Prompt, Sampling
from stages.rollout.prefix import is_prefixed, prefix_length, put_prefix
from stages.rollout.prompts import prompt_ids
from stages.rollout.sampler import draw, uniforms
from stages.rollout.weights import checkpoint_weights

CHECK_EVERY = 8
"""Steps between looks at who has finished: each look waits for the device and may copy the cache."""
COMPACT_BELOW = 0.9
"""Share of live sequences below which the finished ones are cut out of the batch."""


class TransformersEngine:
    """Samples from a live transformers model in this process; its training mode is restored after each call."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        prefill: str = "",
        batch_tokens: int = 65536,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        """`batch_tokens` bounds sequences x (prompt + max_tokens) of a batch; `progress` is told completions done."""
        self.model = model
        self.tokenizer = tokenizer
        self.prefill = prefill
        self.batch_tokens = batch_tokens
        self.progress = progress
        self.eos = end_tokens(model, tokenizer)
        accepted = inspect.signature(_innermost(model).forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._positions = "position_ids" in accepted

    @classmethod
    def from_checkpoint(cls, checkpoint: Path, **settings: Any) -> TransformersEngine:
        """Load a checkpoint: in float32 on a CPU, in its own precision on the first CUDA device."""
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()  # the bar that counts completions is the one to see

        device = "cuda" if torch.cuda.is_available() else "cpu"
        config = AutoConfig.from_pretrained(checkpoint)
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = auto.from_pretrained(checkpoint, dtype="auto" if device == "cuda" else torch.float32)
        return cls(with_beside(model, checkpoint).to(device), AutoTokenizer.from_pretrained(checkpoint), **settings)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See `Engine.generate`. Completion i of a prompt depends on (seed, number of the prompt, i) alone."""
        ids = [prompt_ids(self.tokenizer, prompt, self.prefill) for prompt in prompts]
        made: list[list[Completion | None]] = [[None] * sampling.n for _ in ids]
        encoder = bool(getattr(self.model.config, "is_encoder_decoder", False))
        with evaluating(self.model), grouped_attention(self.model), torch.inference_mode():
            for units in batches(ids, sampling, self.batch_tokens):
                raw = (
                    generate_batch(self.model, self.eos, units, sampling) if encoder else self._decode(units, sampling)
                )
                rows = [(unit.prompt, unit.first + k) for unit in units for k in range(unit.count)]
                for (prompt, k), completion in zip(rows, self._completions(*raw, sampling), strict=True):
                    made[prompt][k] = completion
                if self.progress:
                    self.progress(len(rows))
        return [[c for c in group if c is not None] for group in made]

    def _decode(self, units: list[Unit], sampling: Sampling) -> tuple[Any, Any, Any]:
        """Sample one batch; returns tokens_BT, logprobs_BT and lengths_B on the CPU."""
        device = self.model.device
        width = max(len(u.ids) for u in units)
        total = sum(u.count for u in units)
        before = prefix_length(self.model)
        filled = before + width
        mask_UT = torch.ones(len(units), filled + sampling.max_tokens, dtype=torch.long)
        input_UT = torch.full((len(units), width), self.eos[0])
        for row, unit in enumerate(units):
            mask_UT[row, before : filled - len(unit.ids)] = 0
            input_UT[row, width - len(unit.ids) :] = torch.tensor(unit.ids)
        mask_UT = mask_UT.to(device)
        cache = growing_cache(self.model.config)
        put_prefix(self.model, cache, len(units))
        positions_UT = (mask_UT[:, :filled].cumsum(-1) - 1).clamp(min=0)[:, before:]
        logits_UV = self._forward(input_UT.to(device), mask_UT[:, :filled], positions_UT, cache)

        # Every prompt becomes its completions: from here on rows are sequences.
        repeats = torch.tensor([u.count for u in units], device=device)
        expand_B = torch.arange(len(units), device=device).repeat_interleave(repeats)
        cache.batch_select_indices(expand_B)
        logits_BV, mask_BT = logits_UV[expand_B], mask_UT[expand_B]
        position_B = positions_UT[:, -1][expand_B]
        uniform_BT = torch.cat(
            [
                uniforms(sampling.seed, sampling.first_prompt + u.prompt, sampling.n, sampling.max_tokens)[u.first :][
                    : u.count
                ]
                for u in units
            ]
        ).to(device)
        ends = torch.tensor(self.eos, device=device)
        tokens_BT = torch.full((total, sampling.max_tokens), self.eos[0], device=device)
        logprobs_BT = torch.zeros(total, sampling.max_tokens, device=device)
        lengths_B = torch.full((total,), sampling.max_tokens, device=device)
        live_B = torch.arange(total, device=device)  # row of the outputs that each row of the batch belongs to
        done_B = torch.zeros(total, dtype=torch.bool, device=device)
        for step in range(sampling.max_tokens):
            token_B, logprob_B = draw(logits_BV, uniform_BT[live_B, step], sampling)
            tokens_BT[live_B, step] = token_B
            logprobs_BT[live_B, step] = logprob_B
            ended_B = torch.isin(token_B, ends) & ~done_B
            lengths_B[live_B[ended_B]] = step + 1
            done_B |= ended_B
            if step + 1 == sampling.max_tokens:
                break
            if (step + 1) % CHECK_EVERY == 0:
                if sampling.stop:
                    done_B |= self._stopped(tokens_BT[live_B, : step + 1], sampling.stop)
                keep_B = (~done_B).nonzero().squeeze(-1)
                if len(keep_B) == 0:
                    break
                if len(keep_B) < COMPACT_BELOW * len(live_B):
                    cache.batch_select_indices(keep_B)
                    live_B, mask_BT, position_B = live_B[keep_B], mask_BT[keep_B], position_B[keep_B]
                    token_B, done_B = token_B[keep_B], done_B[keep_B]
            position_B = position_B + 1
            logits_BV = self._forward(token_B[:, None], mask_BT[:, : filled + step + 1], position_B[:, None], cache)
        return tokens_BT.cpu(), logprobs_BT.cpu(), lengths_B.cpu()

    def _forward(self, input_BT: Any, mask_BT: Any, positions_BT: Any, cache: Any) -> Any:
        """Logits after the last token, (B, V)."""
        extra = {"position_ids": positions_BT} if self._positions else {}
        model = _innermost(self.model) if is_prefixed(self.model) else self.model  # the cache has the prefix already
        output = model(
            input_ids=input_BT,
            attention_mask=mask_BT,
            past_key_values=cache,
            use_cache=True,
            **extra,
            **self._last_only,
        )
        return output.logits[:, -1]

    def _stopped(self, tokens_BT: Any, stop: tuple[str, ...]) -> Any:
        texts = self.tokenizer.batch_decode(tokens_BT.tolist(), skip_special_tokens=True)
        return torch.tensor([any(s in text for s in stop) for text in texts], device=tokens_BT.device)

    def _completions(self, tokens_BT: Any, logprobs_BT: Any, lengths_B: Any, sampling: Sampling) -> list[Completion]:
        lengths: list[int] = lengths_B.tolist()
        ids = [row[:length] for row, length in zip(tokens_BT.tolist(), lengths, strict=True)]
        logprobs = [row[:length] for row, length in zip(logprobs_BT.tolist(), lengths, strict=True)]
        texts: list[str] = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        made = []
        for tokens, scores, text in zip(ids, logprobs, texts, strict=True):
            finished = tokens[-1] in self.eos
            if any(s in text for s in sampling.stop):
                tokens, text = self._cut(tokens, sampling.stop)
                scores, finished = scores[: len(tokens)], True
            made.append(Completion(token_ids=tokens, text=text, finished=finished, logprobs=scores))
        return made

    def _cut(self, tokens: list[int], stop: tuple[str, ...]) -> tuple[list[int], str]:
        """The shortest prefix of the tokens whose text holds a stop text, and its text before that."""
        for length in range(1, len(tokens) + 1):
            text: str = self.tokenizer.decode(tokens[:length], skip_special_tokens=True)
            if found := [text.index(s) for s in stop if s in text]:
                return tokens[:length], text[: min(found)]
        raise AssertionError("the whole text holds a stop text")

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `Engine.score`."""
        with evaluating(self.model), torch.inference_mode():
            return [token_logprobs(self.model, sequence) for sequence in sequences]

    def sync(self, model: Any) -> None:
        """Copy the weights of `model`, unless it is this engine's own."""
        if model is not self.model:
            with checkpoint_weights(model) as weights:
                self.model.load_state_dict(dict(weights))

    def replicas(self) -> list[TransformersEngine]:
        return [self]

    def close(self) -> None:
        """Nothing to free beyond the model, which belongs to the caller."""


def token_logprobs(model: Any, sequence: Sequence[int]) -> list[float]:
    """Log-probability of each token of a sequence but the first, from one forward pass of a causal model."""
    ids_1T = torch.tensor([list(sequence)], device=model.device)
    logprobs_1TV = torch.log_softmax(model(input_ids=ids_1T).logits[:, :-1].float(), dim=-1)
    scores: list[float] = logprobs_1TV.gather(-1, ids_1T[:, 1:, None]).flatten().tolist()
    return scores


def end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end a completion: the generation config's and the tokenizer's. ValueError if there are none."""
    config = getattr(model, "generation_config", None)
    stated = getattr(config, "eos_token_id", None)
    ids = list(stated) if isinstance(stated, list | tuple) else [stated]
    found = [i for i in dict.fromkeys([*ids, tokenizer.eos_token_id]) if i is not None]
    if not found:
        raise ValueError("neither the tokenizer nor the generation config names an end-of-sequence token")
    return tuple(found)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode (no dropout, no checkpointing) for a while."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _innermost(model: Any) -> Any:
    """The model below a PEFT or accelerate wrapper, whose forward hides its parameters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
