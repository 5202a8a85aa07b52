"""The penalty of elastic weight consolidation inside a trainer: Fisher information, and the pull back to the start.

The Fisher information is the empirical one: squared gradients of the log-probability of the completions that the old
task's rows bring. The expectation over the model's own samples would need sampling, and tells of what the model says
instead of what it should remember; where the model fits the rows the two agree (Martens 2014, arXiv 1412.1193,
section 11). Imports torch: import it inside a stage's run().
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from stages.training.encode import Encoded
from stages.training.ewc import OldTask, refuse_sharding


def fisher_information(model: Any, items: Sequence[Encoded], precision: torch.dtype | None = None) -> list[Any]:
    """Diagonal of the empirical Fisher information of each parameter that learns, in squared nats per learned token.

    sum_n (d log p(completion_n | prompt_n) / d theta_i)^2 / (learned tokens of all n), without dropout. Processes share
    the sequences. `precision` is what the passes are computed in under autocast; None: that of the weights.
    """
    learning = [p for p in model.parameters() if p.requires_grad]
    squares = [torch.zeros_like(p, dtype=torch.float32) for p in learning]
    ranks = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank, count = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if ranks else (0, 1)
    device = learning[0].device
    was_training = model.training
    model.eval()
    bar = tqdm(items[rank::count], desc="Fisher information", unit="row", leave=False, delay=1, disable=rank > 0)
    for item in bar:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
            _log_probability(model, item, device).backward()
        for square, parameter in zip(squares, learning, strict=True):
            if parameter.grad is not None:
                square.add_(parameter.grad.float().square())
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    tokens = sum(sum(item.completion_mask[1:]) for item in items)
    for square in squares:
        if ranks:
            torch.distributed.all_reduce(square)
        square.div_(tokens)
    return squares


def _log_probability(model: Any, item: Encoded, device: torch.device) -> Any:
    """Of what is learned of one sequence, in nats: a scalar."""
    ids_1T = torch.tensor([item.input_ids], device=device)
    learned_S = torch.tensor(item.completion_mask[1:], dtype=torch.bool, device=device)
    logits_SV = model(input_ids=ids_1T, use_cache=False).logits[0, :-1].float()
    picked_S = torch.log_softmax(logits_SV, dim=-1).gather(-1, ids_1T[0, 1:, None])[:, 0]
    return picked_S[learned_S].sum()


class Anchor:
    """The start of a training, and how much each of its weights matters to the old task."""

    def __init__(self, model: Any, old: OldTask, precision: torch.dtype | None = None) -> None:
        self.weight = old.weight
        learning = [p for p in model.parameters() if p.requires_grad]
        self.terms = [
            (parameter, parameter.detach().clone(), fisher)
            for parameter, fisher in zip(learning, fisher_information(model, old.sequences, precision), strict=True)
        ]
        """Parameter, its value at the start, its Fisher information."""
        self.penalty = 0.0
        """The penalty at the last step, in nats a token."""

    def pull(self) -> None:
        """Add the gradient of the penalty, weight * F * (theta - theta*), to the gradients that are there."""
        total = torch.zeros((), device=self.terms[0][0].device)
        for parameter, start, fisher in self.terms:
            gap = parameter.detach() - start
            force = fisher * gap
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.add_(force, alpha=self.weight)
            total += (force * gap).sum()
        self.penalty = 0.5 * self.weight * total.item()


def anchored(model: Any, arguments: Any, old: OldTask | None) -> Anchor | None:
    """The anchor of a training by a trainer's `arguments`; None without an old task. Moves the model to its device.

    Raises ValueError where the model is shared out over the processes.
    """
    if old is None:
        return None
    refuse_sharding(arguments)
    return Anchor(model.to(arguments.device), old, torch.bfloat16 if arguments.bf16 else None)


class Anchored:
    """Mixin for a Hugging Face trainer: an anchor pulls once an optimiser step.

    It does so behind the backward pass of a step's last micro-batch, where gradients are summed over micro-batches and
    averaged over processes, and before they are clipped: neither cut of a batch changes what is added.
    """

    anchor: Anchor | None = None
    accelerator: Any

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if self.anchor is not None and self.accelerator.sync_gradients:
            self.anchor.pull()
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if self.anchor is not None and "loss" in logs:
            logs["ewc_penalty"] = self.anchor.penalty
        super().log(logs, *args, **kwargs)  # type: ignore[misc]
