"""Multi-token prediction: the loss by hand, what it leaves alone, and what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from pydantic import ValidationError
from trl.trainer import utils

from pipeline.config import load
from pipeline.graph import build
from stages import STAGES
from stages.cold_start import ColdStartConfig
from stages.sft_mix import SftMixConfig
from stages.training.arguments import supervised_preflight
from stages.training.groups import freeze, parameter_groups
from stages.training.lm_head import labelled_positions_only
from stages.training.models import load_policy
from stages.training.mtp import CONTRARY, MTP
from stages.training.mtp_heads import attach, detach, predict_ahead
from stages.training.options import Freeze
from tests.test_stage_checks import one_step
from tests.tiny_model import Family, build_model, one_thread  # noqa: F401

FAMILIES: list[Family] = ["qwen2", "llama", "mistral", "gpt2"]
LENGTHS, PROMPTS = (14, 9, 5), (4, 6, 4)
"""Tokens and prompt tokens of three rows; the last learns one token, which a deep module cannot see from the prompt."""


def batch() -> dict[str, torch.Tensor]:
    """Padded on the right, as TRL's collator does."""
    ids_BT = torch.randint(2, 40, (3, max(LENGTHS)), generator=torch.Generator().manual_seed(0))
    mask_BT = torch.tensor([[int(t < length) for t in range(max(LENGTHS))] for length in LENGTHS])
    labels_BT = ids_BT.masked_fill(mask_BT == 0, -100)
    for row, prompt in enumerate(PROMPTS):
        labels_BT[row, :prompt] = -100
    return {"input_ids": ids_BT.masked_fill(mask_BT == 0, 1), "attention_mask": mask_BT, "labels": labels_BT}


def prepared(family: Family, weight: float = 0.3, depth: int = 3) -> Any:
    """A random model in double precision with TRL's fused head and modules, training."""
    model = build_model(family).double()
    attach(model, MTP(depth=depth, weight=weight), seed=7)
    utils.add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    predict_ahead(model)
    return learning(model)


def learning(model: Any) -> Any:
    """In training mode, without GPT-2's dropout."""
    utils.disable_dropout_in_model(model.train())
    return model


def plain(family: Family) -> Any:
    model = build_model(family).double()
    utils.add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    return learning(model)


def by_hand(model: Any, row: dict[str, torch.Tensor], length: int) -> list[float]:
    """Summed negative log-likelihoods of one row without its padding: next token, then each module, token by token."""
    ids, labels = row["input_ids"][:length], row["labels"][:length]
    backbone = model.base_model
    hidden_1TH = backbone(input_ids=ids[None]).last_hidden_state
    positions = torch.arange(length)[None]
    extra: dict[str, Any] = {}
    if hasattr(backbone, "rotary_emb"):
        extra = {"attention_mask": None, "position_embeddings": backbone.rotary_emb(hidden_1TH, positions)}
    table = model.get_input_embeddings().weight

    def loss(states_1TH: torch.Tensor, k: int) -> float:
        total = 0.0
        for i in range(length - 1 - k):
            if labels[i + 1 + k] != -100:
                logits = model.get_output_embeddings()(states_1TH[0, i])
                total -= torch.log_softmax(logits, -1)[ids[i + 1 + k]].item()
        return total

    found = [loss(hidden_1TH, 0)]
    for k, head in enumerate(model.mtp.heads, start=1):
        rows = []
        for i in range(length - k):
            pair = [head.hidden_norm(hidden_1TH[0, i]), head.token_norm(table[ids[i + k]])]
            rows.append(head.projection.weight @ torch.cat(pair))
        if extra:
            cos, sin = extra["position_embeddings"]
            extra["position_embeddings"] = (cos[:, : len(rows)], sin[:, : len(rows)])
        hidden_1TH = head.block(torch.stack(rows)[None], **extra)
        hidden_1TH = hidden_1TH[0] if isinstance(hidden_1TH, tuple) else hidden_1TH
        found.append(loss(head.final_norm(hidden_1TH), k))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_equations_21_to_25_row_by_row_and_token_by_token(family: Family) -> None:
    model, given = prepared(family), batch()
    with torch.no_grad(), labelled_positions_only():
        output = model(**given, fused_lm_head=True)
        rows = [{name: values[r] for name, values in given.items()} for r in range(3)]
        expected = [sum(parts) for parts in zip(*map(by_hand, [model] * 3, rows, LENGTHS), strict=True)]
    assert model.mtp.sums.tolist() == pytest.approx(expected, rel=1e-6)
    main, *ahead = expected
    assert -output.log_probs.sum().item() == pytest.approx(main + 0.3 * sum(ahead) / 3, rel=1e-6)
    assert len({round(value, 3) for value in expected}) == 4, "no module repeats another"


