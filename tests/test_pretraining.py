"""Raw text: where it comes from, how it is packed and mixed in, and what a model learns of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data import sources
from data.artifact import Artifact, Kind
from data.records import read_rows, validate, write_rows
from pipeline.config import load
from pipeline.graph import build
from pipeline.plan import make_plan
from pipeline.workload import Assumptions
from pipeline.workloads import Workloads
from stages import STAGES
from stages.stage import Context
from stages.training.encode import Encoded
from stages.training.pretraining import Pretraining, documents, interleave, mixed, pack
from tests.chains import artifact, run, said
from tests.tiny_model import one_thread, save_checkpoint  # noqa: F401
from tests.toy_project import project


def texts_of(folder: Path, **spec: Any) -> Any:
    return sources.load({"source": "text", **spec}, folder, 0, "think_answer")


def test_documents_come_from_rows_and_from_whole_text_files(tmp_path: Path) -> None:
    lines = [{"text": "  two\n\nlines "}, {"text": " \n"}, {"text": "患者有发热。", "id": "not kept"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (tmp_path / "b.txt").write_text("\ufeffone document\n\nof two paragraphs\n", encoding="utf-8")
    loaded = texts_of(tmp_path, path=["a.jsonl", "b.txt"], domain="medicine")
    rows = list(loaded.rows)
    assert [row["text"] for row in rows] == ["  two\n\nlines ", "患者有发热。", "one document\n\nof two paragraphs\n"]
    assert [row["language"] for row in rows] == ["en", "zh", "en"]
    assert {row["domain"] for row in rows} == {"medicine"}
    assert [row["id"] for row in rows] == ["text/a-0", "text/a-2", "text/b-0"]
    assert loaded.counts == {"used": 3, "unusable: no text": 1}
    write_rows(tmp_path / "rows.jsonl", rows)
    assert list(read_rows(tmp_path / "rows.jsonl")) == rows
    (tmp_path / "c.csv").write_text("body\nsome text\n")
    assert [row["text"] for row in texts_of(tmp_path, path="c.csv", columns={"text": "body"}).rows] == ["some text"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', r"x.jsonl:2: the column 'text' is missing; did you mean 'txt'"),
        ("x.jsonl", b'{"text": ["a"]}\n', r"x.jsonl:1: column 'text' must be text, got list"),
        ("x.jsonl", b'\n"a"\n', r"x.jsonl:2: expected an object, got str"),
        ("x.jsonl", b'{"text": "\\ud800"}\n', r"x.jsonl:1: column 'text' holds half a character \(U\+D800\)"),
        ("x.txt", b"one\ntwo\n\xff\n", r"x.txt:3: not UTF-8"),
    ],
)
def test_a_malformed_document_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        list(texts_of(tmp_path, path=name).rows)
    assert "\n" not in str(caught.value)


def test_text_stands_for_a_prompt_only_where_raw_text_is_read(tmp_path: Path) -> None:
    row = {"id": "a", "domain": "law", "language": "en", "text": "whereas"}
    assert validate(row, "f:1", raw=True) == row
    with pytest.raises(ValueError, match=r"f:1: the column 'prompt' is missing"):
        validate(row, "f:1")
    with pytest.raises(ValueError, match=r"f:1: the column 'prompt' is missing"):
        validate({**row, "text": None}, "f:1", raw=True)
    with pytest.raises(ValueError, match=r"f:1: column 'text' must be str, got int"):
        validate({**row, "text": 3}, "f:1", raw=True)
    asked = {**row, "prompt": [{"role": "user", "content": "q"}], "text": 3}
    assert validate(asked, "f:1", raw=True) == asked, "a column of the user's own"
    (tmp_path / "f.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=r"f.jsonl:1: the column 'prompt' is missing"):
        list(sources.load({"source": "records", "path": "f.jsonl"}, tmp_path, 0, "none").rows)


NOTES: dict[str, Any] = {
    "rows": {"source": "records", "path": "rows.jsonl"},
    "notes": {"source": "text", "path": "notes.jsonl"},
}
PHASES = [{"name": "p", "weights": {"math": 1}}]


@pytest.mark.parametrize(
    ("stage", "keys", "message"),
    [
        ("cold_start", {}, "steps.s.data_from: 'notes' is raw text, rows with a prompt are needed"),
        ("distillation", {}, "steps.s.data_from: 'notes' is raw text"),
        ("reasoning_rl", {}, "steps.s.data_from: 'notes' is raw text"),
        ("general_rl", {}, "steps.s.data_from: 'notes' is raw text"),
        ("rejection_sampling", {}, "steps.s.data_from: 'notes' is raw text"),
        ("preference_model", {}, "steps.s.data_from: 'notes' is raw text"),
        ("evaluation", {}, "steps.s.data_from: 'notes' is raw text"),
        ("sft_mix", {"data_from": ["rows", "notes"], "phases": PHASES}, "steps.s.data_from: 'notes' is raw text"),
        ("continued_pretraining", {"data_from": "rows"}, "steps.s.data_from: 'rows' is no raw text, `source: text` is"),
        (
            "sft_mix",
            {"data_from": "rows", "phases": PHASES, "pretraining": {}, "pretraining_from": "rows"},
            "steps.s.pretraining_from: 'rows' is no raw text",
        ),
        (
            "sft_mix",
            {"data_from": "rows", "phases": PHASES, "pretraining": {}},
            "steps.s: pretraining and pretraining_from belong together; pretraining is there and pretraining_f",
        ),
        (
            "sft_mix",
            {"data_from": "rows", "phases": PHASES, "pretraining_from": "notes"},
            "steps.s: pretraining and pretraining_from belong together; pretraining_from is there and",
        ),
        (
            "sft_mix",
            {"data_from": "rows", "phases": PHASES, "pretraining": {"share": 1}},
            "pretraining.share: input should be less than 1",
        ),
    ],
)
def test_refused_when_the_configuration_is_read(tmp_path: Path, stage: str, keys: dict[str, Any], message: str) -> None:
    step = {"name": "s", "stage": stage, "init_from": "base", "data_from": "notes", **keys}
    file = project(tmp_path, steps=[step], data=NOTES, evaluate=None)
    with pytest.raises(ValueError) as caught:
        build(load(file), STAGES, file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


documents_strategy = st.lists(st.lists(st.integers(2, 99), min_size=1, max_size=30), max_size=12)


@given(documents_strategy, st.integers(2, 16), st.integers(0, 3))
def test_packing_keeps_every_token_and_learns_all_but_the_first_of_a_block(
    texts: list[list[int]], length: int, seed: int
) -> None:
    blocks = pack([[*text, 0] for text in texts], length, seed)
    assert all(len(block.input_ids) == length for block in blocks[:-1])
    assert all(block.completion_mask == [0] + [1] * (len(block.input_ids) - 1) for block in blocks)
    stream = [token for block in blocks for token in block.input_ids]
    total = sum(len(text) + 1 for text in texts)
    assert len(stream) == (total - 1 if total % length == 1 else total)
    whole, text = [], []
    for token in stream:
        if token:
            text.append(token)
        else:
            whole.append(tuple(text))
            text = []
    lost = Counter(map(tuple, texts)) - Counter(whole)
    assert lost.total() <= (total % length == 1), "a document whose EOS was left out"
    assert not Counter(whole) - Counter(map(tuple, texts))
    assert blocks == pack([[*text, 0] for text in texts], length, seed)


def test_documents_end_in_one_eos_however_they_are_written(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model")
    rows = [{"text": "ab"}, {"text": "ab<eos>"}] + [{"text": "c"}] * 300
    context = Context(seed=0, convention="think_answer", work=tmp_path)
    found = [ids for _, ids in documents(rows, tmp_path / "model", context)]
    assert found[0] == found[1]
    assert len(found[0]) == 3
    assert found[0][-1] == 0
    assert len(found) == 302
    orders = {tuple(token for b in pack([[1, 0], [2, 0], [3, 0]], 6, seed) for token in b.input_ids) for seed in
              range(20)}  # fmt: skip
    assert len(orders) > 3, "the seed draws the order of the documents"


@given(st.integers(1, 60), st.integers(1, 60))
def test_every_stretch_holds_its_share_of_both(many: int, few: int) -> None:
    a = [Encoded([1, n], [0, 1]) for n in range(many)]
    b = [Encoded([2, n], [0, 1]) for n in range(few)]
    merged = interleave(a, b)
    assert [item for item in merged if item.input_ids[0] == 1] == a
    assert [item for item in merged if item.input_ids[0] == 2] == b
    for end in range(len(merged) + 1):
        here = sum(item.input_ids[0] == 2 for item in merged[:end])
        assert abs(here - end * few / (many + few)) <= 1


def test_text_is_mixed_in_by_its_share_and_comes_again_where_it_is_short(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model")
    context = Context(seed=0, convention="think_answer", work=tmp_path)
    rows = [{"text": letter * 15} for letter in "abcdef"]  # 96 tokens: 6 blocks of 16
    completions = [Encoded([3, n], [0, 1]) for n in range(75)]
    counts: dict[str, int] = {}
    config = Pretraining(share=0.25, length=16)
    merged = mixed(config, completions, rows, tmp_path / "model", 4096, context, counts)
    assert counts == {"blocks of text": 25, "documents of text": 6}
    blocks = [item for item in merged if item.input_ids[0] != 3 or len(item.input_ids) > 2]
    assert len(merged) == 100
    assert len(blocks) == 25
    assert {len(block.input_ids) for block in blocks} == {16}
    times = Counter(tuple(block.input_ids) for block in blocks)
    assert set(times.values()) == {4, 5}, "a second time only after a first"
    capped = mixed(Pretraining(share=0.01), completions, rows, tmp_path / "model", 8, context, {})
    assert sum(len(item.input_ids) == 8 for item in capped) == 1
    with pytest.raises(ValueError, match="pretraining_from: 0 documents hold no token to learn"):
        mixed(config, completions, [], tmp_path / "model", 4096, context, {})


def test_defaults_leave_the_fingerprints_of_sft_mix_as_they_were(tmp_path: Path) -> None:
    step = {"name": "s", "stage": "sft_mix", "init_from": "base", "data_from": "rows", "phases": PHASES}
    file = project(tmp_path, steps=[step], evaluate=None)
    config = load(file)
    from pipeline.given import HashCache
    from pipeline.store import RunStore

    plan = make_plan(config, build(config, STAGES, file), RunStore(tmp_path / "run"), HashCache(tmp_path / "hashes"))
    recipe = plan.states[-1].recipe
    assert not {"ewc", "pretraining"} & recipe["config"].keys()
    assert set(recipe["inputs"]) == {"init", "data"}


def test_the_plan_counts_blocks_of_text_and_what_is_remembered(tmp_path: Path) -> None:
    text = {"stage": "continued_pretraining", "data_from": "notes", "max_length": 100, "epochs": 3}
    mix = {"stage": "sft_mix", "data_from": "rows", "phases": [{**PHASES[0], "rows": 90}], "max_length": 64}
    steps = [
        {"name": "text", "init_from": "base", **text},
        {"name": "mix", "init_from": "base", **mix},
        {
            "name": "both",
            "init_from": "base",
            **mix,
            "pretraining": {"share": 0.1, "length": 50},
            "pretraining_from": "notes",
        },
    ]
    file = project(tmp_path, steps=steps, data=NOTES, evaluate=None)
    (tmp_path / "notes.jsonl").write_text('{"text": "a"}\n' * 40)
    config = load(file)
    nodes = {node.name: node for node in build(config, STAGES, file)}
    workloads = Workloads(config, list(nodes.values()), Assumptions(mean_tokens=30))
    found = {name: workloads.of(nodes[name]).training for name in ("text", "mix", "both")}
    assert all(found.values())
    shown = {name: (t.sequences, t.mean, t.longest) for name, t in found.items() if t}
    assert shown["text"] == (pytest.approx(40 * 30 / 100 * 3), 100, 100)
    assert shown["mix"] == (90, 30, 64)
    assert shown["both"] == (pytest.approx(100), pytest.approx(0.9 * 30 + 0.1 * 50), 64)


def corpus(folder: Path, name: str, first: int, count: int) -> None:
    """Case notes of a made-up ward, as one might have them."""
    drugs = ("talin", "moxar", "berol")
    lines = [
        {"text": f"bed {n % 7}: fever {37 + n % 4}. give {drugs[n % 3]} {n % 5 + 1} times. bed {n % 7} is stable."}
        for n in range(first, first + count)
    ]
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def loss_on(checkpoint: Path, rows: Path) -> float:
    """Nats a token of the documents, each by itself."""
    from stages.training.models import load_policy, load_tokenizer

    model, tokenizer = load_policy(checkpoint).eval(), load_tokenizer(checkpoint)
    total, tokens = 0.0, 0
    for line in rows.read_text().splitlines():
        ids_1T = torch.tensor([tokenizer(json.loads(line)["text"])["input_ids"] + [tokenizer.eos_token_id]])
        with torch.inference_mode():
            logprobs = torch.log_softmax(model(input_ids=ids_1T).logits[0, :-1], dim=-1)
        total -= logprobs.gather(-1, ids_1T[0, 1:, None]).sum().item()
        tokens += ids_1T.shape[1] - 1
    return total / tokens


@pytest.mark.slow
def test_a_domain_is_learned_from_text_and_then_fine_tuned_on(tmp_path: Path) -> None:
    corpus(tmp_path, "notes.jsonl", 0, 120)
    corpus(tmp_path, "held_out.jsonl", 1000, 20)
    base = Path("data/tiny/base").resolve()
    tree = {
        "models": {"base": {"path": str(base), "evaluate": False}},
        "data": {
            "notes": {"source": "text", "path": "notes.jsonl", "domain": "medicine"},
            "chains": {"source": "tiny", "split": "cold_start", "rows": 24},
        },
        "launch": {"threads": 1},
        "steps": [
            {
                "name": "domain",
                "stage": "continued_pretraining",
                "init_from": "base",
                "data_from": "notes",
                "learning_rate": 1e-3,
                "batch_size": 4,
                "max_length": 128,
                "early_stopping": {"every": 5, "share": 0.1},
            },
            {
                "name": "tuned",
                "stage": "sft_mix",
                "init_from": "domain",
                "data_from": "chains",
                "phases": [{"name": "all", "weights": {"math": 1}}],
                "pretraining": {"share": 0.3, "length": 64},
                "pretraining_from": "notes",
                "batch_size": 4,
            },
        ],
    }
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(tree))
    run(tmp_path / "a.yaml", tmp_path / "run")
    domain, tuned = (artifact(tmp_path / "run", name) for name in ("domain", "tuned"))
    before, after = (loss_on(path, tmp_path / "held_out.jsonl") for path in (base, domain))
    assert after < 0.6 * before
    assert loss_on(tuned, tmp_path / "held_out.jsonl") < 0.6 * before, "what was fine-tuned starts from it"
    record = json.loads((domain / "record.json").read_text())
    assert record["counts"]["documents"] == 120
    assert record["contract"]["convention"] is None, "text teaches no layout of answers"
    assert record["counts"]["tokens"] - record["counts"]["tokens_learned"] == record["counts"]["sequences"]
    assert record["metrics"]["held_out_loss"]["value"] < before
    counts = json.loads((tuned / "record.json").read_text())["counts"]
    assert counts["blocks of text"] == round(counts["rows in all: math"] * 3 / 7)
    assert not said(tmp_path / "run")


def test_early_stopping_wants_two_texts(tmp_path: Path) -> None:
    from stages.continued_pretraining import CONTINUED_PRETRAINING, ContinuedPretrainingConfig
    from stages.training.early_stopping import EarlyStopping

    save_checkpoint(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl", [{"id": "a", "text": "a b", "domain": "x", "language": "en"}] * 2)
    inputs = {
        "init": [Artifact(kind=Kind.MODEL, path=tmp_path / "model", fingerprint="m")],
        "data": [Artifact(kind=Kind.DATASET, path=tmp_path, fingerprint="d")],
    }
    context = Context(seed=0, convention="think_answer", work=tmp_path)
    config = ContinuedPretrainingConfig(early_stopping=EarlyStopping())
    with pytest.raises(ValueError, match="early_stopping: one text is too few to train and to hold some out"):
        CONTINUED_PRETRAINING.run(config, inputs, tmp_path / "out", context)
