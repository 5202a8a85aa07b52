"""Artifacts on disk: commit, sweep, the lock, contracts of model directories, remembered hashes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from data.artifact import Artifact, Contract, Kind, hash_file
from data.contract import model_contract
from pipeline.config import ModelSource
from pipeline.contract import check_disk, check_inputs
from pipeline.given import HashCache, described_model, given_model
from pipeline.lock import hold
from pipeline.store import Record, RunStore
from stages.stage import Input, Metric
from tests.toy_project import ROOT
from tests.toy_stages import write_tokenizer

KEY = "0123456789ab"


def record(name: str = "step", key: str = KEY, started: str = "1") -> Record:
    return Record(
        name=name,
        kind=Kind.MODEL,
        fingerprint=key,
        recipe={"stage": "x", "inputs": {}},
        contract=Contract(convention="zh"),
        parents=("a",),
        seed=1,
        code="0",
        started=started,
        seconds=2.0,
        metrics={"accuracy": Metric(value=0.5, n=2, low=0.0, high=1.0)},
    )


def commit(store: RunStore, key: str = KEY, text: str = "x", started: str = "1") -> Path:
    store.artifacts.mkdir(parents=True, exist_ok=True)
    partial = store.open("step", key)
    (partial / "file").write_text(text)
    return store.commit(partial, record(key=key, started=started))


def test_commit_and_find(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    assert store.find("step", KEY) is None
    store.work("step", KEY).mkdir(parents=True)
    final = commit(store)
    assert store.find("step", KEY) == record()
    assert record().artifact(final).contract.convention == "zh"
    assert [path.name for path in store.artifacts.iterdir()] == [f"step-{KEY}"]
    assert not store.work("step", KEY).exists(), "nothing is left to resume"


def test_commit_replaces_only_when_the_new_one_stands(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    commit(store, text="old")
    final = commit(store, text="new")
    assert (final / "file").read_text() == "new"
    assert len(list(store.artifacts.iterdir())) == 1


def test_all_is_oldest_first_and_knows_other_steps_apart(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    commit(store, key="b" * 12, started="2")
    commit(store, key="a" * 12, started="3")
    commit(store, key="c" * 12, started="1")
    (store.artifacts / f"step-two-{KEY}").mkdir()
    assert [found.fingerprint[0] for found in store.all("step")] == ["c", "b", "a"]


def test_sweep_removes_what_is_half_made(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    commit(store)
    (store.open("step", "f" * 12) / "file").write_text("half")
    store.work("step", KEY).mkdir(parents=True)
    store.work("step", "f" * 12).mkdir(parents=True)
    store.sweep()
    assert [path.name for path in store.artifacts.iterdir()] == [f"step-{KEY}"]
    assert [path.name for path in (tmp_path / "work").iterdir()] == [f"step-{'f' * 12}"], "that one can be resumed"


@pytest.mark.parametrize("renamed", [False, True])
def test_sweep_after_a_kill_inside_a_replacement(tmp_path: Path, renamed: bool) -> None:
    store = RunStore(tmp_path)
    final = commit(store, text="old")
    final.rename(store.artifacts / f".step-{KEY}.replaced")
    if renamed:
        partial = store.open("step", KEY)
        (partial / "file").write_text("new")
        partial.rename(final)
    store.sweep()
    assert (final / "file").read_text() == ("new" if renamed else "old")
    assert len(list(store.artifacts.iterdir())) == 1


HOLDER = """
import sys, time
from pathlib import Path
from pipeline.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", HOLDER, str(folder)]
    child = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_a_second_runner_refuses_and_says_who_is_there(tmp_path: Path) -> None:
    child = holder(tmp_path)
    try:
        who = rf"in use: process {child.pid} on {socket.gethostname()} since 2\d\d\d-"
        with pytest.raises(ValueError, match=who), hold(tmp_path):
            pass
    finally:
        child.kill()
        child.communicate()
    with hold(tmp_path):  # the lock of a dead process is taken over
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "lock.json").exists()


def test_a_holder_that_has_not_said_who_it_is_yet(tmp_path: Path) -> None:
    child = holder(tmp_path)
    (tmp_path / "lock.json").write_text("[")
    try:
        with pytest.raises(ValueError, match=r"is in use$"), hold(tmp_path):
            pass
    finally:
        child.kill()
        child.communicate()


def test_the_lock_of_another_host_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "lock.json").write_text(json.dumps({"host": "elsewhere", "pid": 1, "since": "now"}))
    message = "process 1 on elsewhere since now; if that process is gone, delete"
    with pytest.raises(ValueError, match=message), hold(tmp_path):
        pass


def test_contract_of_a_model_directory(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, "abc")
    contract = model_contract(tmp_path, "zh")
    assert (contract.convention, contract.eos, contract.pad) == ("zh", "</s>", "<pad>")
    assert contract.tokenizer is not None
    assert contract.chat_template is not None
    tree = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree | {"padding": {"x": 1}, "truncation": {"y": 2}}, indent=1))
    assert model_contract(tmp_path, "zh") == contract, "padding and layout of the file give no id another meaning"
    tree["added_tokens"] = [{"id": 9, "content": "<new>"}]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    assert model_contract(tmp_path, "zh").conflicts(contract) == ["tokenizer"]


