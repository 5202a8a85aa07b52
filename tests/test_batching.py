"""Micro-batches that skip and bucket give the gradient of stock TRL."""

from pathlib import Path

import pytest
import torch

from stages.training.batching import SKIP, micro_batches


def batch(rows=12, prompt=5, completion=7, seed=0):
    chance = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, completion + 1, (rows,), generator=chance)
    prompts = torch.randint(1, prompt + 1, (rows,), generator=chance)
    advantages = torch.randn(rows, generator=chance)
    advantages[::3] = 0.0
    return {
        "prompt_ids": torch.arange(rows)[:, None].expand(rows, prompt).clone(),
        "prompt_mask": (torch.arange(prompt)[None] >= prompt - prompts[:, None]).long(),
        "completion_ids": torch.arange(rows)[:, None].expand(rows, completion).clone(),
        "completion_mask": (torch.arange(completion)[None] < lengths[:, None]).long(),
        "advantages": advantages,
        "old_per_token_logps": torch.randn(rows, completion, generator=chance),
        "num_items_in_batch": lengths.sum(),
        "texts": [str(i) for i in range(rows)],
    }


@pytest.mark.parametrize("updates", [1, 2])
def test_every_row_is_dealt_once_and_its_columns_stay_together(updates):
    whole = batch()
    parts = micro_batches(whole, updates, 12 // updates // 2, by_length=True, skip=True)
    assert len(parts) == 6
    rows = [int(i) for part in parts for i in part["prompt_ids"][:, 0]]
    assert sorted(rows) == list(range(12))
    for part in parts:
        for k, row in enumerate(part["prompt_ids"][:, 0].tolist()):
            assert part["advantages"][k] == whole["advantages"][row]
            assert part["texts"][k] == str(row)
            length = int(whole["completion_mask"][row].sum())
            assert int(part["completion_mask"][k].sum()) == length
            assert torch.equal(part["old_per_token_logps"][k][:length], whole["old_per_token_logps"][row][:length])
            assert int(part["prompt_mask"][k].sum()) == int(whole["prompt_mask"][row].sum())
        assert part["num_items_in_batch"] == whole["num_items_in_batch"]


def test_padding_shared_by_a_whole_micro_batch_is_cut_off():
    for part in micro_batches(batch(), 1, 4, by_length=True, skip=False):
        assert part["completion_mask"][:, -1].any()
        assert part["prompt_mask"][:, 0].any()
        assert part["old_per_token_logps"].shape == part["completion_mask"].shape


def test_rows_without_gradient_are_gathered_first_and_marked():
    parts = micro_batches(batch(), 1, 6, by_length=True, skip=True)
    assert [part[SKIP] for part in parts] == [True, True, False, False, False, False]
    assert all((part["advantages"] == 0).all() == part[SKIP] for part in parts)
    assert not any(part[SKIP] for part in micro_batches(batch(), 1, 6, by_length=True, skip=False))


def test_a_micro_batch_of_masked_completions_keeps_one_column():
    whole = batch()
    whole["completion_mask"][:] = 0
    assert all(part["completion_mask"].shape[1] == 1 for part in micro_batches(whole, 1, 3, by_length=True, skip=False))


def _gradients(tmp_path, loss_type, stock=False):
    """Gradients of one optimiser step on a fixed batch of completions and rewards."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from data.tiny.world import rows
    from stages.training.grpo_trainer import ReasoningTrainer
    from stages.training.models import load_policy, load_tokenizer
    from stages.training.options import ReinforcementConfig

    base = Path("data/tiny/base")
    tokenizer = load_tokenizer(base)
    prompts = [row["prompt"] for row in rows("rl", 8)]
    written = {repr(p): [f"{'12 + 7 = 19 ' * (1 + (i + k) % 5)}{k}" for k in range(4)] for i, p in enumerate(prompts)}

    class Fixed:
        """Completions of different lengths, the same in both trainers; every third group is paid alike."""

        def _generate_single_turn(self, prompt_ids, *_):
            texts = [t for p in self.asked[::4] for t in written[repr(p)]]
            return [[*tokenizer(t)["input_ids"], tokenizer.eos_token_id] for t in texts], None

        def _generate(self, prompts):
            self.asked = prompts
            return super()._generate(prompts)

    def reward(prompts, completions, **_):
        paid = []
        for prompt, completion in zip(prompts, completions, strict=True):
            number = list(written).index(repr(prompt))
            paid.append(1.0 if number % 3 == 0 else float(completion[0]["content"][-1] in "02"))
        return paid

    kind = type("Stock", (Fixed, GRPOTrainer), {}) if stock else type("Ours", (Fixed, ReasoningTrainer), {})
    arguments = GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        gradient_accumulation_steps=4,
        num_generations=4,
        max_completion_length=48,
        max_steps=1,
        beta=0.0,
        loss_type=loss_type,
        max_grad_norm=1e9,
        report_to="none",
        use_cpu=True,
        seed=1,
        gradient_checkpointing=False,
    )
    extra = {} if stock else {"options": ReinforcementConfig(prompts_per_step=8, num_generations=4, beta=0.0)}
    model = load_policy(base).double()  # in single precision, the order of sums hides small gradients
    trainer = kind(
        model=model,
        reward_funcs=[reward],
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
        **extra,
    )
    found = {}

    def keep(*_, **__):
        found.update({n: p.grad.clone() for n, p in model.named_parameters()})

    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(keep)
    trainer.train()
    return found, trainer


@pytest.mark.slow
@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_skipping_and_bucketing_leave_the_gradient_of_stock_trl(tmp_path, loss_type):
    stock, _ = _gradients(tmp_path, loss_type, stock=True)
    ours, trainer = _gradients(tmp_path, loss_type)
    assert trainer.state.log_history[0]["skipped_micro_batches"] == 0.25
    assert max(float(g.abs().max()) for g in stock.values()) > 1e-3
    assert stock.keys() == ours.keys()
    for name, gradient in stock.items():
        assert float((gradient - ours[name]).norm() / gradient.norm()) < 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("off", ["skip_without_gradient", "length_bucketing"])
def test_each_of_the_two_can_be_turned_off_and_changes_no_gradient(tmp_path, off):
    from tests.tiny_grpo import config, furthest, train

    keys = {"prompts_per_step": 12, "updates_per_generation": 1, "steps": 1}
    both, on = train(tmp_path, config(**keys))
    one, without = train(tmp_path, config(**keys, **{off: False}))
    assert furthest(one, both) < 1e-5
    if off == "skip_without_gradient":
        skipped = [trainer.state.log_history[0]["skipped_micro_batches"] for trainer in (on, without)]
        assert skipped == [0.25, 0]
    else:
        assert padding(without) > padding(on)


def padding(trainer):
    """Completion positions of the last round that hold no token."""
    return sum(int((1 - micro["completion_mask"]).sum()) for micro in trainer._buffered_inputs)
