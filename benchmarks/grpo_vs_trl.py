"""How long does our GRPO take to the held-out accuracy that stock TRL reaches, and how long for equal work?

    python benchmarks/grpo_vs_trl.py [--steps 30] [--seeds 0] [--ablate] [--threads N]

Both sides start from the same checkpoint (the embedded base after a short cold start that this script makes) and get
the same prompts, rewards, optimiser, schedule and seeds; each run is a process of its own and they take turns. The
clock stops while the held-out rows are sampled.

step_ratio: seconds a step, ours over TRL's, over all steps (equal numbers of prompts, completions and updates).
wall_ratio: seconds to the target, ours over TRL's; the target is the mean of TRL's last three held-out accuracies,
and each curve is the running mean of three measurements, interpolated. TRL reaches it by its making; where ours does
not, on any seed, there is no ratio (null).
--ablate: ours with one optimisation off at a time, for a few steps.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

GROUP, PROMPTS, LIMIT, RATE, MICRO = 5, 48, 160, 1.5e-4, 48
VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "without skipping": {"skip_without_gradient": False},
    "without length bucketing": {"length_bucketing": False},
}
OFF = {
    "without shared keys": ("grouped_attention", ("stages.rollout.transformers_engine",)),
    "without the labelled head": (
        "labelled_positions_only",
        ("stages.training.grpo_trainer", "stages.training.trainers"),
    ),
}
"""Context managers of ours, and where they are used, that --ablate replaces by ones that do nothing."""
GENERATE = "with TRL's sampling"
HELD_OUT, EVERY, SAMPLES = 250, 5, 4


def cold_start(folder: Path, threads: int) -> Path:
    """The checkpoint that both sides start from: one epoch on 1,500 chains."""
    from data.artifact import Kind
    from data.records import write_rows
    from data.tiny.world import rows
    from pipeline.worker import perform
    from stages import STAGES
    from stages.stage import Context, Placement

    data, work, out = (folder / name for name in ("chains", "work", "start"))
    for directory in (data, work, out):
        directory.mkdir()
    write_rows(data / "rows.jsonl", rows("cold_start", 1500))
    stage = STAGES["cold_start"]
    config = stage.config.model_validate({"learning_rate": 2e-4, "batch_size": 32})
    inputs = {"init": [_given(ROOT / "data/tiny/base", Kind.MODEL)], "data": [_given(data, Kind.DATASET)]}
    context = Context(
        seed=0, convention="think_answer", work=work, sandbox="weak", placement=Placement(threads=threads)
    )
    perform(stage, config, inputs, out, context)
    return out


def _given(path: Path, kind: Any) -> Any:
    from data.artifact import Artifact, Contract

    return Artifact(kind=kind, path=path, fingerprint="0" * 12, name=path.name, contract=Contract())


def clocked(trainer_class: type) -> type:
    """The trainer with a clock on its parts, and on nothing else."""

    class Clocked(trainer_class):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.clock: dict[str, float] = defaultdict(float)
            self.tokens = 0

        def _timed(self, part: str, method: Any, *args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = method(*args, **kwargs)
            self.clock[part] += time.perf_counter() - began
            return result

        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            made = self._timed("sampling", super()._generate_single_turn, *args, **kwargs)
            self.tokens += sum(map(len, made[0]))
            return made

        def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
            return self._timed("scoring", super()._calculate_rewards, *args, **kwargs)

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return self._timed("forward", super().compute_loss, *args, **kwargs)

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            inside = self.clock["forward"] + self.clock["sampling"] + self.clock["scoring"] + self.clock["preparing"]
            began = time.perf_counter()
            result = super().training_step(*args, **kwargs)
            spent = time.perf_counter() - began
            after = self.clock["forward"] + self.clock["sampling"] + self.clock["scoring"] + self.clock["preparing"]
            self.clock["backward"] += spent - (after - inside)
            return result

        def _generate_and_score_completions(self, *args: Any, **kwargs: Any) -> Any:
            inside = self.clock["sampling"] + self.clock["scoring"]
            began = time.perf_counter()
            result = super()._generate_and_score_completions(*args, **kwargs)
            after = self.clock["sampling"] + self.clock["scoring"]
            self.clock["preparing"] += time.perf_counter() - began - (after - inside)
            return result

    return Clocked


def train(side: str, start: Path, work: Path, steps: int, seed: int, threads: int, measure: bool) -> dict[str, Any]:
    """One run of one side: seconds by part, and (seconds, accuracy) every few steps."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    import rewards
    from data.tiny.world import rows
    from rewards.adapter import as_trl
    from rewards.scoring import ScoringPool
    from stages.checkable import checkable
    from stages.rollout.engine import Sampling
    from stages.rollout.transformers_engine import TransformersEngine
    from stages.scoring import complete
    from stages.stage import Context, Placement
    from stages.training.arguments import trl_arguments
    from stages.training.grpo import grpo_arguments, prompt_columns
    from stages.training.grpo_trainer import ReasoningTrainer
    from stages.training.models import load_policy, load_tokenizer
    from stages.training.options import ReinforcementConfig
    from stages.training.trainers import callbacks

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    config = ReinforcementConfig(
        learning_rate=RATE,
        schedule="linear",
        steps=steps,
        prompts_per_step=PROMPTS,
        num_generations=GROUP,
        max_completion_tokens=LIMIT,
        micro_batch_size=MICRO,
        beta=0.0,
        **VARIANTS.get(side, {}),
    )
    context = Context(
        seed=seed,
        convention="think_answer",
        work=work,
        sandbox="weak",
        placement=Placement(threads=threads, checkpoint_steps=10_000),
    )
    specs = complete(rewards.DEFAULT, None, context, "reasoning_rl")
    mix = rewards.build(specs)
    problems = checkable(list(rows("rl", 4000, seed=seed)), specs, {}, verified=True)
    held_out = [row for row in rows("test", 600) if row["domain"] not in ("general", "safety")][:HELD_OUT]
    model, tokenizer = load_policy(start, config), load_tokenizer(start)
    arguments = trl_arguments(
        GRPOConfig, config, context, steps=steps, batch_size=config.update_batch, **grpo_arguments(config, context)
    )
    stock = side == "trl"
    if side in OFF:
        name, places = OFF[side]
        for place in places:
            setattr(importlib.import_module(place), name, lambda *_: nullcontext())
    if side == GENERATE:
        ReasoningTrainer._generate_single_turn = GRPOTrainer._generate_single_turn
    own = {} if stock else {"options": config}
    curve: list[tuple[float, float]] = []
    paused = [0.0]
    began = [0.0]

    class Probe(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            began[0] = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if not measure or state.global_step % EVERY:
                return
            at = time.perf_counter()
            engine = TransformersEngine(trainer.accelerator.unwrap_model(trainer.model), tokenizer)
            groups = engine.generate(
                [row["prompt"] for row in held_out], Sampling(max_tokens=LIMIT, n=SAMPLES, seed=state.global_step)
            )
            right = _accuracy(held_out, groups, pool)
            curve.append((at - began[0] - paused[0], right))
            paused[0] += time.perf_counter() - at

    with ScoringPool(workers=2) as pool:
        trainer = clocked(GRPOTrainer if stock else ReasoningTrainer)(
            model=model,
            reward_funcs=[as_trl(mix, "think_answer", limit=LIMIT, pool=pool)],
            args=arguments,
            train_dataset=Dataset.from_dict(prompt_columns(problems)),
            processing_class=tokenizer,
            callbacks=[*callbacks(context)[1:2], Probe()],
            **own,
        )
        trainer.train()
        total = time.perf_counter() - began[0] - paused[0]
    parts = {name: trainer.clock[name] for name in ("sampling", "scoring", "preparing", "forward", "backward")}
    parts["overhead"] = total - sum(parts.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": total, "parts": parts, "tokens": trainer.tokens, "curve": curve, "peak_mb": peak}


def _accuracy(rows: list[Any], groups: Any, pool: Any) -> float:
    import rewards
    from rewards.reward import Sample

    judge = rewards.build([{"name": "correctness", "program": {"sandbox": "weak"}}])
    samples = [
        Sample(
            prompt=row["prompt"][-1]["content"],
            completion=completion.text,
            answer=row.get("answer"),
            tests=row.get("tests"),
            domain=row["domain"],
            language=row["language"],
            convention="think_answer",
        )
        for row, group in zip(rows, groups, strict=True)
        for completion in group
    ]
    return mean(b.total or 0.0 for b in judge.score(samples, pool=pool))


def child(side: str, start: Path, steps: int, seed: int, threads: int, measure: bool) -> dict[str, Any]:
    """`train` in a process of its own, so that its peak memory is its own."""
    line = [sys.executable, __file__, "--side", side, "--start", str(start), "--steps", str(steps)]
    line += ["--seeds", str(seed), "--threads", str(threads), *(["--measure"] if measure else [])]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def smooth(curve: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Running mean of three measurements, at the time of the last of them."""
    return [(curve[i][0], mean(a for _, a in curve[max(0, i - 2) : i + 1])) for i in range(len(curve))]


def reach(curve: list[tuple[float, float]], target: float) -> float | None:
    """Seconds after which a smoothed curve first reaches the target."""
    before = (0.0, 0.0)
    for at, value in curve:
        if value >= target:
            share = (target - before[1]) / (value - before[1]) if before[1] else 1.0
            return before[0] + share * (at - before[0])
        before = (at, value)
    return None


def show(side: str, seed: int, run: dict[str, Any], steps: int) -> None:
    parts = "  ".join(f"{name} {seconds / steps:.2f}" for name, seconds in run["parts"].items())
    print(f"seed {seed}  {side}: {run['seconds'] / steps:.2f} s a step ({parts}), peak {run['peak_mb']:.0f} MB")
    speed = "  ".join(f"{n} {run['tokens'] / max(s, 1e-9):.0f}" for n, s in run["parts"].items())
    print(f"    tokens/s of each part: {speed}; whole {run['tokens'] / run['seconds']:.0f}")
    if run["curve"]:
        print("    held-out: " + "  ".join(f"{at:.0f}s {value:.3f}" for at, value in run["curve"]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--ablate", action="store_true")
    parser.add_argument("--start", type=Path, help="start from this checkpoint instead")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        with tempfile.TemporaryDirectory() as work:
            seed, measure = options.seeds[0], options.measure
            result = train(options.side, options.start, Path(work), options.steps, seed, options.threads, measure)
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as folder:
        start = options.start or cold_start(Path(folder), options.threads)
        runs: dict[tuple[str, int], dict[str, Any]] = {}
        for seed in options.seeds:
            for side in ("trl", "ours"):
                runs[side, seed] = child(side, start, options.steps, seed, options.threads, True)
                show(side, seed, runs[side, seed], options.steps)
        if options.ablate:
            for side in (*VARIANTS, *OFF, GENERATE):
                show(side, 0, child(side, start, 8, 0, options.threads, False), 8)
    walls: list[float | None] = []
    steps: list[float] = []
    for seed in options.seeds:
        curves = {side: smooth(runs[side, seed]["curve"]) for side in ("trl", "ours")}
        target = curves["trl"][-1][1]
        mine, theirs = (reach(curves[side], target) for side in ("ours", "trl"))
        assert theirs is not None, "its last point is the target"
        if mine is None:
            print(f"seed {seed}: ours never reaches {target:.3f}")
        walls.append(None if mine is None else mine / theirs)
        steps.append(runs["ours", seed]["seconds"] / runs["trl", seed]["seconds"])
    figures = {
        "wall_ratio": None if None in walls else round(mean(w for w in walls if w is not None), 3),
        "step_ratio": round(mean(steps), 3),
        "peak_memory_ratio": round(
            mean(runs["ours", s]["peak_mb"] / runs["trl", s]["peak_mb"] for s in options.seeds), 3
        ),
        "ours_seconds_per_step": round(mean(runs["ours", s]["seconds"] for s in options.seeds) / options.steps, 2),
        "trl_seconds_per_step": round(mean(runs["trl", s]["seconds"] for s in options.seeds) / options.steps, 2),
    }
    print(json.dumps({"benchmark": "grpo_vs_trl", "figures": figures}))


if __name__ == "__main__":
    main()
