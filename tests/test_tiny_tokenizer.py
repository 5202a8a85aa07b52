"""The tokenizer and checkpoints that ship with the embedded world."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.template import CONVENTIONS
from data.tiny.tokenizer import EOS, PAD, SPECIAL, TAGS
from data.tiny.world import rows

TINY = Path(__file__).parent.parent / "data" / "tiny"


@cache
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY / "base")


def test_base_and_student_have_one_tokenizer() -> None:
    for name in ("tokenizer.json", "chat_template.jinja", "tokenizer_config.json"):
        assert (TINY / "base" / name).read_bytes() == (TINY / "student" / name).read_bytes()


def test_tags_are_single_ordinary_tokens_that_survive_skipping_special_ones() -> None:
    for tag in TAGS:
        ids = tokenizer()(tag)["input_ids"]
        assert len(ids) == 1
        assert ids[0] not in tokenizer().all_special_ids
    for convention in ("think_answer", "zh"):
        for row in rows("cold_start", 100, convention=convention):
            text = row["completion"][0]["content"]
            ids = tokenizer()(text + EOS)["input_ids"]
            decoded = tokenizer().decode(ids, skip_special_tokens=True)
            assert decoded == text
            assert CONVENTIONS[convention].parse(decoded).well_formed


def test_special_tokens_are_special_and_padding_is_not_the_end() -> None:
    assert set(tokenizer().all_special_tokens) == set(SPECIAL)
    assert (tokenizer().eos_token, tokenizer().pad_token) == (EOS, PAD)
    assert tokenizer().decode(tokenizer()("".join(SPECIAL))["input_ids"], skip_special_tokens=True) == ""
    for name in ("base", "student"):
        generation = json.loads((TINY / name / "generation_config.json").read_text())
        assert generation["eos_token_id"] == tokenizer().eos_token_id
        assert generation["pad_token_id"] == tokenizer().pad_token_id


@given(st.integers(min_value=0, max_value=10**12), st.sampled_from(["", " ", "=", "个", "x"]))
@settings(max_examples=50, deadline=None)
def test_every_digit_is_a_token(number: int, before: str) -> None:
    pieces = tokenizer().convert_ids_to_tokens(tokenizer()(f"{before}{number}")["input_ids"])
    assert pieces[-len(str(number)) :] == list(str(number))


@given(st.text(max_size=80))
@settings(max_examples=150, deadline=None)
def test_text_in_normal_form_comes_back_as_it_was(text: str) -> None:
    import unicodedata

    wanted = unicodedata.normalize("NFC", text)
    assert tokenizer().decode(tokenizer()(wanted)["input_ids"]) == wanted


def test_the_chat_template_puts_the_reply_behind_the_generation_prompt() -> None:
    user = {"role": "user", "content": "1 + 1?"}
    prompt = tokenizer().apply_chat_template([user], add_generation_prompt=True, tokenize=False)
    assert prompt == "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    whole = tokenizer().apply_chat_template([user, {"role": "assistant", "content": "2"}], tokenize=False)
    assert whole == prompt + "2<|im_end|>\n"
    system = tokenizer().apply_chat_template([{"role": "system", "content": "Be kind."}, user], tokenize=False)
    assert system.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n")


def test_completions_are_short() -> None:
    lengths = sorted(len(tokenizer()(row["completion"][0]["content"])["input_ids"]) for row in rows("cold_start", 500))
    assert 30 < lengths[250] < 70
    assert lengths[-1] < 192


@pytest.mark.parametrize(("name", "largest"), [("base", 1_000_000), ("student", 550_000)])
def test_checkpoints_are_small_and_load(name: str, largest: int) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    assert sum(file.stat().st_size for file in (TINY / name).iterdir()) < 4 * 2**20
    model = AutoModelForCausalLM.from_pretrained(TINY / name)
    assert model.dtype == torch.bfloat16
    assert largest / 2 < model.num_parameters() <= largest
    assert model.config.vocab_size == len(tokenizer())
    assert model.config.tie_word_embeddings


def test_the_script_makes_the_same_tokenizer_again(tmp_path: Path) -> None:
    from data.tiny.pretrain import make_tokenizer

    make_tokenizer().save_pretrained(tmp_path)
    made, kept = (json.loads((folder / "tokenizer.json").read_text()) for folder in (tmp_path, TINY / "base"))
    assert made["model"] == kept["model"]
    assert made["added_tokens"] == kept["added_tokens"]


def test_pretraining_writes_a_loadable_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from data.tiny.pretrain import main

    main(["--model", "student", "--tokens", "4096", "--out", str(tmp_path)])
    assert "523,776 parameters" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "student")) == len(tokenizer())
