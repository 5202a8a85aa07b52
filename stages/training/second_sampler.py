"""A sampler with weights of its own beside a trainer: kept in step with it, and watched by a canary.

Left out on purpose: sampling with weights that are older than the trainer's (asynchronous rollouts).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.rollout.canary import Canary
from stages.rollout.engine import Engine, open_engine
from stages.rollout.options import SHARE_BESIDE_TRAINER
from stages.training.options import CanaryConfig, ReinforcementConfig

CANARY_SEQUENCES = 4
CANARY_TOKENS = 256
"""The canary's size: the first prompts with their completions, cut from the left. One forward pass each."""


class SecondSampler:
    """An engine that follows the weights of a trainer."""

    def __init__(
        self,
        engine: Engine,
        canary: CanaryConfig | None,
        *,
        leads: bool = True,
        wait: Callable[[], object] = lambda: None,
    ) -> None:
        """`leads`: whether this process sends the weights. Where processes share the engine's servers one of them
        does, and `wait` holds the others until the servers have them.
        """
        self.engine = engine
        self.options = canary
        self.leads = leads
        self.wait = wait
        self.canary: Canary | None = None
        self.step: int | None = None
        self.syncs = 0

    def sync(self, model: Any, step: int) -> bool:
        """Bring the weights of `model` to the engine, unless it has those of this step; returns whether it did."""
        if step == self.step:
            return False
        if self.leads:
            self.engine.sync(model)
        self.wait()
        self.step = step
        self.syncs += 1
        return True

    @property
    def unwatched(self) -> bool:
        """Whether a canary is asked for and has no tokens yet."""
        return self.options is not None and self.canary is None

    def watch(self, sequences: Sequence[Sequence[int]]) -> None:
        """Fix the canary's tokens: prompts with their completions."""
        assert self.options is not None
        self.canary = Canary([ids[-CANARY_TOKENS:] for ids in sequences[:CANARY_SEQUENCES]], self.options.tolerance)

    def check(self, model: Any) -> float | None:
        """The canary's gap where one is due (call it after a sync). Raises SamplerMismatch, see `Canary.check`."""
        if self.canary is None or self.options is None or (self.syncs - 1) % self.options.every:
            return None
        return self.canary.check(self.engine, model, f"step {self.step}")


@contextmanager
def second_sampler(
    config: ReinforcementConfig, checkpoint: Path, work: Path, accelerator: Any, *, fsdp: bool = False
) -> Iterator[SecondSampler | None]:
    """The sampler that `config` asks for, opened on `checkpoint`; None where the trainer's own weights sample.

    Raises ValueError where the engine cannot work with the trainer.
    """
    if not config.own_sampler:
        yield None
        return
    if fsdp:
        raise ValueError(f"engine: {config.engine} cannot take weights from FSDP; train with DeepSpeed ZeRO instead")
    shared = config.engine == "vllm_server"
    with open_engine(config.engine, checkpoint, **_settings(config, work, accelerator.num_processes)) as engine:
        if shared:
            yield SecondSampler(
                engine, config.canary, leads=accelerator.is_main_process, wait=accelerator.wait_for_everyone
            )
        else:
            yield SecondSampler(engine, config.canary)


def _settings(config: ReinforcementConfig, work: Path, processes: int) -> dict[str, Any]:
    given = {name: value for name, value in config.engine_options.items() if name != "separate"}
    match config.engine:
        case "vllm_server":
            return {"weight_sync": "disk", "weights": work / "weights", **given}
        case "vllm":
            own: dict[str, Any] = {"gpu_memory_utilization": SHARE_BESIDE_TRAINER}
            if processes > 1:  # each process has an engine, inside the group that accelerate made
                own["distributed_executor_backend"] = "external_launcher"
            return own | given
    return given
