"""`r1 score` and `r1 rewards`: score a file of completions, compare two scored files, list the rewards.

Runs alone as `python -m rewards.cli score ...` too. Exit codes: 0 done, 2 for a mistake of the user's (one line).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewards.combine import Mix

_FOLDED = 100
"""Differing rows that `--against` prints before it only counts."""


def add_parsers(subparsers: Any) -> None:
    """Add the two commands; each sets `run`, a function from the parsed arguments to an exit code."""
    score = subparsers.add_parser("score", help="score completions in a file")
    score.add_argument("input", type=Path, metavar="INPUT.jsonl")
    score.add_argument(
        "--rewards",
        default="accuracy,format,language,program",
        help="names of rewards, each with parameters if need be: accuracy,language:min_words=3; "
        "functions of yours: my_rewards.py:brevity:words=20",
    )
    score.add_argument("--template", default="think_answer", help="output convention: think_answer, zh, boxed, none")
    score.add_argument("--prefill", default="", help="what the chat template put in front of every completion")
    score.add_argument("--output", type=Path, metavar="OUT.jsonl", help="where the scored rows go (default: stdout)")
    score.add_argument("--workers", type=int, default=2, help="scoring processes (default: 2)")
    score.add_argument("--deadline", type=float, default=2.0, help="seconds for one comparison (default: 2)")
    score.add_argument("--sandbox", choices=("bubblewrap", "weak"), default="bubblewrap")
    score.add_argument("--against", type=Path, metavar="B.jsonl", help="compare INPUT, scored, with this scored file")
    score.set_defaults(run=run_score)
    listing = subparsers.add_parser("rewards", help="list the rewards and their parameters")
    listing.set_defaults(run=run_rewards)


def run_score(arguments: argparse.Namespace) -> int:
    """`r1 score`. Raises ValueError with one line for a mistake of the user's."""
    if arguments.against is not None:
        return _compare(arguments.input, arguments.against)
    from data.template import CONVENTIONS
    from rewards import build
    from rewards.score_file import score_file
    from rewards.scoring import ScoringPool
    from rewards.table import nearest

    if arguments.template not in CONVENTIONS:
        raise ValueError(
            f"--template: unknown convention {arguments.template!r}{nearest(arguments.template, list(CONVENTIONS))}"
        )
    _check_files(arguments.input, arguments.output)
    mix = build(parse_rewards(arguments.rewards, arguments.sandbox), Path())
    _require_sandboxes(mix, arguments.input)
    with ScoringPool(workers=arguments.workers, deadline=arguments.deadline) as pool:
        summary = score_file(
            arguments.input, arguments.output, mix, pool, convention=arguments.template, prefill=arguments.prefill
        )
    print(summary.table(), file=sys.stdout if arguments.output is not None else sys.stderr)
    return 0


def _check_files(source: Path, output: Path | None) -> None:
    """Raises ValueError where there is nothing to read, and where the scored rows could not be put."""
    if not source.is_file():
        raise ValueError(f"{'not a file' if source.exists() else 'no such file'}: {source}")
    if output is None:
        return
    if output.is_dir() or not output.parent.is_dir():
        raise ValueError(f"--output {output}: {'is a directory' if output.is_dir() else 'its folder does not exist'}")
    if output.exists() and output.samefile(source):
        raise ValueError(f"--output {output} is the input, which would be lost")


def _require_sandboxes(mix: Mix, source: Path) -> None:
    """Prove the isolation of programs, and log what `weak` leaves open, where a row has tests to run.

    Raises ValueError naming what does not hold.
    """
    from rewards.correctness import Correctness
    from rewards.program import Program
    from rewards.sandbox import require

    made = [term.reward for term in mix.terms]
    modes = {reward.sandbox for reward in made if isinstance(reward, Program)}
    modes |= {str(reward.program.get("sandbox", "bubblewrap")) for reward in made if isinstance(reward, Correctness)}
    if not modes:
        return
    with source.open("rb") as file:
        if any(b'"tests"' in line for line in file):
            for mode in sorted(modes):
                require(mode)


