"""The sampling loop against `generate`, and what it promises about groups, batches and random numbers."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from stages.rollout.batching import batches
from stages.rollout.engine import ENGINES, Sampling, open_engine
from stages.rollout.prompts import prompt_ids
from stages.rollout.sampler import draw, uniforms
from stages.rollout.transformers_engine import TransformersEngine, end_tokens, token_logprobs
from tests.tiny_model import build_model, build_tokenizer, one_thread, save_checkpoint  # noqa: F401

BASE = Path(__file__).resolve().parents[1] / "data/tiny/base"
PROMPTS = [
    [{"role": "user", "content": text}] for text in ("1+1=", "what is 12*3? think.", "hi", "9-4=", "a b c d e f")
]


def make_engine(family="qwen2", **settings):
    return TransformersEngine(build_model(family), build_tokenizer(), **settings)


@pytest.mark.parametrize("family", ["qwen2", "llama", "gpt2", "mistral"])
def test_greedy_equals_generate_token_for_token(family):
    engine = make_engine(family)
    ours = engine.generate(PROMPTS, Sampling(max_tokens=60, temperature=0))
    lengths = set()
    for prompt, [completion] in zip(PROMPTS, ours, strict=True):
        ids = torch.tensor([prompt_ids(engine.tokenizer, prompt)])
        theirs = engine.model.generate(ids, max_new_tokens=60, do_sample=False)[0, ids.shape[1] :].tolist()
        assert completion.token_ids == theirs
        lengths.add(len(theirs))
    assert len(lengths) > 1 or family != "qwen2"  # compaction is exercised only where lengths differ


@pytest.mark.skipif(not (BASE / "model.safetensors").exists(), reason="data/tiny/base has not been made")
def test_greedy_equals_generate_on_the_embedded_base():
    from data.tiny.world import rows

    engine = TransformersEngine.from_checkpoint(BASE)
    prompts = [row["prompt"] for row in rows("rl", 6, seed=3)]
    lengths = set()
    for prompt, [completion] in zip(
        prompts, engine.generate(prompts, Sampling(max_tokens=64, temperature=0)), strict=True
    ):
        ids = torch.tensor([prompt_ids(engine.tokenizer, prompt)])
        theirs = engine.model.generate(ids, max_new_tokens=64, do_sample=False, eos_token_id=list(engine.eos))
        assert completion.token_ids == theirs[0, ids.shape[1] :].tolist()
        lengths.add(len(completion.token_ids))
    assert len(lengths) > 1


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "mistral"])
def test_tokens_do_not_depend_on_batching(family):
    sampling = Sampling(max_tokens=50, n=4, temperature=0.8, seed=7)
    whole = make_engine(family).generate(PROMPTS, sampling)
    single = make_engine(family, batch_tokens=1).generate(PROMPTS, sampling)
    assert [[c.token_ids for c in group] for group in whole] == [[c.token_ids for c in group] for group in single]
    assert len({len(c.token_ids) for group in whole for c in group}) > 3


def test_the_global_random_state_is_neither_read_nor_written():
    engine, sampling = make_engine(), Sampling(max_tokens=20, n=2, seed=1)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = engine.generate(PROMPTS, sampling)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert engine.generate(PROMPTS, sampling) == first


def test_seeds_and_samples_differ():
    engine = make_engine()
    one = engine.generate(PROMPTS[:1], Sampling(max_tokens=20, n=8, seed=1))[0]
    two = engine.generate(PROMPTS[:1], Sampling(max_tokens=20, n=8, seed=2))[0]
    assert len({c.text for c in one}) > 4
    assert [c.text for c in one] != [c.text for c in two]


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_logprobs_are_those_of_the_tempered_model(temperature):
    engine = make_engine()
    for prompt, group in zip(
        PROMPTS, engine.generate(PROMPTS, Sampling(max_tokens=30, n=3, temperature=temperature)), strict=True
    ):
        ids = prompt_ids(engine.tokenizer, prompt)
        for completion in group:
            sequence = torch.tensor([ids + completion.token_ids])
            with torch.no_grad():
                logits = engine.model(sequence).logits[0, len(ids) - 1 : -1] / (temperature or 1.0)
            expected = logits.log_softmax(-1).gather(-1, sequence[0, len(ids) :, None]).squeeze(-1)
            torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=1e-4)


def test_samples_follow_the_distribution():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).expand(20000, 4)
    uniform = uniforms(seed=0, prompt=0, n=20000, steps=1)[:, 0]
    for sampling, kept in [
        (Sampling(), [0, 1, 2, 3]),
        (Sampling(temperature=2.0), [0, 1, 2, 3]),
        (Sampling(top_k=2), [0, 1]),
        (Sampling(top_p=0.9), [0, 1, 2]),  # 0.64 + 0.24 < 0.9
        (Sampling(top_p=0.5), [0]),
    ]:
        tokens, logprobs = draw(logits, uniform, sampling)
        full = (logits[0] / sampling.temperature).softmax(-1)
        expected = torch.zeros(4)
        expected[kept] = full[kept] / full[kept].sum()
        assert ((tokens.bincount(minlength=4) / 20000) - expected).abs().max() < 0.012
        torch.testing.assert_close(logprobs, full.log()[tokens])


def test_the_largest_uniform_number_never_picks_an_impossible_token():
    logits = torch.full((1, 1000), -50.0)
    logits[0, :3] = torch.tensor([0.1, 0.2, 0.3])
    tokens, _ = draw(logits, torch.tensor([1 - 2**-22]), Sampling(top_k=3))
    assert tokens.item() == 2


def test_finished_means_that_an_end_token_came():
    engine = make_engine()
    for group in engine.generate(PROMPTS, Sampling(max_tokens=12, n=6)):
        for completion in group:
            assert completion.finished == (completion.token_ids[-1] in engine.eos)
            assert completion.finished or len(completion.token_ids) == 12
            assert not set(completion.token_ids[:-1]) & set(engine.eos)
            assert len(completion.logprobs) == len(completion.token_ids)


def test_stop_texts_end_a_completion_and_stay_out_of_it():
    engine = make_engine()
    free = engine.generate(PROMPTS, Sampling(max_tokens=40, n=4))
    stopped = engine.generate(PROMPTS, Sampling(max_tokens=40, n=4, stop=("e", "7")))
    cut = 0
    for before, after in zip(itertools.chain(*free), itertools.chain(*stopped), strict=True):
        assert "e" not in after.text
        assert "7" not in after.text
        assert before.text.startswith(after.text)
        assert len(after.logprobs) == len(after.token_ids)
        if after.text != before.text:
            cut += 1
            assert after.finished
            assert set(engine.tokenizer.decode(after.token_ids[-1:])) & {"e", "7"}
    assert cut


def test_tags_survive_decoding():
    engine = make_engine()
    ids = engine.tokenizer("<think>1</think>")["input_ids"]
    assert engine.tokenizer.decode(ids, skip_special_tokens=True) == "<think>1</think>"


def test_prompts_are_templated_prefilled_once_and_continued():
    tokenizer = build_tokenizer()
    decode = tokenizer.decode
    assert decode(prompt_ids(tokenizer, PROMPTS[0])) == "user: 1+1=\nassistant: "
    assert decode(prompt_ids(tokenizer, PROMPTS[0], "<think>\n")) == "user: 1+1=\nassistant: <think>\n"
    tokenizer.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    assert decode(prompt_ids(tokenizer, PROMPTS[0], "<think>\n")) == "user: 1+1=\nassistant: <think>\n"
    begun = [*PROMPTS[0], {"role": "assistant", "content": "it is"}]
    assert decode(prompt_ids(tokenizer, begun)) == "user: 1+1=\nassistant: it is"
    assert prompt_ids(tokenizer, [3, 4, 5]) == [3, 4, 5]
    with pytest.raises(ValueError, match="empty"):
        prompt_ids(tokenizer, [])


def test_batches_keep_the_budget_and_lose_nothing():
    prompts = [[1] * length for length in (3, 50, 10, 7, 30)]
    sampling = Sampling(max_tokens=10, n=5)
    made = batches(prompts, sampling, budget=90)
    seen = {(u.prompt, u.first + k) for units in made for u in units for k in range(u.count)}
    assert seen == {(p, k) for p in range(5) for k in range(5)}
    for units in made:
        used = sum((len(u.ids) + 10) * u.count for u in units)
        assert used <= 90 or sum(u.count for u in units) == 1
    assert len(batches(prompts, sampling, budget=10**6)) == 1


def test_training_mode_comes_back():
    engine = make_engine()
    engine.model.train()
    engine.generate(PROMPTS[:1], Sampling(max_tokens=2))
    assert engine.model.training


def test_score_is_the_log_probability_of_each_next_token():
    engine = make_engine()
    [scores] = engine.score([[3, 7, 20, 11]])
    with torch.no_grad():
        logits = engine.model(torch.tensor([[3, 7, 20, 11]])).logits[0].log_softmax(-1)
    assert scores == pytest.approx([float(logits[0, 7]), float(logits[1, 20]), float(logits[2, 11])], abs=1e-5)
    assert token_logprobs(engine.model, [3]) == []


def test_sync_takes_over_the_weights():
    engine, newer = make_engine(), build_model(seed=1)
    before = engine.score([[3, 4, 5]])
    engine.sync(engine.model)
    assert engine.score([[3, 4, 5]]) == before
    engine.sync(newer)
    assert engine.score([[3, 4, 5]])[0] == token_logprobs(newer, [3, 4, 5]) != before[0]


def test_an_encoder_decoder_model_samples_through_generate():
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=1
    )
    model = T5ForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = [0, 5, 9]
    engine = TransformersEngine(model, tokenizer)
    groups = engine.generate(PROMPTS, Sampling(max_tokens=12, n=3, seed=5))
    assert groups == engine.generate(PROMPTS, Sampling(max_tokens=12, n=3, seed=5))
    for group in groups:
        assert len(group) == 3
        for completion in group:
            assert 1 <= len(completion.token_ids) == len(completion.logprobs) <= 12
            assert all(math.isfinite(p) and p <= 0 for p in completion.logprobs)
    [[greedy]] = engine.generate(PROMPTS[:1], Sampling(max_tokens=12, temperature=0))
    assert [[greedy]] == engine.generate(PROMPTS[:1], Sampling(max_tokens=12, temperature=0, seed=9))


@pytest.mark.parametrize(
    "wrong", [{"max_tokens": 0}, {"n": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}]
)
def test_impossible_sampling_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_a_model_without_an_end_is_refused():
    model, tokenizer = build_model(), build_tokenizer()
    model.generation_config.eos_token_id = None
    assert end_tokens(model, tokenizer) == (0,)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="end-of-sequence"):
        end_tokens(model, tokenizer)


def test_engines_open_by_name(tmp_path):
    checkpoint = save_checkpoint(tmp_path / "model")
    done = []
    with open_engine("transformers", checkpoint, progress=done.append) as engine:
        groups = engine.generate(PROMPTS, Sampling(max_tokens=5, n=2))
    assert [len(g) for g in groups] == [2] * 5
    assert sum(done) == 10
    with (
        pytest.raises(ValueError, match="unknown engine 'transformer'; did you mean 'transformers'"),
        open_engine("transformer", checkpoint),
    ):
        pass
    with pytest.raises(ValueError, match=f"known: {', '.join(ENGINES)}"), open_engine("zzz", checkpoint):
        pass
