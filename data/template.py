"""The output convention: how reasoning and answer are laid out in a completion. The one place that knows tags.

Two conventions come from the recipe: `think_answer` (DeepSeek-R1, arXiv 2501.12948, table 1) and `zh`
(`<推理过程>`, `<摘要>`); `boxed` has no answer tags (R1-Distill style), `none` treats everything as the answer.
Tags are ordinary text here. In a tokenizer they must not be special tokens: TRL decodes completions with
special tokens skipped, and a reward would never see them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsed:
    """A completion taken apart. Never raises: untrusted text just fails to be well formed."""

    reasoning: str | None
    """Text inside the reasoning tags, stripped; None where there is no such block."""
    answer: str | None
    """What the reader is shown, stripped; None where the completion never ends its reasoning."""
    well_formed: bool
    """Exactly one reasoning block, then exactly one answer block, and nothing else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Convention:
    """Tags around reasoning and answer; an empty tag means that the part has none."""

    name: str
    reasoning_open: str = ""
    reasoning_close: str = ""
    answer_open: str = ""
    answer_close: str = ""

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags in the order in which they appear, empty ones left out."""
        return tuple(t for t in (self.reasoning_open, self.reasoning_close, self.answer_open, self.answer_close) if t)

    def render(self, reasoning: str, answer: str) -> str:
        """Lay out one completion. Raises ValueError if a part contains one of the tags."""
        for tag in self.tags:
            if tag in reasoning or tag in answer:
                raise ValueError(f"the tag {tag} of convention {self.name!r} occurs inside the text to be laid out")
        if not self.reasoning_open:
            return answer.strip()
        head = f"{self.reasoning_open}\n{reasoning.strip()}\n{self.reasoning_close}\n"
        if not self.answer_open:
            return head + answer.strip()
        return f"{head}{self.answer_open}\n{answer.strip()}\n{self.answer_close}"

    def parse(self, text: str) -> Parsed:
        """Take a completion apart. `text` must include whatever the chat template prefilled.

        The answer is looked for only after the last end of reasoning, so nothing said while reasoning counts.
        """
        if not self.reasoning_open:
            return Parsed(reasoning=None, answer=text.strip(), well_formed=bool(text.strip()))
        head, closed, tail = text.rpartition(self.reasoning_close)
        if not closed:
            _, opened, inside = text.partition(self.reasoning_open)
            return Parsed(reasoning=inside.strip() if opened else None, answer=None, well_formed=False)
        _, opened, inside = head.partition(self.reasoning_open)
        answer = tail
        if self.answer_open:
            _, found, after = tail.partition(self.answer_open)
            answer = after.partition(self.answer_close)[0] if found else ""
        return Parsed(
            reasoning=inside.strip() if opened else None,
            answer=answer.strip() or None,
            well_formed=self._matches(text),
        )

    def fault(self, text: str) -> str | None:
        """Why a completion is not well formed, in one phrase for whoever wrote it; None where it is."""
        if self.parse(text).well_formed:
            return None
        if not text.strip():
            return "the text is empty"
        for tag in self.tags:
            if (count := text.count(tag)) != 1:
                return f"{tag} must stand there once, it is there {count} times" if count else f"{tag} is missing"
        places = [text.index(tag) for tag in self.tags]
        if places != sorted(places):
            return f"the tags must come in the order {' '.join(self.tags)}"
        if text[: places[0]].strip():
            return f"nothing may stand before {self.tags[0]}"
        if self.answer_open and text.rpartition(self.answer_close)[2].strip():
            return f"nothing may stand after {self.answer_close}"
        if self.answer_open and text.partition(self.reasoning_close)[2].partition(self.answer_open)[0].strip():
            return f"nothing may stand between {self.reasoning_close} and {self.answer_open}"
        return "the reasoning or the answer is empty"

    def _matches(self, text: str) -> bool:
        if any(text.count(tag) != 1 for tag in self.tags):
            return False
        ordered = [re.escape(tag) for tag in self.tags]
        if self.answer_open:
            layout = rf"\s*{ordered[0]}(.+){ordered[1]}\s*{ordered[2]}(.+){ordered[3]}\s*"
        else:
            layout = rf"\s*{ordered[0]}(.+){ordered[1]}(.+)"
        match = re.fullmatch(layout, text, re.DOTALL)
        return match is not None and all(part.strip() for part in match.groups())


THINK_ANSWER = Convention(
    name="think_answer",
    reasoning_open="<think>",
    reasoning_close="</think>",
    answer_open="<answer>",
    answer_close="</answer>",
)
ZH = Convention(
    name="zh", reasoning_open="<推理过程>", reasoning_close="</推理过程>", answer_open="<摘要>", answer_close="</摘要>"
)
BOXED = Convention(name="boxed", reasoning_open="<think>", reasoning_close="</think>")
NONE = Convention(name="none")

CONVENTIONS: Mapping[str, Convention] = {c.name: c for c in (THINK_ANSWER, ZH, BOXED, NONE)}
