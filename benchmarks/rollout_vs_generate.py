"""How much faster does our sampling loop write the completions of one RL step than transformers' `generate`?

    python benchmarks/rollout_vs_generate.py [--checkpoint DIR] [--prompts 32] [--group 8] [--rounds 3]

Both sides get the same checkpoint, prompts, temperature and token limit, and take turns in one process; `generate`
gets the whole round as one left-padded batch, as TRL hands it over. Tokens are counted up to and including EOS.
The figures are the fastest round of each side and their ratio of tokens per second.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def ours(engine: Any, prompts: list[list[int]], group: int, limit: int, seed: int) -> int:
    """Tokens written by our loop."""
    from stages.rollout.engine import Sampling

    made = engine.generate(prompts, Sampling(max_tokens=limit, n=group, seed=seed))
    return sum(len(completion.token_ids) for completions in made for completion in completions)


def theirs(engine: Any, prompts: list[list[int]], group: int, limit: int, seed: int) -> int:
    """Tokens written by `generate`."""
    import torch

    rows = [ids for ids in prompts for _ in range(group)]
    width = max(map(len, rows))
    pad, ends = engine.eos[0], torch.tensor(engine.eos)
    input_BT = torch.tensor([[pad] * (width - len(ids)) + ids for ids in rows])
    mask_BT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in rows])
    torch.manual_seed(seed)
    with torch.inference_mode():
        output_BT = engine.model.generate(
            input_ids=input_BT, attention_mask=mask_BT, do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
            max_new_tokens=limit, eos_token_id=list(engine.eos), pad_token_id=pad,
        )[:, width:]  # fmt: skip
    ended_BT = torch.isin(output_BT, ends)
    return int(torch.where(ended_BT.any(1), ended_BT.int().argmax(1) + 1, output_BT.shape[1]).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "data/tiny/base")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    from data.tiny.world import rows
    from stages.rollout.prompts import prompt_ids
    from stages.rollout.transformers_engine import TransformersEngine

    engine = TransformersEngine.from_checkpoint(options.checkpoint)
    prompts = [prompt_ids(engine.tokenizer, row["prompt"]) for row in rows("rl", options.prompts, seed=1)]
    sides: dict[str, Callable[..., int]] = {"ours": ours, "generate": theirs}
    best: dict[str, tuple[float, int]] = {}
    for number in range(options.rounds + 1):  # the first round warms up
        for name, side in sides.items():
            began = time.perf_counter()
            tokens = side(engine, prompts, options.group, options.max_tokens, number)
            seconds = time.perf_counter() - began
            print(f"round {number} {name:9} {tokens:6d} tokens {seconds:6.2f} s {tokens / seconds:8.0f} tokens/s")
            if number and (name not in best or tokens / seconds > best[name][1] / best[name][0]):
                best[name] = (seconds, tokens)
    speed = {name: tokens / seconds for name, (seconds, tokens) in best.items()}
    figures = {
        "ratio": round(speed["ours"] / speed["generate"], 2),
        "ours_tokens_per_second": round(speed["ours"]),
        "generate_tokens_per_second": round(speed["generate"]),
        "tokens_per_completion": round(best["ours"][1] / (options.prompts * options.group), 1),
    }
    print(json.dumps({"benchmark": "rollout_vs_generate", "figures": figures}))


if __name__ == "__main__":
    main()
