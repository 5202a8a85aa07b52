"""What is forgotten of one domain when the next one is learned, and what three remedies save of it.

    python benchmarks/forgetting.py

The embedded base learns mathematics, then code from that checkpoint: by plain fine-tuning, with replayed rows of
mathematics, with pre-training text among the rows, and with elastic weight consolidation. The code rows are the same
each time. Forgetting is the rise of the loss on held-out mathematics, in nats a learned token; the loss on held-out
code says what a remedy costs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from data.artifact import ROWS_NAME, Artifact, Kind
from data.records import Row, write_rows
from data.tiny import corpus
from data.tiny.tokenizer import EOS, PAD, START
from data.tiny.world import rows
from stages.sft_mix import SFT_MIX, SftMixConfig
from stages.stage import Context, Placement

ROOT = Path(__file__).resolve().parent.parent
OLD, NEW = "math", "code"
WAYS = ("plain", "replay", "text", "ewc")
COMMON: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 16, "max_length": 256}


def of_domain(split: str, domain: str, count: int, seed: int) -> list[Row]:
    """The first `count` rows of one domain of a split that draws it."""
    return list(islice((row for row in rows(split, 100 * count, seed) if row["domain"] == domain), count))


def text(count: int) -> list[Row]:
    """Documents of the corpus that the base was pre-trained on, without the tokens that mark turns."""
    found = []
    for number, document in enumerate(corpus.documents(count, seed=7)):
        for mark in (EOS, PAD, START):
            document = document.replace(mark, "")
        found.append({"id": f"text-{number}", "text": document.strip(), "domain": "general", "language": "en"})
    return found


class Bench:
    """Artifacts below one folder, and the losses of models on the held-out rows of both domains."""

    def __init__(self, folder: Path, seed: int, count: int, held_out: int) -> None:
        self.folder, self.seed, self.count = folder, seed, count
        self.data = {
            OLD: self.written(OLD, of_domain("sft_reasoning", OLD, 2 * count, seed)),
            NEW: self.written(NEW, of_domain("sft_reasoning", NEW, count, seed)),
            "text": self.written("text", text(count)),
        }
        self.held_out = {domain: of_domain("test", domain, held_out, 0) for domain in (OLD, NEW)}

    def written(self, name: str, found: Sequence[Row]) -> Artifact:
        (self.folder / name).mkdir(parents=True)
        write_rows(self.folder / name / ROWS_NAME, found)
        return Artifact(kind=Kind.DATASET, path=self.folder / name, fingerprint=name, name=name)

    def learned(self, name: str, init: Artifact, inputs: Mapping[str, str], **config: Any) -> Artifact:
        """The model that a step of sft_mix makes of `init`; `inputs` names the data behind each further input."""
        out, work = self.folder / f"{name}-model", self.folder / f"{name}-work"
        out.mkdir()
        work.mkdir()
        wired = {key: [self.data[part] for part in names.split("+")] for key, names in inputs.items()}
        context = Context(
            seed=self.seed,
            convention="think_answer",
            work=work,
            name=name,
            placement=Placement(threads=1, checkpoint_steps=10**6),
        )
        SFT_MIX.run(SftMixConfig(**COMMON, **config), {"init": [init], **wired}, out, context)
        return Artifact(kind=Kind.MODEL, path=out, fingerprint=name, name=name)

    def losses(self, model: Artifact) -> dict[str, float]:
        """Domain to nats per learned token."""
        import torch

        from stages.training.encode import encode
        from stages.training.models import load_policy, load_tokenizer

        policy, tokenizer = load_policy(model.path).eval(), load_tokenizer(model.path)
        found = {}
        for domain, held in self.held_out.items():
            total, tokens = 0.0, 0
            for row in held:
                item = encode(row["prompt"], row["completion"], tokenizer)
                ids_1T = torch.tensor([item.input_ids])
                learned_S = torch.tensor(item.completion_mask[1:], dtype=torch.bool)
                with torch.inference_mode():
                    logprobs_SV = torch.log_softmax(policy(input_ids=ids_1T).logits[0, :-1], dim=-1)
                picked_S = logprobs_SV.gather(-1, ids_1T[0, 1:, None])[:, 0]
                total -= picked_S[learned_S].sum().item()
                tokens += int(learned_S.sum())
            found[domain] = total / tokens
        return found


def run(bench: Bench, weight: float, share: float) -> dict[str, dict[str, float]]:
    """Losses by domain of the base, of what mathematics makes of it, and of each way to learn code after that."""
    base = Artifact(kind=Kind.MODEL, path=ROOT / "data" / "tiny" / "base", fingerprint="base", name="base")
    old = bench.learned("old", base, {"data": OLD}, phases=[{"name": "old", "weights": {OLD: 1}}])
    only = {"name": "new", "weights": {NEW: 1}}
    both = {"name": "new", "weights": {NEW: 1 - share, OLD: share}}
    models = {
        "plain": bench.learned("plain", old, {"data": NEW}, phases=[only]),
        "replay": bench.learned("replay", old, {"data": f"{NEW}+{OLD}"}, phases=[both]),
        "text": bench.learned(
            "text",
            old,
            {"data": NEW, "pretraining": "text"},
            phases=[only],
            pretraining={"share": share, "length": 128},
        ),
        "ewc": bench.learned(
            "ewc", old, {"data": NEW, "remember": OLD}, phases=[only], ewc={"weight": weight, "rows": 128}
        ),
    }
    return {name: bench.losses(model) for name, model in {"base": base, "old": old, **models}.items()}


def main() -> None:
    """Print a table, and one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=400, help="code rows; twice as many of mathematics come before")
    parser.add_argument("--held-out", type=int, default=100, help="held-out rows of each domain")
    parser.add_argument("--weight", type=float, default=1000.0, help="of elastic weight consolidation")
    parser.add_argument("--share", type=float, default=0.1, help="of replayed rows, and of blocks of text")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        found = run(Bench(folder, options.seed, options.rows, options.held_out), options.weight, options.share)
    finally:
        shutil.rmtree(folder)
    print(f"| checkpoint | held-out {OLD} | held-out {NEW} | forgetting | of plain |\n| --- | --- | --- | --- | --- |")
    plain = found["plain"][OLD] - found["old"][OLD]
    figures = {}
    for name, losses in found.items():
        gap = losses[OLD] - found["old"][OLD]
        told = f"{gap:.3f} | {gap / plain:.2f}" if name in WAYS else " | "
        print(f"| {name} | {losses[OLD]:.3f} | {losses[NEW]:.3f} | {told} |")
        figures |= {f"{name}_{domain}_loss": round(loss, 4) for domain, loss in losses.items()}
        if name in WAYS[1:]:
            figures[f"forgetting_ratio_{name}"] = round(gap / plain, 4)
    print(json.dumps({"benchmark": "forgetting", "figures": figures}))


if __name__ == "__main__":
    main()