@pytest.mark.parametrize("family", FAMILIES)
def test_weight_0_leaves_the_gradient_of_the_model_and_another_weight_does_not(family: Family) -> None:
    def gradients(model: Any) -> dict[str, torch.Tensor]:
        output = model(**batch(), fused_lm_head=True)
        (-output.log_probs.sum() / output.label_mask.sum()).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    alone, none, some = gradients(plain(family)), gradients(prepared(family, 0.0)), gradients(prepared(family))
    for name, gradient in alone.items():
        torch.testing.assert_close(none[name], gradient)
    assert any(not torch.allclose(some[name], gradient) for name, gradient in alone.items())
    ahead = {name for name in some if name not in alone}
    assert ahead == {name for name, _ in prepared(family).named_parameters() if name.startswith("mtp.")}
    assert all(some[name].abs().max() > 0 for name in ahead if not name.endswith("k_proj.bias")), "softmax ignores it"


def test_modules_change_no_figure_of_the_model_and_nothing_where_it_does_not_train() -> None:
    model, other = prepared("qwen2"), plain("qwen2")
    ours, theirs = (m(**batch(), fused_lm_head=True) for m in (model, other))
    for name in ("entropy", "is_top1", "label_mask"):
        torch.testing.assert_close(ours[name], theirs[name])
    assert ours.log_probs.shape == theirs.log_probs.shape
    ours, theirs = (m.eval()(**batch(), fused_lm_head=True) for m in (model, other))
    torch.testing.assert_close(ours.log_probs, theirs.log_probs)
    given = {name: values for name, values in batch().items() if name != "labels"}
    torch.testing.assert_close(model.train()(**given).logits, other.train()(**given).logits)
    assert not model.base_model._forward_hooks
    assert not model.base_model.layers[-1]._forward_pre_hooks


def test_only_labelled_positions_meet_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[int] = []
    apply = utils._ChunkedLogProbFunction.apply

    def seen(hidden: torch.Tensor, *arguments: Any) -> Any:
        met.append(len(hidden))
        return apply(hidden, *arguments)

    monkeypatch.setattr(utils._ChunkedLogProbFunction, "apply", seen)
    with labelled_positions_only():
        prepared("qwen2")(**batch(), fused_lm_head=True)
    assert met == [4 * (10 + 3 + 1)], "prompts are long enough for every label to be predicted by every module"


