"""The contract of a model directory, read from its files without transformers."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.artifact import Contract, hash_path


def model_contract(path: Path, convention: str | None = None) -> Contract:
    """Contract of the model in `path`; a part that the directory does not state is None.

    The tokenizer's hash covers its vocabulary and merges, for those give token ids their meaning: truncation,
    padding and formatting of the file, which libraries rewrite when they save, are left out.
    """
    config = _json(path / "tokenizer_config.json")
    template = path / "chat_template.jinja"
    text = template.read_text(encoding="utf-8") if template.is_file() else _template_in(config)
    special = _json(path / "special_tokens_map.json") | config
    return Contract(
        convention=convention,
        tokenizer=_tokenizer_hash(path),
        chat_template=_hash(text) if text else None,
        eos=_content(special.get("eos_token")),
        pad=_content(special.get("pad_token")),
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _tokenizer_hash(path: Path) -> str | None:
    file = path / "tokenizer.json"
    if file.is_file():
        stat = file.stat()
        return _vocabulary_hash(file, stat.st_mtime_ns, stat.st_size)
    others = [path / name for name in ("vocab.json", "merges.txt", "tokenizer.model")]
    found = {other.name: hash_path(other) for other in others if other.is_file()}
    return _hash(json.dumps(found, sort_keys=True)) if found else None


@functools.lru_cache(maxsize=64)
def _vocabulary_hash(file: Path, mtime_ns: int, size: int) -> str:
    tree = _json(file)
    model = tree.get("model") or {}
    vocab = model.get("vocab") or {}
    pairs = vocab.items() if isinstance(vocab, dict) else ((entry[0], at) for at, entry in enumerate(vocab))
    ids = dict(pairs) | {token["content"]: token["id"] for token in tree.get("added_tokens") or []}
    merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges") or []]
    return _hash(json.dumps([sorted(ids.items()), merges], ensure_ascii=False))


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error})") from None
    return tree if isinstance(tree, dict) else {}


def _template_in(config: Mapping[str, Any]) -> str | None:
    template = config.get("chat_template")
    if isinstance(template, list):  # several named templates
        template = next((t.get("template") for t in template if t.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token
