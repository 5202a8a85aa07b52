"""Functions written for TRL, verl or OpenRLHF as rewards of ours.

The kind of a function is read off its parameters: `data_source, solution_str, ground_truth, extra_info` is verl's,
`queries, prompts, labels` is OpenRLHF's, anything else is TRL's batch signature (async and None allowed).
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsFloat

from rewards.combine import as_verdict
from rewards.reward import Sample, Verdict

_GIVEN = ("prompts", "completions", "completion_ids")
"""Arguments of a function with TRL's signature that no column of a data set may take the place of."""
_COLUMNS = ("answer", "tests", "domain", "language", "difficulty", "truncated", "tokens")


@dataclass(frozen=True, kw_only=True)
class UserReward:
    """A function of the user's, found by file path or dotted name each time it is unpickled."""

    function: str
    path: Path | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments given to every call."""

    def load(self, where: str = "rewards") -> Callable[..., Any]:
        """The function itself. Raises ValueError if it cannot be found or called with TRL's, verl's or OpenRLHF's
        signature."""
        function = _find(self.function, self.path, where)
        if not callable(function):
            raise ValueError(f"{where}: {self.function!r} is not a function")
        return function

    def score_batch(self, samples: Sequence[Sample], /) -> list[Verdict]:
        """One verdict a sample. Raises ValueError with the place if the function fails or returns no numbers."""
        if not samples:
            return []
        function = self.load()
        try:
            scores = self._call(function, samples)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{last.filename}:{last.lineno}"
            raise ValueError(f"reward {self.function!r} failed at {place}: {type(error).__name__}: {error}") from error
        if scores is None:
            raise ValueError(f"reward {self.function!r} returned None for {len(samples)} completions, not a list")
        if len(scores) != len(samples):
            raise ValueError(f"reward {self.function!r} returned {len(scores)} scores for {len(samples)} completions")
        for score in scores:
            if score is not None and not isinstance(score, SupportsFloat):
                raise ValueError(f"reward {self.function!r} returned {score!r}, which is neither a number nor None")
        return [as_verdict(score) for score in scores]

    def _call(self, function: Callable[..., Any], samples: Sequence[Sample]) -> list[float | None] | None:
        names = set(inspect.signature(function).parameters)
        if "solution_str" in names:
            return [self._verl(function, sample) for sample in samples]
        if {"queries", "labels"} <= names:
            return self._openrlhf(function, samples)
        return self._trl(function, samples)

    def _verl(self, function: Callable[..., Any], sample: Sample) -> float | None:
        result = function(
            data_source=sample.extra.get("data_source", sample.extra.get("source", sample.domain)),
            solution_str=sample.completion,
            ground_truth=sample.answer,
            extra_info={**sample.extra, "prompt": sample.prompt, "tests": sample.tests},
            **self.arguments,
        )
        return result["score"] if isinstance(result, Mapping) else result

    def _openrlhf(self, function: Callable[..., Any], samples: Sequence[Sample]) -> list[float | None]:
        result = function(
            [sample.prompt + sample.completion for sample in samples],
            [sample.prompt for sample in samples],
            [sample.answer for sample in samples],
            **self.arguments,
        )
        values = result["rewards"] if isinstance(result, Mapping) else result
        return [None if value is None else float(value) for value in values]

    def _trl(self, function: Callable[..., Any], samples: Sequence[Sample]) -> list[float | None] | None:
        columns: dict[str, list[Any]] = {name: [getattr(sample, name) for sample in samples] for name in _COLUMNS}
        for name in {key for sample in samples for key in sample.extra}.difference(_GIVEN):
            columns.setdefault(name, [sample.extra.get(name) for sample in samples])
        result = function(
            prompts=[[{"role": "user", "content": sample.prompt}] for sample in samples],
            completions=[[{"role": "assistant", "content": sample.completion}] for sample in samples],
            completion_ids=[[0] * (sample.tokens or 0) for sample in samples],
            **{**columns, **self.arguments},
        )
        if inspect.isawaitable(result):
            result = _wait(result)
        return None if result is None else list(result)


def _wait(awaitable: Any) -> Any:
    """The result of a coroutine, whether or not this thread runs an event loop already."""

    import asyncio

    async def wait() -> Any:
        return await awaitable

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, wait()).result()


def _find(function: str, path: Path | None, where: str) -> Any:
    if path is not None:
        module, name = _module_at(path, where), function
    else:
        module_name, _, name = function.rpartition(".")
        if not module_name:
            raise ValueError(
                f"{where}: {function!r} needs a `path`, or a dotted name such as package.module.{function}"
            )
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise ValueError(f"{where}: cannot import {module_name!r}: {error}") from None
    found = getattr(module, name, None)
    if found is None:
        from rewards.table import nearest

        functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise ValueError(f"{where}: {path or module.__name__} has no function {name!r}{nearest(name, functions)}")
    return found


def _module_at(path: Path, where: str) -> Any:
    path = path.resolve()
    name = f"user_reward_{path.stem}_{abs(hash(str(path)))}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise ValueError(f"{where}: no such file: {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{where}: not a Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ValueError(f"{where}: {path} fails at import: {type(error).__name__}: {error}") from None
    return module
