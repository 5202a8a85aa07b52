"""Lengths of what a model that scores learns from: the functions that training uses, on the rows of a check."""

from __future__ import annotations

from typing import Any

from pipeline.check_subject import Subject
from pipeline.step import Node
from stages.preference_model import answer_ids
from stages.safety_model import SafetyModelConfig, examples


def judged_sizes(subject: Subject, node: Node, tokenizer: Any) -> list[tuple[int, str]]:
    """(tokens, id of the row) of every answer that a safety model learns from, and of the longer side of every pair.

    Raises ValueError for a label of safety that is none.
    """
    name, rows = subject.config.convention, subject.rows(node, "data").rows
    if isinstance(node.config, SafetyModelConfig):
        return [(len(e.ids), e.row) for e in examples(rows, node.config, tokenizer, name)[0]]
    return [
        (max(len(answer_ids(tokenizer, r, r[s][-1]["content"], name)) for s in ("chosen", "rejected")), r["id"])
        for r in rows
        if r.get("chosen") and r.get("rejected")
    ]
