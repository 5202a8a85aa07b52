"""How fast is the accuracy reward, and does it agree with the truth, against TRL's `accuracy_reward` on the same rows?

Rows: GSM8K's own solutions with the final answer boxed, and MATH answers boxed at the end of a long text;
every second one gets the answer of another row. No completion occurs twice and no cache is warm. Both sides are
imported and their first call is made before the clock starts; ours may use its two scoring workers.

    python benchmarks/accuracy_throughput.py [--data ../shared/data] [--rows 2000]

Prints every row on which the two disagree, and one line of JSON at the end.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rewards import accuracy
from rewards.accuracy import Accuracy, prepare_gold
from rewards.exact import compare
from rewards.forms import analyse
from rewards.reward import Sample
from rewards.scoring import ScoringPool


@dataclass(frozen=True, slots=True)
class Row:
    prompt: str
    gold: str
    answer: str
    completion: str
    right: bool


def load(data: Path) -> list[tuple[str, str, str]]:
    """Prompt, text before the answer, gold."""
    rows = []
    with (data / "gsm8k" / "train.jsonl").open(encoding="utf-8") as file:
        for line in file:
            item = json.loads(line)
            solution, _, gold = item["answer"].rpartition("####")
            rows.append((item["question"], solution.strip(), gold.strip()))
    math = []
    for item in json.loads((data / "math_train" / "math.json").read_text(encoding="utf-8")):
        if item["answer"]:
            filler = f"We are asked: {item['problem']} Let us think about it with care, one step after another. " * 4
            math.append((item["problem"], filler, item["answer"]))
    return [row for pair in zip(rows, math, strict=False) for row in pair]


def make_rows(data: Path, count: int) -> list[Row]:
    """`count` rows, half of GSM8K and half of MATH, half right and half wrong."""
    source = load(data)
    rng = random.Random(0)
    rows = []
    for index in range(count):
        prompt, text, written = source[index]
        gold = prepare_gold(written)
        answer, right = gold, True
        if index // 2 % 2:
            while (
                compare(analyse(gold), analyse(answer)) is True
            ):  # what only algebra can tell apart is no easy row less
                answer = prepare_gold(source[rng.randrange(index % 2, len(source), 2)][2])
            right = False
        rows.append(Row(prompt, gold, answer, f"{text}\nThe answer is $\\boxed{{{answer}}}$.", right))
    return rows


def score_ours(rows: list[Row]) -> tuple[list[float | None], float]:
    samples = [Sample(prompt=r.prompt, completion=r.completion, answer=r.gold, convention="none") for r in rows]
    reward = Accuracy()
    with ScoringPool(workers=2) as pool:
        pool.run("rewards.symbolic:equal", [(f"x+{i}", f"{i}+x", "") for i in range(8)])
        while pool.manager is not None and not all(worker.ready for worker in pool.manager.fleet):
            time.sleep(0.01)  # a process that still imports would take its time from the cores that are measured
        analyse.cache_clear()  # making the rows has filled them
        accuracy._gold.cache_clear()
        start = time.perf_counter()
        verdicts = reward.judge_batch(samples, pool)
        return [verdict.score for verdict in verdicts], time.perf_counter() - start


def score_trl(rows: list[Row]) -> tuple[list[float | None], float]:
    from trl.rewards import accuracy_reward

    accuracy_reward([[{"role": "assistant", "content": "$\\boxed{2}$"}]], ["$1+1$"])
    completions = [[{"role": "assistant", "content": row.completion}] for row in rows]
    solutions = [f"${row.gold}$" for row in rows]
    start = time.perf_counter()
    scores = accuracy_reward(completions, solutions)
    return scores, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--rows", type=int, default=2000)
    arguments = parser.parse_args()
    rows = make_rows(arguments.data, arguments.rows)
    assert len({row.completion for row in rows}) == len(rows)
    ours, our_seconds = score_ours(rows)
    theirs, their_seconds = score_trl(rows)
    truth = [float(row.right) for row in rows]
    for row, mine, other in zip(rows, ours, theirs, strict=True):
        if mine != other:
            print(f"disagree: gold {row.gold!r} answer {row.answer!r} right {row.right} ours {mine} trl {other}")
    figures = {
        "rows": len(rows),
        "ours_per_second": round(len(rows) / our_seconds, 1),
        "trl_per_second": round(len(rows) / their_seconds, 1),
        "ratio": round(their_seconds / our_seconds, 2),
        "ours_errors": sum(mine != right for mine, right in zip(ours, truth, strict=True)),
        "trl_errors": sum(other != right for other, right in zip(theirs, truth, strict=True)),
        "disagreements": sum(mine != other for mine, other in zip(ours, theirs, strict=True)),
    }
    print(json.dumps({"benchmark": "accuracy_throughput", "figures": figures}))


if __name__ == "__main__":
    main()