def parse_rewards(text: str, sandbox: str) -> list[dict[str, Any]]:
    """Specifications out of `name,name:key=value:key=value,my_rewards.py:function:key=value`.

    Raises ValueError for a part without `=`, and for a file without a function.
    """
    specs = []
    for item in filter(None, (item.strip() for item in text.split(","))):
        name, *pairs = item.split(":")
        spec: dict[str, Any] = {"name": name}
        if name.endswith(".py"):
            if not pairs or "=" in pairs[0]:
                raise ValueError(f"--rewards: {item!r}: name the function, as in {name}:my_reward")
            spec = {"path": name, "function": pairs.pop(0)}
        for pair in _rejoined(pairs):
            key, equals, value = pair.partition("=")
            if not equals:
                raise ValueError(f"--rewards: {item!r}: {pair!r} is not of the form key=value")
            spec[key] = _value(value)
        if name == "program":
            spec.setdefault("sandbox", sandbox)
        if name == "correctness":
            spec.setdefault("program", {"sandbox": sandbox})
        specs.append(spec)
    return specs


def _rejoined(pairs: Sequence[str]) -> list[str]:
    """Parts without `=` belong to the value before them: http://host:8000/v1."""
    joined: list[str] = []
    for pair in pairs:
        if joined and "=" not in pair:
            joined[-1] += f":{pair}"
        else:
            joined.append(pair)
    return joined


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def run_rewards(arguments: argparse.Namespace) -> int:
    """`r1 rewards`."""
    from rewards import DEFAULT, REWARDS

    width = max(map(len, REWARDS))
    for name, kind in REWARDS.items():
        print(f"{name:<{width}}  {_first_sentence(kind.__doc__ or '')}")
        fields = [_parameter(field) for field in dataclasses.fields(kind)]
        if fields:
            print(f"{'':<{width}}    {', '.join(fields)}")
    print("\nDefault mix:")
    for spec in DEFAULT:
        gate = f"  (pays only where {spec['gate']} is 1)" if "gate" in spec else ""
        print(f"  {spec['weight']:.2f}  {spec['name']}{gate}")
    return 0


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.strip().partition("\n\n")[0].split())
    return paragraph.partition(". ")[0].rstrip(".") + "."


def _parameter(field: Any) -> str:
    if field.default is not dataclasses.MISSING:
        shown = repr(field.default)
        return f"{field.name}={shown if len(shown) < 24 else '...'}"
    return f"{field.name}" if field.default_factory is dataclasses.MISSING else f"{field.name}={{}}"


def _compare(first: Path, second: Path) -> int:
    """Print the rows on which two scored files differ."""
    one, other = _scored(first), _scored(second)
    shared = [key for key in one if key in other]
    differing = 0
    for key in shared:
        changes = _changes(one[key], other[key])
        if changes:
            differing += 1
            if differing <= _FOLDED:
                print(f"{key}: {'; '.join(changes)}")
    if differing > _FOLDED:
        print(f"... and {differing - _FOLDED} more")
    print(
        f"{differing} of {len(shared)} rows differ; {len(one) - len(shared)} only in {first}, "
        f"{len(other) - len(shared)} only in {second}"
    )
    return 0


def _scored(path: Path) -> dict[Any, dict[str, Any]]:
    from data.records import read_json_lines

    _check_files(path, None)
    rows: dict[Any, dict[str, Any]] = {}
    seen: Counter[Any] = Counter()  # rows that share an id are compared in their order
    for number, row in read_json_lines(path):
        if not isinstance(row, dict) or not isinstance(row.get("scores"), dict):
            raise ValueError(f"{path}:{number}: not a scored row; make one with r1 score INPUT --output {path.name}")
        key = number if row.get("id") is None else row["id"]
        if not isinstance(key, str | int | float):
            raise ValueError(f"{path}:{number}: the id must be text or a number, got {type(key).__name__}")
        seen[key] += 1
        rows[key if seen[key] == 1 else f"{key} (number {seen[key]})"] = row
    return rows


def _changes(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    def shown(row: dict[str, Any], name: str) -> str:
        if name not in row["scores"]:
            return "absent"
        score = row["scores"][name]
        return f"{'null' if score is None else f'{score:g}'} ({row.get('status', {}).get(name, '?')})"

    names = list(dict.fromkeys([*one["scores"], *other["scores"]]))
    return [f"{n} {shown(one, n)} -> {shown(other, n)}" for n in names if shown(one, n) != shown(other, n)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the two commands; returns the exit code."""
    parser = argparse.ArgumentParser(prog="r1")
    add_parsers(parser.add_subparsers(required=True, metavar="COMMAND"))
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except ValueError as error:
        print(f"r1: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
