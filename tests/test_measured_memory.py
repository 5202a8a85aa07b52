"""What the plan says of memory, against what real steps on the embedded model allocate: within 20 %, on a CPU to the
byte and repeatable, on a GPU by the allocator's own peak.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data.artifact import ROWS_NAME, Artifact, Kind
from data.records import write_rows
from data.tiny.world import rows
from pipeline.architecture import read_config
from pipeline.config import load
from pipeline.estimate import Estimate
from pipeline.estimates import Hardware, plan
from pipeline.graph import build
from pipeline.hardware import GPUS
from pipeline.memory import passes, states
from pipeline.setting import Setting, module_numbers
from pipeline.workload import Assumptions, Drawing, Workload
from stages import STAGES
from stages.stage import Context
from tests.live_memory import LiveMemory
from tests.tiny_model import one_thread

__all__ = ["one_thread"]

pytestmark = [pytest.mark.slow, pytest.mark.pair]

BASE = Path(__file__).resolve().parent.parent / "data" / "tiny" / "base"
TOLERANCE = 0.2

STEPS = {
    "cold_start": "{data_from: rows, batch_size: 64, micro_batch_size: 64}",
    "reasoning_rl": "{data_from: rows, prompts_per_step: 16, num_generations: 8, micro_batch_size: 128, steps: 2, "
    "max_completion_tokens: 64, beta: 0.01}",
    "preference_model": "{data_from: rows, batch_size: 64, micro_batch_size: 64}",
}
SPLITS = {"cold_start": "cold_start", "reasoning_rl": "rl", "preference_model": "preference"}


def configuration(folder: Path, stage: str, launch: str) -> Path:
    step = STEPS[stage].removesuffix("}")
    file = folder / "run.yaml"
    file.write_text(
        f"sandbox: weak\nmodels: {{base: {{path: {BASE}}}}}\n"
        f"data: {{rows: {{source: tiny, split: {SPLITS[stage]}, rows: 160}}}}\n"
        f"launch: {launch}\nsteps:\n  - {step}, name: step, stage: {stage}, init_from: base}}\n",
        encoding="utf-8",
    )
    return file


def longest_sequence(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Widths of the batches that the model is given in training, filled while it runs."""
    from transformers import Qwen2Model

    widths: list[int] = []
    forward = Qwen2Model.forward

    def watched(self: Any, input_ids: Any = None, **rest: Any) -> Any:
        if torch.is_grad_enabled():
            widths.append(input_ids.shape[1])
        return forward(self, input_ids=input_ids, **rest)

    monkeypatch.setattr(Qwen2Model, "forward", watched)
    return widths


def run_step(folder: Path, stage: str, launch: str) -> None:
    """The stage's own `run`, with TRL's trainer and AdamW."""
    file = configuration(folder, stage, launch)
    config = load(file)
    node = next(node for node in build(config, STAGES, file) if node.name == "step")
    data = folder / "data"
    data.mkdir()
    write_rows(data / ROWS_NAME, rows(SPLITS[stage], 160))
    out, work = folder / "out", folder / "work"
    out.mkdir()
    work.mkdir()
    context = Context(
        seed=0, convention="think_answer", work=work, sandbox="weak", placement=node.launch.placement(folder)
    )
    inputs = {
        "init": [Artifact(kind=Kind.MODEL, path=BASE, fingerprint="base", name="base")],
        "data": [Artifact(kind=Kind.DATASET, path=data, fingerprint="rows", name="rows")],
    }
    node.stage.run(node.config, inputs, out, context)


def predicted(folder: Path, longest: int, gpu: str) -> Estimate:
    """The plan of the same configuration, told how long its sequences are."""
    file = folder / "run.yaml"
    config = load(file)
    assumptions = Assumptions(longest_tokens=longest, prompt_tokens=max(1, longest - 64))
    made = plan(config, build(config, STAGES, file), Hardware(gpu=GPUS[gpu]), assumptions, {})
    step = next(step for step in made.steps if step.name == "step")
    assert step.setting is not None
    return replace(step, setting=replace(step.setting, length=longest))


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("stage", STEPS)
def test_a_training_step_allocates_what_the_plan_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, checkpointing: bool
) -> None:
    widths = longest_sequence(monkeypatch)
    launch = f"{{threads: 1, reward_workers: 1, gradient_checkpointing: {str(checkpointing).lower()}}}"
    with LiveMemory() as memory:
        run_step(tmp_path, stage, launch)
    step = predicted(tmp_path, max(widths), "cpu")
    assert step.total == pytest.approx(memory.peak, rel=TOLERANCE)
    assert step.moments["training"]["activations"] > 10 * step.moments["training"]["weights"] or checkpointing


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("stage", STEPS)
def test_a_training_step_on_a_gpu_allocates_what_the_plan_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, checkpointing: bool, precision: str
) -> None:
    widths = longest_sequence(monkeypatch)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    on = str(checkpointing).lower()
    run_step(tmp_path, stage, f"{{reward_workers: 1, mixed_precision: {precision}, gradient_checkpointing: {on}}}")
    peak = torch.cuda.max_memory_allocated() - before
    assert predicted(tmp_path, max(widths), "h100").total == pytest.approx(peak, rel=TOLERANCE)


SHAPES = [(8, 192), (1, 640), (32, 48)]


