"""A trainer's weights as a checkpoint names them: tied matrices twice, adapters merged and taken out again."""

from __future__ import annotations

import pytest
import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, get_peft_model

from stages.rollout.transformers_engine import TransformersEngine
from stages.rollout.weights import checkpoint_weights, gathered_weights
from tests.tiny_model import build_model, build_tokenizer, one_thread  # noqa: F401

IDS = torch.tensor([[3, 17, 20, 4, 9, 30]])

VECTORS = IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])


def adapted(kind=None, **options):
    kind = kind or LoraConfig(**{"r": 4, "target_modules": "all-linear", **options})
    model = get_peft_model(build_model(), kind)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def test_a_plain_model_gives_its_state():
    model = build_model()
    with checkpoint_weights(model) as weights:
        assert {name for name, _ in weights} == set(model.state_dict())


@pytest.mark.parametrize(
    "options",
    [{}, {"modules_to_save": ["lm_head"]}, {"use_dora": True}, {"kind": VECTORS}],
    ids=["lora", "saved", "dora", "ia3"],
)
def test_adapters_are_merged_under_the_names_of_the_plain_model(options):
    model, plain = adapted(**options), build_model(seed=5)
    with checkpoint_weights(model) as weights:
        plain.load_state_dict(dict(weights))  # strict: every name, and no other
    with torch.inference_mode():
        assert torch.allclose(plain(IDS).logits, model(IDS).logits, atol=1e-4)
        assert not torch.allclose(plain(IDS).logits, build_model()(IDS).logits, atol=1e-1)


@pytest.mark.parametrize(
    "options",
    [{}, {"modules_to_save": ["lm_head"]}, {"use_rslora": True}, {"target_modules": ["embed_tokens", "q_proj"]}],
)
def test_a_gathered_state_is_merged_as_a_whole_model_is(options):
    """The state alone counts: the model that is shared out has only parts of its weights."""
    model = adapted(**options)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with checkpoint_weights(model) as weights:
        wanted = {name: tensor.clone() for name, tensor in weights}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    found = gathered_weights(model, state)
    assert found.keys() == wanted.keys() - set(build_model().all_tied_weights_keys)
    for name, tensor in found.items():
        assert torch.allclose(tensor, wanted[name], atol=1e-6), name


def test_a_gathered_state_without_adapters_has_a_tied_matrix_once():
    model = build_model()
    found = gathered_weights(model, model.state_dict())
    assert set(model.state_dict()) - set(found) == set(model.all_tied_weights_keys)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"kind": VECTORS}], ids=["lora", "dora", "ia3"])
def test_the_trainer_keeps_its_weights_to_the_last_bit(options, recwarn):
    model = adapted(**options)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for _ in range(3):
        with checkpoint_weights(model):
            pass
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module.merged for module in model.modules() if hasattr(module, "base_layer"))
    assert not [warning for warning in recwarn if "merge" in str(warning.message)]


def test_an_engine_follows_a_model_with_adapters():
    model = adapted()
    engine = TransformersEngine(build_model(), build_tokenizer())
    engine.sync(model)
    with torch.inference_mode():
        assert torch.allclose(engine.model(IDS).logits, model(IDS).logits, atol=1e-4)


def test_what_cannot_be_merged_is_refused():
    model = get_peft_model(build_model(), PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match="PREFIX_TUNING cannot be merged"), checkpoint_weights(model):
        pass
    for other in (model, adapted(use_dora=True), adapted(VECTORS)):
        with pytest.raises(ValueError, match="of adapters, plain LoRA alone is saved from a model that is shared out"):
            gathered_weights(other, other.state_dict())
