"""The schemas that can be read, and the keys of a dataset entry: all that is known without looking at a file."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from data import adapters_chat, adapters_code, adapters_math, adapters_text, augment
from data.adapters import Adapter, At, nearest
from data.records import Row

UNPINNED = "unpinned"
"""A `revision` that is valid in a configuration and refused when the data is needed."""


def _records(value: Mapping[str, Any], at: At) -> Row:
    return dict(value)


FILTERS = ("domains", "languages", "difficulties")
"""The keys that keep only rows which match."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One schema that the pipeline can read."""

    summary: str
    adapt: Adapter | None
    """None: the rows are generated."""
    solutions: bool = False
    """Whether `solutions: true` can lay out worked solutions as completions."""
    splits: bool = False
    """Whether the rows themselves say to which `split` they belong."""
    raw: bool = False
    """Whether the rows are raw text, without a prompt: documents to pre-train on."""
    calculations: bool = False
    """Whether the worked solutions note their calculations, so that other numbers can be put in."""
    world: str | None = None
    """The module that generates the rows."""


SOURCES: Mapping[str, Source] = {
    "tiny": Source(
        summary="the embedded world: generated tasks in English and Chinese", adapt=None, splits=True, world="tiny"
    ),
    "applied": Source(
        summary="generated problems of medicine and finance in English and Chinese",
        adapt=None,
        splits=True,
        world="applied",
    ),
    "records": Source(summary="rows that already have the columns of this project", adapt=_records),
    "text": Source(summary="documents to pre-train on: column text, or text files", adapt=adapters_text.text, raw=True),
    "prompt_answer": Source(
        summary="columns prompt, answer (and reasoning)", adapt=adapters_math.prompt_answer, solutions=True
    ),
    "prompt_completion": Source(
        summary="columns prompt, completion (and system, context, reasoning)", adapt=adapters_chat.prompt_completion
    ),
    "messages": Source(summary="conversations, ShareGPT or OpenAI style", adapt=adapters_chat.messages),
    "preference": Source(summary="columns prompt, chosen, rejected", adapt=adapters_chat.preference),
    "gsm8k": Source(summary="GSM8K", adapt=adapters_math.gsm8k, solutions=True, calculations=True),
    "math": Source(summary="MATH and sets of its shape", adapt=adapters_math.math, solutions=True),
    "svamp": Source(summary="SVAMP", adapt=adapters_math.svamp),
    "aime24": Source(summary="AIME 2024", adapt=adapters_math.math, solutions=True),
    "cmath": Source(summary="CMATH and its distractor set (Chinese)", adapt=adapters_math.cmath),
    "gpqa": Source(summary="GPQA, choices shuffled by the seed", adapt=adapters_math.gpqa, solutions=True),
    "kk_logic": Source(summary="knights and knaves", adapt=adapters_math.kk_logic, solutions=True),
    "mbpp": Source(summary="MBPP, full or sanitised", adapt=adapters_code.mbpp, solutions=True, splits=True),
    "code_contests": Source(summary="CodeContests, stdin and stdout", adapt=adapters_code.code_contests),
    "codeforces": Source(summary="Codeforces, columns of open-r1/codeforces", adapt=adapters_code.codeforces),
    "r1_traces": Source(summary="reasoning traces of R1-class models", adapt=adapters_chat.r1_traces),
    "hh_rlhf": Source(summary="Anthropic HH transcripts", adapt=adapters_chat.hh_rlhf),
    "dpo_demo": Source(summary="preference pairs, ShareGPT style", adapt=adapters_chat.preference),
    "xstest": Source(summary="XSTest prompts, or its completions with labels", adapt=adapters_chat.xstest),
    "advbench": Source(summary="AdvBench harmful behaviours", adapt=adapters_chat.advbench),
}

KEYS: Mapping[str, tuple[type, ...]] = {
    "source": (str,),
    "path": (str, list),
    "hub": (str,),
    "revision": (str,),
    "subset": (str,),
    "split": (str,),
    "columns": (dict,),
    "solutions": (bool,),
    "rows": (int,),
    "skip": (int,),
    "shuffle": (bool,),
    "on_error": (str,),
    "domain": (str,),
    "language": (str,),
    "difficulty": (int, float),
    "domains": (list,),
    "languages": (list,),
    "difficulties": (list,),
    "augment": (dict,),
    "decontaminate": (str, list),
}
"""Keys of a dataset entry and their types. `domain`, `language` and `difficulty` set a column of every row;
`domains`, `languages` and `difficulties: [low, high]` keep only the rows that match. `augment` adds copies
(augment.py); `decontaminate` names entries whose questions no row may share (pipeline/preparation.py)."""


