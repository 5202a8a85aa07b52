"""Configurations: extends, variables, overrides, and one clear line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.config import Launch, ModelSource, dump, load
from pipeline.messages import explain, nearest, shorten
from pipeline.step import Role, resolved_step
from tests.toy_project import plan_of, project, steps

SHA = "0123456789abcdef0123456789abcdef01234567"


def write(folder: Path, text: str, name: str = "c.yaml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "+1e-3", "0.001", ".1e-2"])
def test_scientific_notation_is_a_number(tmp_path: Path, text: str) -> None:
    value = load(write(tmp_path, f"vars: {{rate: {text}}}")).vars["rate"]
    assert value == 0.001
    assert isinstance(value, float)


@pytest.mark.parametrize("text", ["1e", "e3", "0x1e-3", "12abc", "1e-3x"])
def test_what_is_not_a_number_stays_text(tmp_path: Path, text: str) -> None:
    assert load(write(tmp_path, f"vars: {{rate: {text}}}")).vars["rate"] == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_that_python_writes_is_read_back(value: float) -> None:
    from pipeline.reading import _parse

    assert _parse(repr(value), "x") == value


def test_extends_merges_mappings_and_steps_by_name(tmp_path: Path) -> None:
    below = tmp_path / "below"
    file = project(below)
    child = write(
        tmp_path,
        "extends: below/toy.yaml\nname: child\nmodels: {other: {path: elsewhere}}\n"
        "steps:\n- {name: first, learning_rate: 1e-1}\n"
        "- {name: third, stage: toy_sample, init_from: second, data_from: rows}\n",
    )
    config = load(child)
    assert [step["name"] for step in config.steps] == ["first", "keep", "second", "judge", "third"]
    assert config.steps[0] == {**load(file).steps[0], "learning_rate": 0.1}
    assert config.models["base"].path == str(below / "model"), "relative to the file that states it"
    assert config.models["other"].path == str(tmp_path / "elsewhere")
    assert config.data["rows"]["path"] == str(below / "rows.jsonl")
    assert config.name == "child"


def test_without_leaves_out_what_is_inherited(tmp_path: Path) -> None:
    project(tmp_path)
    config = load(write(tmp_path, "extends: toy.yaml\nwithout: [judge, held_out]\n"))
    assert [step["name"] for step in config.steps] == ["first", "keep", "second"]
    assert list(config.data) == ["rows"]


def test_lists_of_paths_are_anchored(tmp_path: Path) -> None:
    config = load(write(tmp_path, "data: {a: {source: records, path: [x.jsonl, /y.jsonl, '${vars.z}']}}\nvars: {z: q}"))
    assert config.data["a"]["path"] == [str(tmp_path / "x.jsonl"), "/y.jsonl", str(tmp_path / "q")]


def test_variables_keep_their_type_and_may_use_each_other(tmp_path: Path) -> None:
    config = load(
        write(
            tmp_path,
            "vars: {root: /d, sub: '${vars.root}/s', n: 3, list: [1, '${vars.n}']}\n"
            "data: {a: {source: records, path: '${vars.sub}/x.jsonl', rows: '${vars.n}'}}\n"
            "steps: [{name: s, numbers: '${vars.list}', text: 'n=${vars.n}'}]\n",
        ),
        ["vars.root=/other"],
    )
    assert config.data["a"] == {"source": "records", "path": "/other/s/x.jsonl", "rows": 3}
    assert config.steps[0]["numbers"] == [1, 3]
    assert config.steps[0]["text"] == "n=3"


def test_overrides_reach_named_items_indices_and_new_keys(tmp_path: Path) -> None:
    file = write(tmp_path, "steps: [{name: a, phases: [{rows: 1}, {rows: 2}], rewards: [{name: fit, weight: 1}]}]")
    config = load(
        file,
        [
            "seed=3",
            "steps.a.phases.1.rows=7",
            "steps.a.rewards.fit.weight=1e-1",
            "launch.extra.x=[1, 2]",
            "prefill=<t>",
        ],
    )
    assert config.seed == 3
    assert config.steps[0]["phases"][1] == {"rows": 7}
    assert config.steps[0]["rewards"] == [{"name": "fit", "weight": 0.1}]
    assert config.launch.extra == {"x": [1, 2]}
    assert config.prefill_text == "<t>"


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("sede: 1", [], "c.yaml: unknown key 'sede'; did you mean 'seed'?"),
        ("seed: many", [], "c.yaml: seed: input should be a valid integer"),
        ("seed: true", [], "c.yaml: seed: expected a number, got true"),
        ("launch: {threads: true}", [], "c.yaml: launch.threads: expected a number, got true"),
        ("seed: -1", [], "c.yaml: seed: input should be greater than or equal to 0, got -1"),
        ("name: a/b", [], "'a/b' is not a name"),
        ("data: {a b: {source: x}}", [], "'a b' is not a name"),
        ("convention: think_anser", [], "unknown convention 'think_anser'; did you mean 'think_answer'?"),
        ("sandbox: none", [], "c.yaml: sandbox: input should be 'bubblewrap' or 'weak', got 'none'"),
        ("launch: {proceses: 2}", [], "c.yaml: launch: unknown key 'proceses'; did you mean 'processes'?"),
        ("launch: {processes: 0}", [], "launch.processes: input should be greater than or equal to 1"),
        ("launch: {machines: 2}", [], "launch: processes = 1 does not divide by machines = 2"),
        ("launch: {zero: 1}", [], "c.yaml: launch.zero: input should be 2 or 3, got 1"),
        ("launch: {zero: 3, deepspeed: zero2}", [], "launch: zero and deepspeed exclude each other; set one of them"),
        ("launch: {accelerate_config: zero4}", [], "there is no bundled file 'zero4'; did you mean 'zero"),
        ("launch: {deepspeed: x}", [], "no bundled file 'x'; known: zero2, zero3, zero3_offload, and a file of your"),
        ("models: {m: {pth: x}}", [], "models.m: unknown key 'pth'; did you mean 'path'?"),
        ("models: {m: {}}", [], "models.m: give either `path` or `hub`"),
        ("models: {m: {path: a, hub: b}}", [], "models.m: give either `path` or `hub`"),
        ("models: {m: {hub: o/n}}", [], "models.m: `revision` must be a commit of o/n (40 hex digits), got None"),
        ("models: {m: {hub: o/n, revision: main}}", [], "got 'main': an unpinned source has no identity"),
        (f"models: {{m: {{path: o, revision: {SHA}}}}}", [], "`revision` belongs to `hub`"),
        ("seed: 1\nseed: 2", [], "c.yaml:2: not YAML (the key 'seed' occurs twice)"),
        ("a: [1", [], "c.yaml:1: not YAML"),
        ("a: \x07", [], "c.yaml: not YAML (unacceptable character"),
        ("- 1", [], "c.yaml: expected keys and values at the top level"),
        ("1: 2", [], "c.yaml: expected keys and values at the top level"),
        ("", [], "c.yaml: expected keys and values at the top level"),
        ("extends: [a]", [], "c.yaml: extends: expected the name of one file"),
        ("extends: c.yaml", [], "extends: c.yaml -> c.yaml is a circle"),
        (
            "evaluate: {x: &again [*again]}",
            [],
            "c.yaml: nested too deeply, or an alias",
        ),
        ("vars: " + "[" * 2000, [], "c.yaml: nested too deeply"),
        ("extends: gone.yaml", [], "gone.yaml: cannot be read: No such file or directory (extended by"),
        ("without: a", [], "c.yaml: without: expected a list of names"),
        ("data: {abc: {}}\nwithout: [abd]", [], "without: unknown name 'abd'; did you mean 'abc'?"),
        ("vars: 3", [], "c.yaml: vars: expected names and values"),
        ("vars: {root: 1}\nname: '${vars.rot}'", [], "c.yaml: name: unknown variable 'rot'; did you mean 'root'?"),
        ("name: 'x-${env.HOME}'", [], "name: ${env.HOME} is not known; write ${vars.NAME}"),
        ("vars: {a: '${vars.b}', b: '${vars.a}'}", [], "the variables b -> a -> b are a circle"),
        ("{}", ["seed"], "--set seed: expected KEY=VALUE"),
        ("{}", ["a..b=1"], "--set a..b=1: expected KEY=VALUE"),
        ("seed: 1", ["seed.x=1"], "--set seed.x=1: 'seed' is 1 and has no keys"),
        ("steps: [{name: abc}]", ["steps.abd.x=1"], "unknown name 'abd'; did you mean 'abc'?"),
        ("vars: {a: [1]}", ["vars.a.1=1"], "unknown name '1'; known: 0"),
        ("{}", ["seed=[1"], "--set seed=[1:1: not YAML"),
        ("steps: 3", [], "c.yaml: steps: expected a list, got 3"),
        ("evaluate: 3", [], "c.yaml: evaluate: expected keys and values, got 3"),
        ("models: {m: here}", [], "c.yaml: models.m: expected keys and values, got 'here'"),
        ("prefill: 3", [], "c.yaml: prefill: input should be a valid boolean"),
        ("data: 3", [], "c.yaml: data: expected keys and values, got 3"),
        ("seed: x\nname: 3", [], "(and 1 more)"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        load(write(tmp_path, text), overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone.yaml: cannot be read: No such file"):
        load(tmp_path / "gone.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff")
    with pytest.raises(ValueError, match=r"latin.yaml: cannot be read: not UTF-8"):
        load(tmp_path / "latin.yaml")


def test_steps_without_names_cannot_be_merged(tmp_path: Path) -> None:
    write(tmp_path, "steps: [{stage: x}]", "below.yaml")
    with pytest.raises(ValueError, match="each step needs a name"):
        load(write(tmp_path, "extends: below.yaml\nsteps: [{name: a}]"))


def test_the_name_is_the_file_s_by_default(tmp_path: Path) -> None:
    assert load(write(tmp_path, "{}")).name == "c"


def test_configurations_are_frozen(tmp_path: Path) -> None:
    config = load(write(tmp_path, "{}"))
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("prefill", "convention", "text"),
    [
        ("true", "think_answer", "<think>\n"),
        ("true", "zh", "<推理过程>\n"),
        ("true", "none", ""),
        ("false", "think_answer", ""),
        ("'<think>'", "think_answer", "<think>"),
    ],
)
def test_prefill(tmp_path: Path, prefill: str, convention: str, text: str) -> None:
    assert load(write(tmp_path, f"prefill: {prefill}\nconvention: {convention}")).prefill_text == text


def test_a_bare_no_means_no_mixed_precision(tmp_path: Path) -> None:
    assert load(write(tmp_path, "launch: {mixed_precision: no}")).launch.mixed_precision == "no"


def test_placement_carries_files_as_absolute_paths(tmp_path: Path) -> None:
    launch = Launch(processes=2, threads=1, deepspeed="zero.json", checkpoint_steps=7, extra={"nodes": 2})
    placement = launch.placement(tmp_path)
    assert placement.checkpoint_steps == 7
    assert (placement.processes, placement.threads) == (2, 1)
    assert placement.extra == {"nodes": 2, "deepspeed": str(tmp_path / "zero.json")}
    bundled = Launch(accelerate_config="fsdp2").placement(tmp_path)
    assert Path(bundled.extra["accelerate_config"]).is_file(), "a word is a bundled file, wherever the configuration is"


def test_hub_models_are_pinned_to_a_commit() -> None:
    assert ModelSource(hub="o/n", revision=SHA).revision == SHA


def test_the_resolved_configuration_means_the_same(tmp_path: Path) -> None:
    """What `dump` writes can be run again from anywhere and asks for the same steps."""
    changes = steps(("first", {"launch": {"threads": 1}, "seed": 4}), ("second", {"evaluate": False}))
    file = project(tmp_path / "here", steps=changes)
    nodes = plan_of(file)
    config = load(file)
    text = dump(config, [resolved_step(node, config) for node in nodes if node.role is Role.STEP])
    (tmp_path / "there").mkdir()
    again = write(tmp_path / "there", text, "config.json")
    assert plan_of(again) == nodes
    first = json.loads(text)["steps"][0]
    assert first["learning_rate"] == 0.5, "defaults are spelled out"
    assert first["launch"]["threads"] == 1


def test_a_resolved_configuration_with_paths_from_variables_runs_from_anywhere(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    data = {"rows": {"source": "records", "path": "${vars.root}/rows.jsonl"}}
    models = {"base": {"path": "${vars.root}/model"}}
    step = {"name": "s", "stage": "toy_train", "init_from": "base", "data_from": "rows"}
    step["evaluate"] = {"rewards": [{"path": "${vars.root}/mine.py"}, {"path": "other.py"}]}
    project(here / "files")
    file = project(
        here, vars={"root": "files"}, data=data, models=models, evaluate=None, steps=[step | {"evaluate": False}]
    )
    config = load(file)
    nodes = plan_of(file)
    text = dump(config, [resolved_step(node, config) for node in nodes if node.role is Role.STEP])
    again = write(there, text, "config.json")
    assert plan_of(again) == nodes
    assert load(again).data["rows"]["path"] == str(here / "files" / "rows.jsonl")
    assert load(again).models["base"].path == str(here / "files" / "model")
    rewarded = load(project(here, vars={"root": "files"}, steps=[step])).steps[0]["evaluate"]["rewards"]
    assert [spec["path"] for spec in rewarded] == [str(here / "files" / "mine.py"), str(here / "other.py")]


def test_the_home_directory_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = load(
        write(tmp_path, "models: {m: {path: ~/m}}\nbase_dir: sub\ndata: {d: {source: records, path: d.jsonl}}")
    )
    assert config.models["m"].path == "/home/me/m"
    assert config.data["d"]["path"] == str(tmp_path / "d.jsonl"), "beside the file that states it"


def test_nearest_lists_all_where_none_is_close() -> None:
    assert nearest("zzz", ["alpha", "beta"]) == "; known: alpha, beta"
    assert nearest("x", []) == "; there are none"
    assert nearest("keep", ["keep_fraction", "seed"]) == "; did you mean 'keep_fraction'?"


def test_missing_and_nested_keys_are_named() -> None:
    class Inner(BaseModel):
        model_config = ConfigDict(extra="forbid")
        rows: int

    class Outer(BaseModel):
        phases: list[Inner] | None

    for value, message in (
        ({}, "x: the key 'phases' is missing"),
        ({"phases": [{}]}, "x: phases.0: the key 'rows' is missing"),
        ({"phases": [{"rows": 1, "row": 2}]}, "x: phases.0: unknown key 'row'; did you mean 'rows'?"),
    ):
        with pytest.raises(ValidationError) as caught:
            Outer.model_validate(value)
        assert explain(caught.value, Outer, "x") == message


def test_long_values_are_cut() -> None:
    assert len(shorten("x" * 1000)) == 60
