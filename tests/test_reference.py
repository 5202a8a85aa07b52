"""The KL reference is replaced by the policy at the steps that are asked for, exactly, adapters included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from stages.training.adapter_options import IA3, LoRA, PrefixTuning
from stages.training.kl import KLTier
from tests.tiny_grpo import config, train
from tests.tiny_model import one_thread  # noqa: F401

pytestmark = pytest.mark.slow


class Watch(TrainerCallback):
    """Keeps policy and reference as they are after every step."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.policy: list[dict[str, torch.Tensor]] = []
        self.reference: list[dict[str, torch.Tensor]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.look()

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if len(self.policy) <= state.global_step:
            self.look()

    def look(self) -> None:
        from peft import PeftModel, get_peft_model_state_dict

        if isinstance(self.trainer.model, PeftModel):
            policy: Any = get_peft_model_state_dict(self.trainer.model, adapter_name="default")
        else:
            policy = self.trainer.model.state_dict()
        self.policy.append({name: value.clone() for name, value in policy.items()})
        reference = self.trainer.reference_state()
        self.reference.append({_as_peft_saves(name): value.clone() for name, value in reference.items()})


def _as_peft_saves(name: str) -> str:
    """The magnitudes of DoRA lose the end of their names, and a prefix has none but peft's own."""
    if name.startswith("prompt_encoder"):
        return "prompt_embeddings"
    return name.removesuffix(".weight") if "magnitude" in name else name


def watched(folder: Path, monkeypatch: pytest.MonkeyPatch, **keys: Any) -> tuple[Watch, Any]:
    from stages.training.reference import ReferenceTrainer

    watch = Watch()
    begin = ReferenceTrainer.__init__

    def known(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        watch.trainer = self

    monkeypatch.setattr(ReferenceTrainer, "__init__", known)
    _, trainer = train(folder, config(reference_reset_steps=2, steps=5, **keys), callbacks=[watch])
    return watch, trainer


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


TIERS = (KLTier(domains=("math",), beta=0.2, target=0.01),)
KINDS = {
    "full": {"beta": 0.3},
    "tiers": {"beta": 0.0, "kl_tiers": TIERS},
    "adapters": {"beta": 0.3, "lora": LoRA(rank=2)},
    "dora": {"beta": 0.3, "lora": LoRA(rank=2, dora=True)},
    "ia3": {"beta": 0.3, "ia3": IA3()},
    "prefix": {"beta": 0.3, "prefix_tuning": PrefixTuning(tokens=3)},
    "adapters and tiers": {"beta": 0.1, "lora": LoRA(rank=2), "kl_tiers": TIERS},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_is_the_policy_of_the_last_reset_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    watch, trainer = watched(tmp_path, monkeypatch, **KINDS[kind])
    start, policy, reference = watch.reference[0], watch.policy, watch.reference
    assert len(policy) == 6
    assert not same(policy[1], policy[2])
    assert same(reference[1], start)
    for step, reset in ((2, 2), (3, 2), (4, 4), (5, 4)):
        assert same(reference[step], policy[reset]), step
    # The first update of a round, right after a reset, is made by the policy that is the reference.
    kl = [line["kl"] for line in trainer.state.log_history[:5]]
    assert kl[2] == pytest.approx(0, abs=1e-12)
    assert kl[3] > 1e-4


@pytest.mark.parametrize("kind", ["full", "adapters"])
def test_a_resumed_run_has_the_reference_of_the_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    keys = config(reference_reset_steps=3, steps=6, updates_per_generation=1, prompts_per_step=3, **KINDS[kind])
    whole, first = train(tmp_path, keys)
    checkpoint = tmp_path / "trainer" / "checkpoint-4"
    rest, second = train(tmp_path, keys, resume=str(checkpoint))
    assert len(rest) == 2
    assert all(same(one, other) for one, other in zip(whole[4:], rest, strict=True))
    assert same(first.reference_state(), second.reference_state())
    assert same(dict(first.model.named_parameters()), dict(second.model.named_parameters()))


def test_adapters_merge_without_those_of_the_reference(tmp_path: Path) -> None:
    keys = config(reference_reset_steps=2, steps=3, beta=0.3, lora=LoRA(rank=2))
    _, trainer = train(tmp_path, keys)
    ids = torch.tensor([[5, 6, 7, 8]])
    trainer.model.eval()
    expected = trainer.model(ids).logits
    merged = trainer.model.merge_and_unload()
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]
    torch.testing.assert_close(merged(ids).logits, expected)