def world(name: str) -> ModuleType:
    """The module that generates the rows of a source: `SPLITS`, and `rows(split, count, seed, convention)`."""
    return importlib.import_module(f"data.{SOURCES[name].world}.world")


def check(spec: Mapping[str, Any]) -> None:
    """Raise ValueError, one line, for an entry that cannot be right. Looks at no file."""
    name = spec.get("source")
    if name is None:
        raise ValueError(f"the key 'source' is missing; known sources: {', '.join(SOURCES)}")
    if not isinstance(name, str) or name not in SOURCES:
        raise ValueError(f"unknown source {name!r}{nearest(str(name), SOURCES)}")
    for key, value in spec.items():
        if key not in KEYS:
            raise ValueError(f"unknown key {key!r} of source {name!r}{nearest(str(key), KEYS)}")
        if not isinstance(value, KEYS[key]) or (isinstance(value, bool) and bool not in KEYS[key]):
            wanted = " or ".join(t.__name__ for t in KEYS[key])
            raise ValueError(f"{key} of source {name!r} must be {wanted}, got {value!r}")
    for key in ("rows", "skip"):
        if not (1 if key == "rows" else 0) <= spec.get(key, 1) <= sys.maxsize:
            raise ValueError(f"{key} of source {name!r} must not be {spec[key]}")
    if spec.get("on_error", "stop") not in ("stop", "count"):
        raise ValueError(f"on_error must be stop or count, got {spec['on_error']!r}")
    low_high = spec.get("difficulties", [0, 0])
    if len(low_high) != 2 or not all(isinstance(v, int | float) for v in low_high) or low_high[0] > low_high[1]:
        raise ValueError(f"difficulties must be [lowest, highest], got {low_high!r}")
    if "augment" in spec and SOURCES[name].raw:
        raise ValueError("augment makes copies of questions, and raw text has none")
    if "augment" in spec:
        augment.check(spec["augment"], calculations=SOURCES[name].calculations, source=name)
    names = spec.get("decontaminate", "x")
    if names != str(names) and (not names or not all(isinstance(n, str) for n in names)):
        raise ValueError(f"decontaminate must name entries of data, got {names!r}")
    _check_place(str(name), spec)


def _check_place(name: str, spec: Mapping[str, Any]) -> None:
    source = SOURCES[name]
    places = [key for key in ("path", "hub") if key in spec]
    if source.adapt is None:
        foreign = [k for k in ("path", "hub", "revision", "subset", "columns", "solutions", "on_error") if k in spec]
        if foreign:
            raise ValueError(f"the key {foreign[0]!r} does not apply to source {name!r}, whose rows are generated")
        for key in ("split", "rows"):
            if key not in spec:
                raise ValueError(f"source {name!r} needs the key {key!r}")
        splits = world(name).SPLITS
        if spec["split"] not in splits:
            raise ValueError(f"unknown split {spec['split']!r} of {name}{nearest(spec['split'], splits)}")
        return
    if len(places) != 1:
        raise ValueError(f"source {name!r} needs either 'path' or 'hub', got {' and '.join(places) or 'neither'}")
    if spec.get("solutions") and not source.solutions:
        raise ValueError(f"source {name!r} has no worked solutions; leave out 'solutions'")
    if "path" in spec:
        for key in ("revision", "subset", "split"):
            if key in spec and not (key == "split" and source.splits):
                raise ValueError(f"the key {key!r} of source {name!r} needs 'hub'; it says nothing about files")
        if name == "mbpp" and spec.get("split", "train") not in adapters_code.MBPP_SPLITS:
            raise ValueError(
                f"unknown split {spec['split']!r} of mbpp{nearest(spec['split'], adapters_code.MBPP_SPLITS)}"
            )
        return
    revision = spec.get("revision")
    if revision != UNPINNED and not re.fullmatch(r"[0-9a-f]{40}", str(revision)):
        raise ValueError(
            f"hub dataset {spec['hub']} needs 'revision', a full commit of 40 hex digits, got {revision!r}"
        )