def test_gradient_checkpointing_gives_the_same_gradient() -> None:
    found = []
    for checkpointing in (False, True):
        model = prepared("llama")
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.mtp.heads[0].block.gradient_checkpointing
        (-model(**batch(), fused_lm_head=True).log_probs.sum()).backward()
        found.append([p.grad for p in model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_row_shorter_than_the_depth_is_learned_as_far_as_it_goes() -> None:
    model = prepared("qwen2", depth=5)
    given = {name: values[:, :3] for name, values in batch().items()}
    given["labels"] = given["input_ids"].masked_fill(torch.arange(3) < 2, -100)
    model(**given, fused_lm_head=True).log_probs.sum().backward()
    assert [value > 0 for value in model.mtp.sums.tolist()] == [True, True, False, False, False, False]
    assert all(p.grad is not None for p in model.parameters()), "processes wait for every parameter"


def test_modules_are_a_function_of_the_seed_and_draw_nothing_from_the_global_generator() -> None:
    def made(seed: int) -> torch.Tensor:
        model = build_model()
        before = torch.get_rng_state()
        attach(model, MTP(depth=2), seed)
        assert torch.equal(torch.get_rng_state(), before)
        assert not torch.equal(model.mtp.heads[0].projection.weight, model.mtp.heads[1].projection.weight)
        for name, parameter in model.base_model.layers[-1].named_parameters():
            assert torch.equal(model.mtp.heads[1].block.get_parameter(name), parameter)
        return model.mtp.heads[1].projection.weight

    assert torch.equal(made(1), made(1))
    assert not torch.equal(made(1), made(2))


def test_modules_learn_at_the_full_rate_also_where_the_last_layer_is_frozen() -> None:
    model = load_policy(Path("data/tiny/base"))
    freeze(model, Freeze(layers=4))
    numbers = attach(model, MTP(), 0)
    falling = {"weight_decay": 0.1, "layer_rates": {"decay": 0.5}}
    config = ColdStartConfig.model_validate({"learning_rate": 1e-4, "mtp": {}, **falling})
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, config)
    rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    ahead = {name: p for name, p in model.named_parameters() if name.startswith("mtp.")}
    assert {rates[name] for name in ahead} == {1e-4}
    assert sum(p.numel() for p in ahead.values()) == numbers
    own_rate = {"groups": [{"names": r"^mtp\.", "rate": 1e-3}]}
    grouped = ColdStartConfig.model_validate({"learning_rate": 1e-4, "mtp": {}, "layer_rates": own_rate})
    groups = parameter_groups(model, grouped)
    assert {names[id(p)] for group in groups if group["lr"] == 1e-3 for p in group["params"]} == set(ahead)


def test_what_is_left_when_they_are_taken_off_is_the_plain_model() -> None:
    model = build_model()
    names = [name for name, _ in model.named_parameters()]
    attach(model, MTP(depth=2), 0)
    assert len(list(model.parameters())) > len(names)
    detach(model)
    assert [name for name, _ in model.named_parameters()] == names


def unlike() -> Any:
    shape = {"vocab_size": 30, "hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.OPTForCausalLM(transformers.OPTConfig(**shape, word_embed_proj_dim=16))


def two_towers() -> Any:
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )


@pytest.mark.parametrize(("make", "name"), [(unlike, "OPTForCausalLM"), (two_towers, "T5ForConditionalGeneration")])
def test_an_architecture_whose_parts_are_not_known_is_refused(make: Callable[[], Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"mtp: {name} is no decoder whose layers and final norm are known; leave"):
        attach(make(), MTP(), 0)


def test_adapters_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"mtp trains whole layers beside the model.*leave adapters out"):
        ColdStartConfig.model_validate({"mtp": {}, "lora": {}})


@pytest.mark.parametrize("launch", [{"zero": 3}, {"accelerate_config": "fsdp2"}, {"deepspeed": "zero3_offload"}])
def test_a_model_that_is_shared_out_is_refused_when_the_configuration_is_read(
    tmp_path: Path, launch: dict[str, Any]
) -> None:
    key = "deepspeed" if "deepspeed" in launch else "accelerate_config"
    file = one_step(tmp_path, "cold_start", mtp={}, launch={"processes": 2, **launch})
    with pytest.raises(
        ValueError, match=rf"steps\.s: mtp takes processes that each hold the model; leave launch.{key}"
    ):
        build(load(file), STAGES, file)
    build(load(file, ["steps.s.mtp=null"]), STAGES, file)
    build(load(file, [f"steps.s.launch.{name}=null" for name in launch]), STAGES, file)


@pytest.mark.parametrize("name", sorted(CONTRARY))
def test_arguments_that_contradict_it_are_refused(name: str) -> None:
    trl = {name: 1, "adam_beta1": 0.9}
    with pytest.raises(ValueError, match=f"trl.{name} contradicts mtp; leave one of them out"):
        supervised_preflight(ColdStartConfig(mtp=MTP(), trl=trl))
    supervised_preflight(ColdStartConfig(trl=trl))


@pytest.mark.parametrize("keys", [{"depth": 0}, {"depth": 17}, {"weight": -0.1}, {"heads": 2}])
def test_values_out_of_bounds_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(keys))):
        ColdStartConfig.model_validate({"mtp": keys})


def test_a_step_without_it_keeps_its_identity() -> None:
    phases = ({"name": "all", "weights": {"math": 1}},)
    for config in (ColdStartConfig(), SftMixConfig.model_validate({"phases": phases})):
        assert "mtp" not in config.model_dump(mode="json")
        assert config.model_dump(mode="json")["early_stopping"] is None
        used = type(config).model_validate({**config.model_dump(), "mtp": {"depth": 2}})
        assert used.model_dump(mode="json")["mtp"] == {"depth": 2, "weight": 0.1}
        assert copy.deepcopy(used) == used
