"""What the pages say is so: configurations and commands parse, examples run, tables hold every key and its default."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field

import rewards
import stages.stage
from data.artifact import Kind
from data.records import COLUMNS
from data.schemas import KEYS, SOURCES, check
from data.template import CONVENTIONS
from data.tiny.world import SPLITS
from pipeline import cli, rounds
from pipeline.config import RunConfig, load
from pipeline.graph import build
from pipeline.reward_specs import check_rewards
from rewards.cli import add_parsers
from rewards.reward import Status
from stages import STAGES
from tests.doc_pages import (
    PAGES,
    ROOT,
    Block,
    anchors,
    blocks,
    blocks_of,
    commands,
    inline_code,
    keys,
    links,
    shown,
    table_rows,
)

TINY = {"source": "tiny", "split": "rl", "rows": 10}
TEXT = {"source": "text", "path": "text.jsonl"}
USED_UP = {"extends", "without"}
"""Keys of a file that are gone once it is read."""


def page(name: str) -> Path:
    return ROOT / "docs" / f"{name}.md"


def place(block: Block) -> str:
    return block.label


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the configurations of the repository, and nothing of one test left for the next."""
    for file in (ROOT / "configs").glob("*.yaml"):
        shutil.copy(file, tmp_path)
    for name in ("configs", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if name.startswith("user_reward_") or name == "my_rewards":
            del sys.modules[name]


def lay_out_files(of: Path, folder: Path) -> None:
    """Write the files that a page shows (```LANGUAGE file=NAME)."""
    for block in blocks_of(of):
        for mark in block.info:
            if mark.startswith("file="):
                (folder / mark.removeprefix("file=")).write_text(block.text, encoding="utf-8")


def validate(file: Path) -> None:
    config = load(file)
    nodes = build(config, STAGES, file)
    assert nodes
    for node in nodes:
        check_rewards(node.stage, node.config, node.wired, config.sandbox, config.convention, node.where)


def test_the_pages_are_listed() -> None:
    listed = {target.partition("#")[0] for target in links(page("README"))}
    written = {path.name for path in PAGES if path.parent.name == "docs"} - {"README.md", "decisions.md", "results.md"}
    assert written <= listed
    assert set(STAGES) <= {path.stem for path in PAGES}


@pytest.mark.parametrize("of", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(of: Path) -> None:
    for target in links(of):
        name, _, anchor = target.partition("#")
        file = (of.parent / name).resolve() if name else of
        assert file.exists(), f"{of}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{of}: {target}; there are {sorted(anchors(file))}"


@pytest.mark.parametrize("block", blocks("yaml", "config"), ids=place)
def test_a_configuration_of_a_page_is_valid(block: Block, folder: Path) -> None:
    lay_out_files(block.page, folder)
    file = folder / "shown.yaml"
    file.write_text(block.text, encoding="utf-8")
    validate(file)


@pytest.mark.parametrize("block", blocks("yaml", "step"), ids=place)
def test_a_step_of_a_page_is_valid(block: Block, folder: Path) -> None:
    """In a configuration that has everything that the step is wired to."""
    lay_out_files(block.page, folder)
    step = yaml.safe_load(block.text)
    tree: dict[str, Any] = {"sandbox": "weak", "models": {}, "data": {}, "steps": [step]}
    for name, need in STAGES[step["stage"]].needs.items():
        wired = step.get(f"{name}_from", [])
        for source in [wired] if isinstance(wired, str) else wired:
            tree["models" if need.kind is Kind.MODEL else "data"][source] = (
                {"path": "x"} if need.kind is Kind.MODEL else TEXT if need.texts == "only" else TINY
            )
    file = folder / "shown.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    validate(file)


@pytest.mark.parametrize("block", blocks("yaml", "data"), ids=place)
def test_a_data_entry_of_a_page_is_valid(block: Block) -> None:
    for spec in yaml.safe_load(block.text).values():
        check(spec)


def test_every_yaml_block_is_checked() -> None:
    marks = {"config", "step", "data"}
    assert not [b.label for b in blocks("yaml") if not marks.intersection(b.info)]


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Command of `r1` to its parser, the one that parses for real."""

    def of(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
        return next(a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))

    own = argparse.ArgumentParser()
    add_parsers(own.add_subparsers())
    return {**of(cli._parser()), **of(own)}


@pytest.mark.parametrize(("where", "command"), commands())
def test_a_command_of_a_page_parses(where: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = shlex.split(command)
    match Path(program).name:
        case "make":
            targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert {word for word in arguments if "=" not in word} <= {*targets}
        case name if name.endswith(".sh"):
            assert os.access(ROOT / program, os.X_OK), program
        case "python" if arguments[0] == "-m":
            assert importlib.util.find_spec(arguments[1]), arguments[1]
        case "python":
            assert (ROOT / arguments[0]).is_file(), arguments[0]
        case "r1":
            try:
                parsed = parsers()[arguments[0]].parse_args(arguments[1:])
            except SystemExit:
                pytest.fail(f"{where}: {command}: {capsys.readouterr().err}")
            file = getattr(parsed, "config", None)
            if file is not None and file.parts[0] == "configs":
                config = load(ROOT / file, parsed.overrides)
                named = {node.name for node in build(config, STAGES, file)}
                asked = {getattr(parsed, "from_step", None), getattr(parsed, "only", None)} - {None}
                assert asked <= named


RUNS = [
    command
    for where, command in commands()
    if where.startswith(("docs/distributed.md", "docs/slurm.md")) and command.startswith("r1 run ")
]


@pytest.mark.parametrize("command", RUNS)
def test_runs_on_several_processes_or_machines_can_be_tried(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`r1 launch` of these pages: tests/test_slurm.py."""
    assert cli.main([*shlex.split(command)[1:], "--dry-run"], STAGES) == 0, capsys.readouterr().err
    assert "cold_start" in capsys.readouterr().out
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("of", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_inside_sentences_exist(of: Path) -> None:
    known = parsers()
    for code in inline_code(of):
        words = code.split()
        if words[0] == "r1" and len(words) > 1:
            assert words[1] in known, code
            for word in words[2:]:
                flag = word.partition("=")[0]
                assert not flag.startswith("--") or flag in known[words[1]]._option_string_actions, code


@pytest.mark.parametrize("of", [path for path in PAGES if path.parent.name == "docs"], ids=lambda path: path.stem)
def test_flags_in_tables_exist(of: Path) -> None:
    flags = {flag for parser in parsers().values() for flag in parser._option_string_actions}
    for name in table_rows(of.read_text(encoding="utf-8")):
        if name.startswith("--"):
            assert name.split()[0] in flags, name


@pytest.mark.parametrize("of", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_do_what_the_page_says(of: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`python run` blocks run in one namespace, `bash run` blocks through `r1`; `text expect` is what came out."""
    lay_out_files(of, folder)
    namespace: dict[str, Any] = {"__name__": "page"}
    said = ""
    for block in blocks_of(of):
        match block.info[:2]:
            case ("python", "run"):
                exec(compile(block.text, block.label, "exec"), namespace)
            case ("python", *_):
                ast.parse(block.text)
            case ("bash", "run"):
                capfd.readouterr()
                for command in filter(None, block.text.splitlines()):
                    assert cli.main(shlex.split(command)[1:], STAGES) == 0, command
                told = capfd.readouterr()
                said = told.out + told.err
            case ("text", "expect"):
                for line in block.text.splitlines():
                    assert line in said, said


@pytest.mark.parametrize("name", STAGES)
def test_the_page_of_a_stage_tells_every_key_and_its_default(name: str) -> None:
    rows = table_rows(page(name).read_text(encoding="utf-8"))
    expected = keys(STAGES[name].config)
    assert {key: rows.get(key) for key in expected} == expected


@pytest.mark.parametrize("name", STAGES)
def test_the_page_of_a_stage_tells_its_inputs(name: str) -> None:
    text = page(name).read_text(encoding="utf-8")
    for need in STAGES[name].needs:
        assert f"`{need}_from`" in text
    for part in ("## Keys", "## What it", "source |"):
        assert part in text


def test_the_keys_of_a_run_and_their_defaults() -> None:
    text = page("configuration").read_text(encoding="utf-8")
    rows, expected = table_rows(text), keys(RunConfig)
    assert {key: rows.get(key) for key in expected} == expected
    assert all(f"`{key}`" in text for key in USED_UP)
    assert set(CONVENTIONS) <= set(rows)


def test_the_keys_of_data_and_the_columns_of_records() -> None:
    text = page("data").read_text(encoding="utf-8")
    rows = table_rows(text)
    assert set(KEYS) <= set(rows)
    assert set(SOURCES) <= set(rows)
    assert all(f"`{column}`" in text for column in COLUMNS)
    assert set(SPLITS) <= set(table_rows(page("tiny_world").read_text(encoding="utf-8")))
    solutions = re.search(r"`solutions` works for ([^.]*)\.", text)
    assert solutions
    assert set(re.findall(r"`(\w+)`", solutions[1])) == {name for name, s in SOURCES.items() if s.solutions}


def test_every_reward_with_its_parameters_and_every_status() -> None:
    text = page("rewards").read_text(encoding="utf-8")
    rows = table_rows(text)
    assert set(rewards.REWARDS) <= set(rows)
    for name, kind in rewards.REWARDS.items():
        for field in dataclasses.fields(kind):
            told = rows.get(f"{name}.{field.name}")
            if field.default is not dataclasses.MISSING and told != "a text":
                assert told == shown(field.default)
            else:
                assert told in ("required", "`{}`", "a text")
    assert all(f"`{status}`" in text for status in Status)


def test_techniques_are_complete_and_refer_to_what_exists() -> None:
    text = page("techniques").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row[0].strip("| ")) for row in rows] == list(range(1, 30))
    known = {*keys(RunConfig), *RunConfig.model_fields, *rewards.REWARDS, *SOURCES, *CONVENTIONS, *STAGES, *KEYS}
    known |= {key for name in STAGES for key in keys(STAGES[name].config)}
    known |= {f"{need}_from" for name in STAGES for need in STAGES[name].needs}
    known |= {"model", "domains", "schedule", "tensor_parallel_size", *rounds.KEYS}
    for row in rows:
        for code in re.findall(r"`([^`]+)`", row[2]):
            exists = code in known or (ROOT / code).is_file() or importlib.util.find_spec(code) is not None
            assert exists, code
        for code in re.findall(r"`(tests/[^`]+)`", row[-1]):
            file, _, test = code.partition("::")
            assert (ROOT / file).is_file(), code
            assert not test or f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), code


def test_the_reader_of_pages(tmp_path: Path) -> None:
    """Or a page could be wrong without anybody noticing."""
    file = tmp_path / "a.md"
    file.write_text(
        "# A b: `c`\n[x](b.md#y) ![z](i.png) [w](https://e.org) `r1 run`\n```bash\nr1 run a \\\n  --force # why\n```\n"
        "| `k` | `1` | m |\n"
    )
    assert links(file) == ["b.md#y"]
    assert anchors(file) == {"a-b-c"}
    assert "r1 run" in inline_code(file)
    assert table_rows(file.read_text()) == {"k": "`1`"}
    assert [block.info for block in blocks_of(file)] == [("bash",)]


def test_defaults_are_shown_as_yaml_has_them() -> None:
    class Inner(stages.stage.StageConfig):
        rate: float = 1e-05

    class Outer(stages.stage.StageConfig):
        inner: Inner = Inner()
        many: tuple[Inner, ...] = ()
        named: dict[str, Inner] = Field(default_factory=dict)
        needed: int

    assert keys(Outer) == {
        "inner": "below",
        "inner.rate": "`1e-05`",
        "many": "`[]`",
        "many[].rate": "`1e-05`",
        "named": "`{}`",
        "named.NAME.rate": "`1e-05`",
        "needed": "required",
    }
    assert [shown(value) for value in (None, True, "", ("a", "b"), 2.0)] == [
        "`null`", "`true`", '`""`', "`[a, b]`", "`2`",
    ]  # fmt: skip
