"""Partial freezing, layer-wise learning rates, and the order of supervised batches."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from stages.training.encode import Encoded
from stages.training.groups import freeze, layer_of, parameter_groups
from stages.training.models import load_policy
from stages.training.options import Freeze, LayerRates, TrainingConfig
from stages.training.sft import in_batches, repeat, repeat_order

BASE = Path("data/tiny/base")


def test_layers_are_found_in_the_names_of_common_architectures():
    assert layer_of("model.layers.11.mlp.up_proj.weight") == 11
    assert layer_of("transformer.h.3.attn.c_attn.weight") == 3
    assert layer_of("bert.encoder.layer.7.output.dense.bias") == 7
    assert layer_of("model.embed_tokens.weight") is None
    assert layer_of("model.norm.weight") is None


def test_freezing_stops_embeddings_first_layers_and_named_parameters():
    model = load_policy(BASE)
    frozen = freeze(model, Freeze(embeddings=True, layers=2, names=(r"layers\.3\.mlp",)))
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert frozen == sum(p.numel() for n, p in model.named_parameters() if n not in learning) > 0
    assert not any("embed" in n or "layers.0." in n or "layers.1." in n or "layers.3.mlp" in n for n in learning)
    assert any("layers.2." in n for n in learning)
    assert any("layers.3.self_attn" in n for n in learning)


def test_freezing_refuses_patterns_that_match_nothing_and_models_with_nothing_left():
    with pytest.raises(ValueError, match=r"no parameter matches 'decoder\.blocks'"):
        freeze(load_policy(BASE), Freeze(names=("decoder.blocks",)))
    with pytest.raises(ValueError, match="every parameter of the model is frozen"):
        freeze(load_policy(BASE), Freeze(names=(".",)))


def test_layer_wise_rates_fall_from_the_top_and_decay_spares_vectors():
    model = load_policy(BASE)
    depth = model.config.num_hidden_layers
    config = TrainingConfig(learning_rate=1e-4, weight_decay=0.1, layer_rates=LayerRates(decay=0.5))
    groups = parameter_groups(model, config)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    named = dict(model.named_parameters())
    assert len(rate) == len(named)
    for name, parameter in named.items():
        layer = layer_of(name)
        below = depth - 1 - layer if layer is not None else (depth if "embed" in name else 0)
        assert rate[id(parameter)] == pytest.approx(1e-4 * 0.5**below)
        assert decay[id(parameter)] == (0.1 if parameter.ndim > 1 else 0.0)


def test_explicit_rates_go_to_the_first_group_that_matches():
    model = load_policy(BASE)
    groups = ({"names": r"layers\.[01]\.", "rate": 1e-5}, {"names": "mlp", "rate": 3e-5})
    config = TrainingConfig(learning_rate=1e-4, layer_rates={"groups": groups})
    rate = {id(p): group["lr"] for group in parameter_groups(model, config) for p in group["params"]}
    named = dict(model.named_parameters())
    assert len(rate) == len(named)
    for name, parameter in named.items():
        low = layer_of(name) in (0, 1)
        assert rate[id(parameter)] == (1e-5 if low else 3e-5 if "mlp" in name else 1e-4), name
    assert {1e-5, 3e-5, 1e-4} == set(rate.values())


def test_a_group_that_matches_nothing_is_refused():
    config = TrainingConfig(learning_rate=1e-4, layer_rates={"groups": [{"names": "decoder.block", "rate": 1e-5}]})
    with pytest.raises(ValueError, match=r"layer_rates\.groups: no parameter that learns matches 'decoder\.block'"):
        parameter_groups(load_policy(BASE), config)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"layer_rates": {}}, "layer_rates takes decay or groups, one of the two"),
        ({"layer_rates": {"decay": 0.5, "groups": [{"names": "x", "rate": 1}]}}, "decay or groups, one of the two"),
        ({"layer_rates": {"groups": [{"names": "(", "rate": 1}]}}, r"'\(' is no regular expression: missing \)"),
        ({"freeze": {"names": ["*"]}}, r"'\*' is no regular expression: nothing to repeat"),
    ],
)
def test_rates_and_patterns_that_cannot_be(keys, said):
    with pytest.raises(ValidationError, match=said):
        TrainingConfig(learning_rate=1e-4, **keys)


def _items(lengths):
    return [Encoded([i] * n, [1] * n) for i, n in enumerate(lengths)]


def test_batches_hold_every_item_once_with_like_lengths_and_the_short_batch_last():
    items = _items([(i * 37) % 50 + 1 for i in range(203)])
    ordered = in_batches(items, 8, seed=1)
    assert sorted(x.input_ids[0] for x in ordered) == list(range(203))
    spreads = [
        max(len(x.input_ids) for x in ordered[i : i + 8]) - min(len(x.input_ids) for x in ordered[i : i + 8])
        for i in range(0, 200, 8)
    ]
    assert max(spreads) <= 4
    assert ordered == in_batches(items, 8, seed=1)
    assert ordered != in_batches(items, 8, seed=2)
    widths = [len(ordered[i].input_ids) for i in range(0, 200, 8)]
    assert widths != sorted(widths)


@pytest.mark.parametrize(("epochs", "expected"), [(1.0, 10), (2.5, 25), (0.3, 3)])
def test_epochs_may_be_fractions(epochs, expected):
    items = _items([1] * 10)
    assert len(repeat(items, epochs, 4, seed=0)) == expected
    assert len(repeat_order(10, epochs, seed=0)) == expected