def test_merges_in_both_notations_are_the_same(tmp_path: Path) -> None:
    hashes = []
    for merges in (["a b"], [["a", "b"]]):
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 1}, "merges": merges}}))
        hashes.append(model_contract(tmp_path).tokenizer)
    assert hashes[0] == hashes[1]


def test_a_unigram_vocabulary_is_hashed(tmp_path: Path) -> None:
    hashes = []
    for vocab in ([["a", -1.0], ["b", -2.0]], [["b", -1.0], ["a", -2.0]]):
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}}))
        hashes.append(model_contract(tmp_path).tokenizer)
    assert hashes[0] != hashes[1]


def test_templates_in_the_tokenizer_s_configuration(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, "abc")
    with_file = model_contract(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    for template in (
        "{{ messages }}",
        [{"name": "tool", "template": ""}, {"name": "default", "template": "{{ messages }}"}],
    ):
        (tmp_path / "tokenizer_config.json").write_text(
            json.dumps({"eos_token": {"content": "</s>"}, "pad_token": "<pad>", "chat_template": template})
        )
        assert model_contract(tmp_path) == with_file


def test_a_bare_directory_says_nothing(tmp_path: Path) -> None:
    assert model_contract(tmp_path) == Contract()
    (tmp_path / "vocab.json").write_text("{}")
    assert model_contract(tmp_path).tokenizer is not None


def test_a_tokenizer_that_is_not_json(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer_config.json: not JSON"):
        model_contract(tmp_path)


def artifact(name: str, path: Path = Path(), kind: Kind = Kind.MODEL, **contract: str) -> Artifact:
    return Artifact(kind=kind, path=path, fingerprint=KEY, name=name, contract=Contract(**contract))


def test_inputs_must_agree(tmp_path: Path) -> None:
    model = Input(kind=Kind.MODEL)
    same = Input(kind=Kind.MODEL, same_tokenizer=True)
    a, b = artifact("a", tokenizer="1", eos="e", convention="zh"), artifact("b", tokenizer="2", eos="f")
    check_inputs("s", {"init": model, "other": model}, {"init": [a], "other": [b]}, "zh")
    with pytest.raises(ValueError, match=r"^s: other \(b\) and init \(a\) disagree on tokenizer, eos$"):
        check_inputs("s", {"init": model, "other": same}, {"init": [a], "other": [b]}, "zh")
    with pytest.raises(ValueError, match=r"^s: input init \(a\) was made under the convention 'zh', and this run uses"):
        check_inputs("s", {"init": model}, {"init": [a]}, "boxed")
    check_disk(artifact("rows", tmp_path, Kind.DATASET, tokenizer="1"))


def test_hashes_are_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_text("one")
    cache = HashCache.load(tmp_path / "hashes.json")
    assert cache.hash_one(file) == hash_file(file)
    cache.save()
    stat = file.stat()
    file.write_text("two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = HashCache.load(tmp_path / "hashes.json")
    assert again.hash_one(file) != hash_file(file), "same size and time: the content is not read again"
    os.utime(file, ns=(0, 0))
    assert again.hash_one(file) == hash_file(file)


@pytest.mark.parametrize("text", ["", "[]", '{"x": 3}', '{"x": [1]}'])
def test_a_damaged_memory_is_forgotten(tmp_path: Path, text: str) -> None:
    (tmp_path / "hashes.json").write_text(text)
    assert HashCache.load(tmp_path / "hashes.json").known == {}


def test_a_hub_model_is_downloaded_at_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    sha = "a" * 40
    asked: list[dict[str, Any]] = []

    def fetch(**arguments: Any) -> str:
        asked.append(arguments)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    found = given_model(ModelSource(hub="o/n", revision=sha), tmp_path, "base", KEY)
    assert (found.path, found.fingerprint) == (tmp_path, KEY)
    assert asked == [{"repo_id": "o/n", "revision": sha, "allow_patterns": None}]
    described_model(ModelSource(hub="o/n", revision=sha), tmp_path, "base")
    assert "*.json" in asked[1]["allow_patterns"], "a check fetches no weights"


@pytest.mark.parametrize("error", [OSError("no\nnetwork"), httpx.ConnectError("no network")])
def test_a_hub_model_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    import huggingface_hub

    def fetch(**_: str) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(ValueError, match=r"^models.base.hub: o/n cannot be fetched: no network$"):
        given_model(ModelSource(hub="o/n", revision="a" * 40), tmp_path, "base", KEY)


def test_a_stage_states_the_contract_that_the_runner_checks(tmp_path: Path) -> None:
    """The embedded model saved by transformers, as every training stage saves it."""
    from transformers import AutoTokenizer

    base = ROOT / "data" / "tiny" / "base"
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path)
    assert model_contract(tmp_path) == model_contract(base)
    assert None not in (model_contract(base, "zh").tokenizer, model_contract(base).chat_template)
