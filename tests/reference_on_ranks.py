"""What test_reference_on_ranks.py runs on each rank: `python -m tests.reference_on_ranks FOLDER`, under
`accelerate launch` with a model that is shared out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from stages.ranks import leave
from stages.training.adapter_options import LoRA, PrefixTuning
from stages.training.options import ReinforcementConfig
from stages.training.resume import sharding
from tests.tiny_grpo import build, config

KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "adapters": {"lora": LoRA(rank=2)},
    "prefix": {"prefix_tuning": PrefixTuning(tokens=3), "learning_rate": 0.3},
}
STEPS, RESET, RESUMED = 6, 3, 4


def kinds(shared: bool) -> list[str]:
    """Those that train where a model is `shared` out, or where each rank has a copy."""
    return [kind for kind in KINDS if not (shared and kind == "prefix")]


def keys(kind: str) -> ReinforcementConfig:
    """The reference is replaced after the third step; the checkpoint after the fourth holds the new one."""
    return config(
        beta=0.3,
        reference_reset_steps=RESET,
        steps=STEPS,
        updates_per_generation=1,
        prompts_per_step=4,
        **{"learning_rate": 1e-2, **KINDS[kind]},
    )


def run(folder: Path, kind: str, processes: int, resume: bool) -> dict[str, Any]:
    """The KL that was logged at each step, and what the reference is in the end, in figures."""
    trainer = build(folder, keys(kind), drift=0.0, processes=processes)
    checkpoint = folder / "trainer" / f"checkpoint-{RESUMED}"
    trainer.train(resume_from_checkpoint=str(checkpoint) if resume else None)
    return {
        "kl": [line["kl"] for line in trainer.state.log_history if "kl" in line],
        "reference": {name: [float(w.sum()), float(w.norm())] for name, w in trainer.reference_state().items()},
    }


def main() -> None:
    import torch

    torch.set_num_threads(1)
    folder, rank, ranks = Path(sys.argv[1]), os.environ["RANK"], int(os.environ["WORLD_SIZE"])
    found = {
        kind: [run(folder / kind, kind, ranks, resume) for resume in (False, True)] for kind in kinds(sharding() != "")
    }
    (folder / f"rank{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    leave()


if __name__ == "__main__":
    main()
