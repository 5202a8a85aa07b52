"""Preference: the score that a sequence-classification model gives the final answer; imports torch when called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rewards.classifier import Exchange, conversation, load, logits
from rewards.reward import Sample, Status, Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """A preference model's score of the final answer; the reasoning is not shown to it.

    Any checkpoint that loads as `AutoModelForSequenceClassification` with one label. An empty answer scores what
    `squash` makes of minus infinity: 0, or `floor` where the scores are left as they are.
    """

    model: str
    """Directory of the checkpoint, or its name on the hub."""
    batch_size: int = 16
    max_length: int = 2048
    """Tokens of prompt and answer; the prompt's beginning is cut first."""
    device: str | None = None
    """None: the first accelerator, else the CPU."""
    squash: Literal["sigmoid", "none"] = "sigmoid"
    """`sigmoid` maps the Bradley-Terry score to 0..1; `none` leaves it."""
    floor: float = -10.0

    def __call__(self, sample: Sample, /) -> float | None:
        return self.score_batch([sample])[0].score

    def score_batch(self, samples: Sequence[Sample], /) -> list[Verdict]:
        """One verdict a sample, in order. Raises ValueError if the checkpoint cannot be loaded."""
        empty = Verdict(score=0.0 if self.squash == "sigmoid" else self.floor, status=Status.WRONG, detail="no answer")
        verdicts = [empty] * len(samples)
        answers = [sample.parsed().answer for sample in samples]
        filled = [index for index, answer in enumerate(answers) if answer]
        filled.sort(key=lambda index: len(answers[index] or ""))  # equal lengths together: less padding
        for start in range(0, len(filled), self.batch_size):
            chunk = filled[start : start + self.batch_size]
            pairs = [(samples[index].prompt, answers[index] or "") for index in chunk]
            for index, score in zip(chunk, self._forward(pairs), strict=True):
                verdicts[index] = Verdict(score=score)
        return verdicts

    def _forward(self, pairs: Sequence[Exchange]) -> list[float]:
        model, tokenizer = load(self.model, self.device, "preference")
        if model.config.num_labels != 1:
            raise ValueError(
                f"preference: {self.model} has {model.config.num_labels} labels, a preference model has one"
            )
        texts = [conversation(tokenizer, prompt, answer) for prompt, answer in pairs]
        scores_B = logits(model, tokenizer, texts, self.max_length)[:, 0]
        if self.squash == "sigmoid":
            scores_B = scores_B.sigmoid()
        return [float(score) for score in scores_B]