def measured(setting: Setting, **options: Any) -> tuple[float, float]:
    """(bytes at the peak, bytes kept between forward and backward) of the second of two accumulated passes."""
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    from stages.training.mtp import MTP
    from stages.training.mtp_heads import attach, predict_ahead

    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32, **options)
    model.train()
    if setting.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if setting.ahead:
        attach(model, MTP(depth=setting.ahead), 0)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1") if setting.ahead else ("log_probs",))
    if setting.ahead:
        predict_ahead(model)
    ids_BT = torch.full((setting.sequences, setting.length), 7)
    mask_BT = torch.ones_like(ids_BT)
    if setting.sequences > 1:
        mask_BT[0, -3:] = 0
    gc.collect()
    kept = 0
    with LiveMemory() as memory:
        for parameter in model.parameters():
            memory.count(parameter)
        for _ in range(2):
            memory.restart()
            started = memory.now
            with torch.autocast("cpu", torch.bfloat16, enabled=setting.mixed):
                if setting.ahead:
                    output = model(input_ids=ids_BT, attention_mask=mask_BT, labels=ids_BT, fused_lm_head=True)
                    loss = -output.log_probs.sum() / ids_BT.numel()
                elif setting.head:
                    loss = model(input_ids=ids_BT, attention_mask=mask_BT, labels=ids_BT, fused_lm_head=True).loss
                else:
                    loss = model.model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False)[0].mean()
            kept = memory.now - started
            loss.backward()
    return memory.peak, kept


@pytest.mark.parametrize("head", [True, False], ids=["head", "scalar"])
@pytest.mark.parametrize("mixed", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_passes_allocate_what_the_plan_says(checkpointing: bool, mixed: bool, head: bool) -> None:
    sizes = read_config(BASE)
    for sequences, length in SHAPES:
        setting = Setting(
            sizes=sizes,
            trainable=sizes.parameters,
            sequences=sequences,
            length=length,
            checkpointing=checkpointing,
            mixed=mixed,
            head=head,
            on_cpu=True,
        )
        s, made = states(setting), passes(setting)
        expected = s.weights + s.gradients + made.activations + made.logits
        peak, _ = measured(setting)
        assert expected == pytest.approx(peak, rel=TOLERANCE), (sequences, length)


@pytest.mark.parametrize("mixed", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_modules_of_multi_token_prediction_allocate_what_the_plan_says(checkpointing: bool, mixed: bool) -> None:
    sizes = read_config(BASE)
    for depth, (sequences, length) in ((1, SHAPES[0]), (3, SHAPES[1])):
        setting = Setting(
            sizes=sizes,
            trainable=sizes.parameters + depth * module_numbers(sizes),
            ahead=depth,
            sequences=sequences,
            length=length,
            checkpointing=checkpointing,
            mixed=mixed,
            on_cpu=True,
        )
        s, made = states(setting), passes(setting)
        peak, _ = measured(setting)
        expected = s.weights + s.gradients + made.activations + made.logits
        assert expected == pytest.approx(peak, rel=0.03), depth


def test_attention_that_holds_its_probabilities() -> None:
    sizes = read_config(BASE)
    setting = Setting(sizes=sizes, trainable=sizes.parameters, sequences=8, length=384, eager=True, on_cpu=True)
    s, made = states(setting), passes(setting)
    peak, _ = measured(setting, attn_implementation="eager")
    assert s.weights + s.gradients + made.activations + made.logits == pytest.approx(peak, rel=TOLERANCE)


def test_gradient_checkpointing_keeps_a_tenth_between_the_passes() -> None:
    sizes = read_config(BASE)
    setting = Setting(sizes=sizes, trainable=sizes.parameters, sequences=16, length=256, head=False, on_cpu=True)
    peak, kept = measured(setting)
    peak_recomputed, kept_recomputed = measured(replace(setting, checkpointing=True))
    assert kept_recomputed < kept / 10
    assert peak_recomputed < peak / 2
    expected = passes(replace(setting, checkpointing=True)).activations / passes(setting).activations
    assert peak_recomputed / peak == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("mixed", [False, True], ids=["fp32", "bf16"])
def test_a_sampler_allocates_what_the_plan_says(mixed: bool) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from stages.rollout.engine import Sampling
    from stages.rollout.transformers_engine import TransformersEngine

    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    engine = TransformersEngine(model, AutoTokenizer.from_pretrained(BASE))
    engine.eos = (7,)
    with torch.no_grad():
        model.lm_head.weight[7] = -model.lm_head.weight[7]  # next to never sampled: nobody leaves the batch early
    with LiveMemory() as memory, torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        for parameter in model.parameters():
            memory.count(parameter)
        engine.generate([[11 + i] * (64 - i % 3) for i in range(16)], Sampling(max_tokens=96, n=8))
    sizes = read_config(BASE)
    drawing = Drawing(source="base", sequences=1, mean=96, longest=96, prompt=64, call=128, in_trainer=True)
    step = Estimate(
        name="step",
        stage="reasoning_rl",
        model="base",
        gpu=GPUS["cpu"],
        accelerators=1,
        sampled=sizes,
        work=Workload(drawing=drawing),
        setting=Setting(sizes=sizes, trainable=sizes.parameters, mixed=mixed, on_cpu=True),
    )
    moment = step.moments["sampling"]
    assert moment["weights"] + moment["KV cache"] + moment["sampler"] == pytest.approx(memory.peak, rel=TOLERANCE)
