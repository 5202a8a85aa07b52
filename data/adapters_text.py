"""Adapter for raw text: documents that a model is pre-trained on, without question or answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data import adapters
from data.adapters import At
from data.language import detect_language
from data.records import Row

_LOOKED_AT = 10_000
"""Characters of a document that tell its language."""


def text(value: Mapping[str, Any], at: At) -> Row:
    """A document: column `text`, kept as it is. One of nothing but blanks is unusable."""
    found = adapters.text(value, at, "text")
    return {"text": found, "language": detect_language(found[:_LOOKED_AT])}
