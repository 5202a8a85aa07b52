"""What is learned of a row: the completion, its last label EOS, nothing of the prompt or of a prefilled tag."""

from pathlib import Path

import pytest

from data.tiny.world import rows
from stages.training.encode import encode, encode_rows, prompt_ids
from stages.training.models import load_tokenizer, visible_prefill

BASE = Path("data/tiny/base")


@pytest.mark.parametrize("convention", ["think_answer", "zh"])
def test_only_the_completion_is_learned_and_it_ends_with_eos(convention):
    tokenizer = load_tokenizer(BASE)
    for row in rows("cold_start", 20, convention=convention):
        encoded = encode(row["prompt"], row["completion"], tokenizer)
        learned = [i for i, m in zip(encoded.input_ids, encoded.completion_mask, strict=True) if m]
        assert learned[-1] == tokenizer.eos_token_id
        assert learned.count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(learned[:-1]) == row["completion"][0]["content"]
        split = encoded.completion_mask.index(1)
        assert encoded.completion_mask == [0] * split + [1] * (len(encoded.input_ids) - split)
        assert encoded.input_ids[:split] == prompt_ids(row["prompt"], tokenizer)


def test_prefilled_tag_belongs_to_the_prompt_and_stays_visible_to_rewards():
    plain, prefilled = load_tokenizer(BASE), load_tokenizer(BASE, prefill="<think>\n")
    assert visible_prefill(plain, "<think>") == ""
    assert visible_prefill(prefilled, "<think>") == "<think>\n"
    assert visible_prefill(prefilled, "") == ""
    row = next(rows("cold_start", 1))
    encoded = encode(row["prompt"], row["completion"], prefilled, "<think>\n")
    learned = [i for i, m in zip(encoded.input_ids, encoded.completion_mask, strict=True) if m]
    assert not prefilled.decode(learned).startswith("<think>")
    assert prefilled.decode(encoded.input_ids).count("<think>") == 1
    # The sequence as a whole is the one that a template without prefill gives.
    assert prefilled.decode(encoded.input_ids) == plain.decode(
        encode(row["prompt"], row["completion"], plain).input_ids
    )


def test_a_prefill_is_added_once_even_if_the_checkpoint_already_has_it(tmp_path):
    load_tokenizer(BASE, prefill="<think>\n").save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path, prefill="<think>\n")
    text = again.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True)
    assert text.count("<think>") == 1


def test_rows_that_cannot_be_learned_are_counted_by_reason():
    tokenizer = load_tokenizer(BASE)
    sample = list(rows("cold_start", 3))
    bare = {key: value for key, value in sample[0].items() if key != "completion"}
    encoded, counts = encode_rows([bare, *sample], tokenizer, max_length=8)
    assert encoded == []
    assert counts == {"rows_used": 0, "unusable: no completion": 1, "unusable: longer than 8 tokens": 3}


def test_the_most_counts_usable_rows():
    tokenizer = load_tokenizer(BASE)
    sample = list(rows("cold_start", 4))
    bare = {key: value for key, value in sample[0].items() if key != "completion"}
    pairs, counts = encode_rows([bare, *sample], tokenizer, max_length=4096, most=2)
    assert [row for row, _ in pairs] == sample[:2]
    assert counts == {"rows_used": 2, "unusable: no completion": 1}


def test_conversation_with_earlier_turns_learns_only_the_last():
    tokenizer = load_tokenizer(BASE)
    turns = [{"role": "assistant", "content": "7"}, {"role": "user", "content": "sure?"}]
    encoded = encode([{"role": "user", "content": "3+4"}], [*turns, {"role": "assistant", "content": "yes"}], tokenizer)
    learned = [i for i, m in zip(encoded.input_ids, encoded.completion_mask, strict=True) if m]
    assert tokenizer.decode(learned, skip_special_tokens=True) == "yes"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chat_template": None}, "no chat template"),
        ({"eos_token": None}, "no EOS token"),
        ({"pad_token": "<|im_end|>"}, "must exist and differ from EOS"),
    ],
)
def test_a_checkpoint_that_could_not_learn_to_stop_is_refused(tmp_path, change, message):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    for name, value in change.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)
