"""Memory on paper: DeepSpeed's own estimators agree, and it moves the right way when a setting does."""

from __future__ import annotations

import importlib
import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.architecture import KNOWN, known, read_config
from pipeline.memory import layer_bytes, passes, states
from pipeline.setting import Setting
from pipeline.sharding import Sharding

BASE = Path(__file__).resolve().parent.parent / "data" / "tiny" / "base"
SEVEN = known("Qwen/Qwen2.5-7B")
ENGINES = [
    Sharding(engine="ddp"),
    *(Sharding(engine="deepspeed", stage=stage) for stage in (0, 1, 2, 3)),
    Sharding(engine="deepspeed", stage=3, offload_optimiser=True),
    Sharding(engine="deepspeed", stage=3, offload_optimiser=True, offload_weights=True),
    Sharding(engine="fsdp", stage=3),
]


def setting(**changed: object) -> Setting:
    return replace(
        Setting(sizes=SEVEN, trainable=SEVEN.parameters, mixed=True, processes=8, sharding=ENGINES[1]),
        **changed,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("gpus", [1, 2, 8, 64])
@pytest.mark.parametrize("offload", [False, True])
def test_deepspeeds_estimator_agrees_on_zero_2(gpus: int, offload: bool) -> None:
    pytest.importorskip("deepspeed")
    module = importlib.import_module("deepspeed.runtime.zero.stage_1_and_2")
    host, device = module.estimate_zero2_model_states_mem_needs(
        SEVEN.parameters, num_gpus_per_node=gpus, cpu_offload=offload, additional_buffer_factor=1
    )
    ours = states(setting(processes=gpus, sharding=Sharding(engine="deepspeed", stage=2, offload_optimiser=offload)))
    if offload:
        # Theirs leaves out the half gradients that wait on the GPU to be moved, and has fp32 ones on every process.
        assert ours.weights == device
        assert ours.host == pytest.approx(16 * SEVEN.parameters / gpus)
        assert host >= ours.host
    else:
        assert ours.weights + ours.gradients + ours.optimiser == pytest.approx(device, rel=1e-6)


@pytest.mark.parametrize("gpus", [1, 2, 8, 64])
@pytest.mark.parametrize(("optimiser", "weights"), [(False, False), (True, False), (True, True)])
def test_deepspeeds_estimator_agrees_on_zero_3(gpus: int, optimiser: bool, weights: bool) -> None:
    pytest.importorskip("deepspeed")
    module = importlib.import_module("deepspeed.runtime.zero.stage3")
    host, device, largest = module.estimate_zero3_model_states_mem_needs(
        SEVEN.parameters,
        SEVEN.embedding,
        num_gpus_per_node=gpus,
        cpu_offload=optimiser,
        cpu_offload_params=weights,
        zero_init=True,
        additional_buffer_factor=1,
    )
    sharding = Sharding(engine="deepspeed", stage=3, offload_optimiser=optimiser, offload_weights=weights)
    ours = states(setting(processes=gpus, sharding=sharding))
    half_gradients = 2 * SEVEN.parameters / gpus
    if not optimiser:
        assert ours.weights + ours.gradients + ours.optimiser == pytest.approx(device - largest, rel=1e-6)
    else:
        # Theirs counts them on the host where the weights are, ours on the GPU, where the backward pass makes them.
        assert ours.gradients == pytest.approx(half_gradients)
        assert ours.weights == pytest.approx(device - largest, rel=1e-6, abs=1)
        assert ours.host * gpus == pytest.approx(host, rel=1e-6)


def test_deepspeed_counts_the_models_parameters_alike() -> None:
    """The estimators that take a model count what `parameters` says."""
    pytest.importorskip("deepspeed")
    from transformers import AutoModelForCausalLM

    module = importlib.import_module("deepspeed.runtime.zero.stage3")
    sizes = read_config(BASE)
    model = AutoModelForCausalLM.from_pretrained(BASE)
    assert module.model_to_params(model) == (sizes.parameters, sizes.embedding)


def test_zero_1_shares_out_the_optimiser_only() -> None:
    none, one, two = (states(setting(sharding=Sharding(engine="deepspeed", stage=s))) for s in (0, 1, 2))
    assert one.weights == none.weights == two.weights
    assert one.optimiser == none.optimiser / 8 == two.optimiser
    assert none.gradients > one.gradients > two.gradients


def test_bytes_of_one_parameter() -> None:
    """fp32 masters in each case: the only copy under autocast, beside half weights under DeepSpeed."""
    alone = states(setting(processes=1, sharding=Sharding()))
    assert (alone.weights + alone.gradients + alone.optimiser) / SEVEN.parameters == 16
    zero = states(setting(processes=1, sharding=Sharding(engine="deepspeed", stage=0)))
    assert (zero.weights + zero.gradients + zero.optimiser) / SEVEN.parameters == 20
    fsdp = states(setting(sharding=Sharding(engine="fsdp", stage=3)))
    assert (fsdp.weights + fsdp.gradients + fsdp.optimiser) / SEVEN.parameters == 16 / 8
    single = states(setting(mixed=False, processes=1, sharding=Sharding(engine="deepspeed", stage=0)))
    assert (single.weights + single.gradients + single.optimiser) / SEVEN.parameters == 20


def test_adapters_need_little_reference_and_optimiser() -> None:
    adapters = SEVEN.adapted * 16
    lora = states(setting(trainable=adapters, adapters=adapters, reference=True))
    full = states(setting(reference=True))
    assert lora.reference < full.reference / 100
    assert lora.optimiser < full.optimiser / 100


SETTINGS = st.builds(
    Setting,
    sizes=st.sampled_from(sorted(KNOWN)).map(known),
    trainable=st.integers(10**6, 10**9),
    sharding=st.sampled_from(ENGINES),
    processes=st.sampled_from([1, 2, 4, 8, 16, 64]),
    mixed=st.booleans(),
    checkpointing=st.booleans(),
    sequences=st.integers(1, 16),
    length=st.integers(16, 32768),
    eager=st.booleans(),
    head=st.booleans(),
    reference=st.booleans(),
)


def total(s: Setting) -> float:
    made = passes(s)
    return states(s).total + made.activations + made.logits


@given(SETTINGS.filter(lambda s: s.processes > 1))
def test_more_processes_never_need_more_memory_each(s: Setting) -> None:
    assert states(replace(s, processes=2 * s.processes)).total <= states(s).total
    lasting = states(s)
    half = states(replace(s, processes=2 * s.processes))
    assert half.weights <= lasting.weights
    assert half.gradients <= lasting.gradients
    assert half.optimiser <= lasting.optimiser


@given(SETTINGS)
def test_more_or_longer_sequences_never_need_less_memory(s: Setting) -> None:
    assert total(replace(s, sequences=s.sequences + 1)) >= total(s)
    assert total(replace(s, length=s.length + 1)) >= total(s)


@given(SETTINGS)
def test_checkpointing_never_needs_more_between_the_passes(s: Setting) -> None:
    on, off = (passes(replace(s, checkpointing=c)) for c in (True, False))
    # A layer is made again beside the stored streams: with few layers that may cost a little, never much.
    assert on.activations + on.logits <= off.activations + off.logits + 2 * layer_bytes(s)


@given(SETTINGS)
def test_sharding_further_never_needs_more_on_the_accelerator(s: Setting) -> None:
    stages = [replace(s, sharding=Sharding(engine="deepspeed", stage=stage)) for stage in (0, 1, 2, 3)]
    made = [states(stage) for stage in stages]
    for less, more in itertools.pairwise(made):
        assert more.total - more.buffers <= less.total - less.buffers
    offloaded = states(replace(s, sharding=Sharding(engine="deepspeed", stage=3, offload_optimiser=True)))
    assert offloaded.total <= made[3].total
    assert offloaded.host > 0


@given(SETTINGS.filter(lambda s: not s.eager))  # eager attention keeps its softmax in fp32, and a half copy
def test_half_precision_never_needs_more_activations(s: Setting) -> None:
    away = replace(s, sharding=Sharding(engine="deepspeed", stage=3))
    assert layer_bytes(replace(away, mixed=True)) <= layer_bytes(replace(away, mixed=False))
