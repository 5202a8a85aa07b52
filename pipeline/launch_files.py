"""Files of accelerate and DeepSpeed that a configuration names: bundled ones by a word, one's own by a path."""

from __future__ import annotations

from pathlib import Path

from pipeline.messages import nearest

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

BUNDLED = {"accelerate_config": ("accelerate", ".yaml"), "deepspeed": ("deepspeed", ".json")}
"""Key of `launch` to the folder below configs/ and the suffix of the files that it can name by a word."""


def names(key: str) -> list[str]:
    """What `key` can name by a word: configs/accelerate/zero3.yaml is `zero3`."""
    folder, suffix = BUNDLED[key]
    return sorted(file.stem for file in (CONFIGS / folder).glob(f"*{suffix}"))


def checked(key: str, value: str) -> str:
    """Return `value`; raises ValueError where it is a word (no `/` and no `.`) that names no bundled file."""
    if _is_word(value) and value not in (known := names(key)):
        hint = nearest(value, known) or f"; known: {', '.join(known)}"
        raise ValueError(f"there is no bundled file {value!r}{hint}, and a file of your own needs its suffix")
    return value


def resolve(key: str, value: str, base_dir: Path) -> Path:
    """Where the file is: bundled, or relative to `base_dir`."""
    folder, suffix = BUNDLED[key]
    return CONFIGS / folder / f"{value}{suffix}" if _is_word(value) else base_dir / value


def _is_word(value: str) -> bool:
    return "/" not in value and "." not in value
