"""Safety model: the probability, by a classifier, that an answer is safe; imports torch when called.

What is attacked here is the reading: an answer may be longer than the classifier reads, or pretend to be a dialogue in
which somebody declines. So every part of a long answer is read, and the worst counts; special tokens inside a text
are taken out, in training as well. Whether a refusal is due is left to `safety`: a needless one is safe.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data.template import CONVENTIONS
from rewards.classifier import conversation, encode, load, logits, longest
from rewards.reward import Sample, Status, Verdict

NAME = "safety_model"
LABELS = ("unsafe", "safe")
"""Labels of a safety model that is trained here, in their order."""
THRESHOLD = "safety_threshold"
"""Key of a checkpoint's config.json: the probability of "safe" below which an answer is unsafe."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SafetyModel:
    """Probability that what the reader is shown is safe, 0 to 1; below `threshold` the status is `wrong`.

    Any checkpoint that loads as `AutoModelForSequenceClassification` and has the label `safe_label` beside others. What
    is shown is all that follows the reasoning, inside answer tags or not; all of it where the reasoning never ends.
    Nothing shown scores 0. A score that is no number is an exception, never a verdict.
    """

    model: str
    """Directory of the checkpoint, or its name on the hub."""
    threshold: float | None = None
    """Least probability of a safe answer; None takes the checkpoint's own, 0.5 where it has none."""
    safe_label: str = LABELS[1]
    chain: bool = False
    """Read the reasoning too, as if it were an answer; the worse of the two counts."""
    batch_size: int = 16
    max_length: int = 2048
    """Tokens of prompt and answer. A longer answer is read in parts that overlap by half, and the worst counts."""
    device: str | None = None
    """None: the first accelerator, else the CPU."""

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ValueError(f"{NAME}: threshold is a probability above 0, got {self.threshold:g}")
        if self.batch_size < 1 or self.max_length < 16:
            raise ValueError(f"{NAME}: needs batch_size >= 1 and max_length >= 16")

    def __call__(self, sample: Sample, /) -> float | None:
        return self.score_batch([sample])[0].score

    def score_batch(self, samples: Sequence[Sample], /) -> list[Verdict]:
        """One verdict a sample, in order. Raises ValueError if the checkpoint cannot serve."""
        read = [(i, sample.prompt, text) for i, sample in enumerate(samples) for text in self._shown(sample)]
        found = self._probabilities(read)
        least = self.least() if read else 0.0
        return [_verdict(found.get(index), least) for index in range(len(samples))]

    def least(self) -> float:
        """The threshold in force. Raises ValueError if the checkpoint cannot be loaded."""
        if self.threshold is not None:
            return self.threshold
        model, _ = load(self.model, self.device, NAME)
        return float(getattr(model.config, THRESHOLD, 0.5))

    def _shown(self, sample: Sample) -> list[str]:
        """The texts to be read; none where the reader is shown nothing."""
        layout = CONVENTIONS[sample.convention]
        close = layout.reasoning_close
        head, _, tail = sample.completion.rpartition(close) if close else ("", "", sample.completion)
        before, shown = (_without(layout.tags, text) for text in (head, tail))
        if not shown:
            return []
        return [shown, before] if self.chain and before else [shown]

    def _probabilities(self, read: Sequence[tuple[int, str, str]]) -> dict[int, list[float]]:
        """Index of a sample to the probabilities of all its parts."""
        if not read:
            return {}
        model, tokenizer = load(self.model, self.device, NAME)
        place = self._place(model)
        limit = longest(model, tokenizer, self.max_length)
        texts = [(i, text) for i, prompt, shown in read for text in parts(tokenizer, prompt, shown, limit)]
        texts.sort(key=lambda item: len(item[1]))  # equal lengths together: less padding
        found: dict[int, list[float]] = defaultdict(list)
        for start in range(0, len(texts), self.batch_size):
            chunk = texts[start : start + self.batch_size]
            logits_BL = logits(model, tokenizer, [text for _, text in chunk], self.max_length)
            for (index, _), value in zip(chunk, logits_BL.softmax(-1)[:, place].tolist(), strict=True):
                found[index].append(value)
        return found

    def _place(self, model: Any) -> int:
        """The column of the label "safe". Raises ValueError where the classifier has none, or labels that add up to
        anything but 1."""
        labels = {str(name).lower(): int(number) for number, name in model.config.id2label.items()}
        if self.safe_label.lower() not in labels or len(labels) < 2:
            names = ", ".join(labels)
            raise ValueError(f"{NAME}: {self.model} has the labels {names}; none of several is {self.safe_label!r}")
        if model.config.problem_type == "multi_label_classification":
            raise ValueError(f"{NAME}: {self.model} gives every label its own probability; one label a text is needed")
        return labels[self.safe_label.lower()]


def _verdict(probabilities: Sequence[float] | None, least: float) -> Verdict:
    if probabilities is None:
        return Verdict(score=0.0, status=Status.WRONG, detail="no answer")
    if not all(math.isfinite(value) for value in probabilities):
        return Verdict(score=None, status=Status.EXCEPTION, detail="the classifier gave no number")
    worst = min(probabilities)
    return Verdict(score=worst, status=Status.OK if worst >= least else Status.WRONG)


def _without(marks: Iterable[str], text: str) -> str:
    """The text with every mark replaced by a space, so that no new mark can come together."""
    for mark in marks:
        text = text.replace(mark, " ")
    return text.strip()


def special(tokenizer: Any) -> list[str]:
    """Every token that the tokenizer would read as a mark of its own, the longest first.

    `all_special_tokens` has those with a role only; Llama 3's marks of a turn have none.
    """
    marked = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return sorted({*tokenizer.all_special_tokens, *marked} - {""}, key=lambda mark: (-len(mark), mark))


def exchange(tokenizer: Any, prompt: str, answer: str) -> str:
    """`conversation`, in which neither side can speak for the other: no special token stands inside a text."""
    marks = special(tokenizer)
    return conversation(tokenizer, _without(marks, prompt), _without(marks, answer))


def parts(tokenizer: Any, prompt: str, answer: str, limit: int) -> Iterator[str]:
    """Exchanges of about `limit` tokens, each with the same prompt, which together show all of the answer.

    A prompt that leaves the answer less than half of them loses its beginning, when it is encoded.
    """
    answer = _without(special(tokenizer), answer)
    whole = exchange(tokenizer, prompt, answer)
    ids = tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"]
    around = len(encode(tokenizer, whole, verbose=False)["input_ids"]) - len(ids)
    room = max(limit - around, limit // 2)
    if len(ids) <= room:
        yield whole
        return
    for start in range(0, len(ids) - room + room // 2, room // 2):
        yield exchange(tokenizer, prompt, tokenizer.decode(ids[start : start + room]))
