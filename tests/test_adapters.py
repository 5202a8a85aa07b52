"""Ways to train few parameters: what learns, how much of it there is, and that the weights which are saved are it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from data.artifact import ROWS_NAME, Artifact, Kind
from data.records import write_rows
from data.tiny.world import rows
from pipeline.adapters import adapter_numbers
from pipeline.architecture import read_config
from pipeline.config import load
from pipeline.graph import build
from pipeline.preflight import preflight
from stages import STAGES
from stages.cold_start import COLD_START, ColdStartConfig
from stages.reasoning_rl import ReasoningRLConfig
from stages.stage import Context, Outcome, Placement
from stages.training.adapter_options import IA3, AnyAdapters, LoRA
from stages.training.adapting import adapter
from stages.training.groups import count_parameters, parameter_groups
from stages.training.models import load_policy
from stages.training.options import TrainingConfig
from tests.test_stage_checks import one_step
from tests.tiny_grpo import config as grpo_config
from tests.tiny_grpo import train
from tests.tiny_model import build_model, one_thread  # noqa: F401

BASE = Artifact(kind=Kind.MODEL, path=Path("data/tiny/base"), fingerprint="base", name="base")
IDS = torch.tensor([[5, 6, 7, 8, 20, 30, 11]])
METHODS: dict[str, dict[str, Any]] = {
    "dora": {"lora": {"rank": 2, "dora": True}},
    "rslora": {"lora": {"rank": 2, "rslora": True, "alpha": 8}},
    "ia3": {"ia3": {}},
}


def learn(folder: Path, stage: Any = COLD_START, config: Any = None, name: str = "cold_start", **keys: Any) -> Outcome:
    """Train on few rows in `folder`."""
    for part in ("data", "out", "work"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    write_rows(folder / "data" / ROWS_NAME, rows(name, 16))
    data = Artifact(kind=Kind.DATASET, path=folder / "data", fingerprint="rows", name="rows")
    context = Context(seed=3, convention="think_answer", work=folder / "work", placement=Placement(threads=1))
    config = config or ColdStartConfig(**{"learning_rate": 1e-2, "batch_size": 8, "epochs": 2, **keys})
    return stage.run(config, {"init": [BASE], "data": [data]}, folder / "out", context)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_what_is_saved_is_the_adapted_model_and_nothing_else_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from stages.training import models

    seen: dict[str, Any] = {}
    save = models.save_trained

    def watched(trainer: Any, *args: Any) -> None:
        adapted = trainer.model.eval()
        with torch.inference_mode():
            seen["logits"] = adapted(IDS).logits
        seen["learns"] = {name for name, p in adapted.named_parameters() if p.requires_grad}
        seen["below"] = {
            name.removeprefix("base_model.model.").replace(".base_layer", ""): value.clone()
            for name, value in adapted.state_dict().items()
            if adapted.prefix not in name
        }
        save(trainer, *args)

    monkeypatch.setattr(models, "save_trained", watched)
    outcome = learn(tmp_path, **METHODS[method])
    base, made = load_policy(BASE.path).eval(), load_policy(tmp_path / "out").eval()
    with torch.inference_mode():
        torch.testing.assert_close(made(IDS).logits, seen["logits"], atol=1e-4, rtol=1e-4)
        assert (made(IDS).logits - base(IDS).logits).abs().max() > 0.1
    assert seen["learns"]
    assert all("lora_" in name or "ia3_l" in name for name in seen["learns"])
    assert all(torch.equal(value, seen["below"][name]) for name, value in base.state_dict().items())
    kind = ColdStartConfig(**METHODS[method]).adapters
    trained = adapter_numbers(read_config(BASE.path / "config.json"), kind)
    assert outcome.counts["parameters_trained"] == trained
    assert outcome.counts["parameters_frozen"] == count_parameters(base)["parameters_trained"]
    assert trained < 0.04 * outcome.counts["parameters_frozen"]


def test_full_fine_tuning_trains_every_parameter(tmp_path: Path) -> None:
    counts = learn(tmp_path, epochs=0.5).counts
    whole = sum(p.numel() for p in load_policy(BASE.path).parameters())
    assert (counts["parameters_trained"], counts["parameters_frozen"]) == (whole, 0)


@pytest.mark.parametrize(
    ("kind", "places"),
    [(LoRA(rank=4), 14), (LoRA(rank=4, dora=True), 14), (IA3(), 6)],
    ids=["lora", "dora", "ia3"],
)
def test_the_plan_counts_the_adapters_that_peft_makes(tmp_path: Path, kind: AnyAdapters, places: int) -> None:
    from peft import get_peft_model

    model = build_model()
    model.save_pretrained(tmp_path)
    adapted = get_peft_model(model, adapter(kind, model))
    assert sum(hasattr(module, "base_layer") for module in adapted.modules()) == places
    expected = adapter_numbers(read_config(tmp_path / "config.json"), kind)
    assert count_parameters(adapted)["parameters_trained"] == expected
    assert adapter_numbers(read_config(tmp_path / "config.json"), None) == 0


def test_the_scale_of_rslora_falls_with_the_root_of_the_rank() -> None:
    from peft import get_peft_model

    def scale(**keys: Any) -> float:
        model = build_model()
        model = get_peft_model(model, adapter(LoRA(rank=16, alpha=32, **keys), model))
        return next(m.scaling["default"] for m in model.modules() if hasattr(m, "lora_A"))

    assert scale() == 2
    assert scale(rslora=True) == 8


def test_vectors_of_ia3_begin_as_the_identity_and_do_not_decay() -> None:
    from peft import get_peft_model

    plain = build_model()
    with torch.inference_mode():
        before = plain(IDS).logits
        adapted = get_peft_model(plain, adapter(IA3(), plain))
        assert torch.equal(adapted(IDS).logits, before)
    config = TrainingConfig(learning_rate=1e-3, weight_decay=0.1, ia3=IA3())
    assert [group["weight_decay"] for group in parameter_groups(adapted, config)] == [0.0]
    shapes = {n.split(".")[-3]: tuple(p.shape) for n, p in adapted.named_parameters() if p.requires_grad}
    assert shapes == {"k_proj": (16, 1), "v_proj": (16, 1), "down_proj": (1, 64)}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_reinforcement_moves_adapters_alone_and_its_reference_is_the_base(tmp_path: Path, method: str) -> None:
    keys = grpo_config(beta=0.3, steps=2, learning_rate=0.05, **METHODS[method])
    gradients, trainer = train(tmp_path, keys)
    assert all("lora_" in name or "ia3_l" in name for step in gradients for name in step)
    log = [line["kl"] for line in trainer.state.log_history[:2]]
    assert log[0] == pytest.approx(0, abs=1e-9)
    assert log[1] > 1e-5
    trainer.model.eval()
    adapted = trainer.model(IDS).logits
    merged = trainer.model.merge_and_unload()
    torch.testing.assert_close(merged(IDS).logits, adapted)


def refusal(folder: Path, stage: str = "cold_start", **keys: Any) -> str:
    """The one line that a run of this step ends with before it begins."""
    file = one_step(folder, stage, **keys)

    def begin() -> None:
        config = load(file)
        preflight(config, build(config, STAGES, file))

    with pytest.raises(ValueError, match=r"steps\.s") as raised:
        begin()
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"lora": {}, "ia3": {}}, "steps.s: lora and ia3 are both ways to train few parameters; leave one of them out"),
        ({"ia3": {}, "freeze": {"layers": 1}}, "steps.s: freeze has no effect with ia3, whose adapters are all"),
        ({"ia3": {"feedforward_modules": ["up_proj"]}}, "ia3.feedforward_modules: 'up_proj' is not among target_mod"),
        ({"ia3": {"target_modules": [], "feedforward_modules": []}}, "ia3.target_modules names no layer"),
        ({"lora": {"doar": True}}, "steps.s: lora: unknown key 'doar'; did you mean 'dora'?"),
        (
            {"lora": {"dora": True}, "launch": {"zero": 2}},
            "steps.s: lora.dora cannot be merged into a model that is shared out (ZeRO-2); train on copies, or with",
        ),
        ({"ia3": {}, "launch": {"accelerate_config": "fsdp2"}}, "steps.s: ia3 cannot be merged into a model that is"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    assert said in refusal(tmp_path, **keys)


@pytest.mark.parametrize("launch", [{"zero": 2}, {"accelerate_config": "fsdp2"}])
def test_plain_lora_may_be_shared_out(tmp_path: Path, launch: dict[str, Any]) -> None:
    file = one_step(tmp_path, "cold_start", lora={"rslora": True}, launch=launch)
    config = load(file)
    preflight(config, build(config, STAGES, file))


def test_keys_that_came_later_leave_what_was_made_before_alone() -> None:
    def hashed(**keys: Any) -> dict[str, Any]:
        return TrainingConfig(learning_rate=1e-4, **keys).model_dump(mode="json")

    plain = hashed()
    assert "ia3" not in plain
    for kind in (ColdStartConfig, ReasoningRLConfig):
        assert "bottleneck" not in kind().model_dump(mode="json")
    assert plain["lora"] is None
    before = {"rank": 4, "alpha": 32.0, "dropout": 0.0, "target_modules": "all-linear"}
    assert hashed(lora={"rank": 4})["lora"] == hashed(lora={"rank": 4, "dora": False})["lora"] == before
    assert hashed(lora={"rank": 4, "dora": True})["lora"] == {**before, "dora": True}
    assert set(hashed(ia3={})["ia3"]) == {"target_modules", "feedforward_modules"}


def test_a_rank_of_nothing_is_no_rank() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        LoRA(rank=0)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            LoRA(target_modules=("q_proj", "v_porj")),
            r"lora\.target_modules: .* no module 'v_porj'; did you mean 'v_proj'",
        ),
        (LoRA(target_modules=("proj",)), r"lora\.target_modules: .* no module 'proj'; did you mean"),
        (
            IA3(target_modules=("k_proj", "wo"), feedforward_modules=()),
            r"ia3\.target_modules: .* no module 'wo'; known: ",
        ),
    ],
)
def test_a_target_that_the_model_does_not_have_is_refused_also_beside_others(kind: AnyAdapters, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        adapter(kind, build_model())


@pytest.mark.parametrize(
    "targets", ["all-linear", r".*\.q_proj", ("q_proj",), ("layers.0.self_attn.q_proj", "up_proj")]
)
def test_targets_that_peft_finds_are_not_refused(targets: Any) -> None:
    from peft import get_peft_model

    model = build_model()
    adapted = get_peft_model(model, adapter(LoRA(rank=2, target_modules=targets), model))
    assert any("lora_A" in name for name, _ in adapted.named_parameters())
