"""Figures with their sample size and 95 % interval. Standard library only.

Everything takes clusters: one sequence of scores per prompt. Samples of one prompt are not independent, so the
prompt is the unit of every interval, and `Metric.n` counts prompts.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from statistics import NormalDist, fmean, variance

from stages.stage import Metric

Clusters = Sequence[Sequence[float]]
Z = NormalDist().inv_cdf(0.975)


def average(clusters: Clusters) -> Metric:
    """avg@n: the mean over prompts of a prompt's mean score; empty clusters are left out.

    Scores that are all 0 or 1 get Wilson's interval (one sample a prompt: Wilson 1927; several: with the effective
    sample size p(1-p)/se^2, Korn and Graubard 1998), others Student's. Raises ValueError without any score.
    """
    filled = [cluster for cluster in clusters if len(cluster)]
    if not filled:
        raise ValueError("an average needs at least one score")
    means = [fmean(cluster) for cluster in filled]
    if any(score not in (0, 1) for cluster in filled for score in cluster):
        return _student(means)
    value = fmean(means)
    low, high = wilson(value, _effective_size(means, sum(map(len, filled))))
    return Metric(value=value, n=len(means), low=low, high=high)


def proportion(scores: Sequence[float]) -> Metric:
    """The mean of scores between 0 and 1, one for each independent case."""
    return clipped(average([[score] for score in scores]))


def _effective_size(means: Sequence[float], samples: int) -> float:
    """How many independent yes/no answers the clustered ones are worth: between the prompts and the samples."""
    value = fmean(means)
    if len(means) < 2 or samples == len(means):
        return len(means)
    spread, error = value * (1 - value), variance(means) / len(means)
    if spread == 0:  # unanimous: nothing tells how much the samples of a prompt agree by nature
        return len(means)
    return samples if error == 0 else min(max(spread / error, len(means)), samples)


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion."""
    if n <= 0:
        raise ValueError(f"a proportion needs a positive sample size, got {n}")
    scale = 1 + Z * Z / n
    centre = (share + Z * Z / (2 * n)) / scale
    half = Z / scale * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def _student(values: Sequence[float]) -> Metric:
    """Mean with Student's interval; a single value has none and repeats itself."""
    value = fmean(values)
    half = 0.0
    if len(values) > 1:
        half = student_quantile(len(values) - 1) * math.sqrt(variance(values) / len(values))
    return Metric(value=value, n=len(values), low=value - half, high=value + half)


def student_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's distribution (exact for 1 and 2 degrees, else Abramowitz and Stegun 26.7.5)."""
    if freedom < 1:
        raise ValueError(f"Student's distribution needs at least one degree of freedom, got {freedom}")
    if freedom == 1:
        return math.tan(math.pi * 0.475)
    if freedom == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2))
    v, z = freedom, Z
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased chance that k of n samples hold a correct one: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, eq. 1)."""
    if not 1 <= k <= n or not 0 <= correct <= n:
        raise ValueError(f"pass@k needs 1 <= k <= n and 0 <= correct <= n, got n={n}, correct={correct}, k={k}")
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


def pass_at(clusters: Clusters, k: int) -> Metric:
    """pass@k over prompts; those with fewer than k samples are left out. Raises ValueError if none is left."""
    rates = [pass_at_k(len(c), sum(score == 1 for score in c), k) for c in clusters if len(c) >= k]
    if not rates:
        raise ValueError(f"no prompt has {k} samples")
    if all(rate in (0, 1) for rate in rates):
        return average([[rate] for rate in rates])
    return clipped(_student(rates))


def majority(votes: Sequence[Sequence[tuple[Hashable | None, float]]]) -> Metric:
    """maj@n: share of prompts whose most frequent answer is right.

    Each prompt is a list of (answer, score); None is no answer and does not vote. Tied answers count by their mean
    score; where equal answers were scored apart, by the mean of theirs.
    """
    won = []
    for cluster in votes:
        scores: dict[Hashable, list[float]] = defaultdict(list)
        for answer, score in cluster:
            if answer is not None:
                scores[answer].append(score)
        most = max(map(len, scores.values()), default=0)
        won.append(fmean([fmean(s) for s in scores.values() if len(s) == most]) if most else 0.0)
    return clipped(average([[value] for value in won]))


def clipped(metric: Metric) -> Metric:
    """The interval of a share, kept within 0 and 1."""
    return Metric(value=metric.value, n=metric.n, low=max(0.0, metric.low), high=min(1.0, metric.high))


def difference(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Metric:
    """Mean of ours - theirs over the prompts that both have, with the paired Student interval.

    Raises ValueError if they share none.
    """
    return _student(_paired(ours, theirs))


def bootstrap_difference(
    ours: Mapping[str, float], theirs: Mapping[str, float], resamples: int = 2000, seed: int = 0
) -> Metric:
    """As `difference`, with the paired percentile bootstrap over prompts (Efron and Tibshirani 1993, ch. 13)."""
    gaps = _paired(ours, theirs)
    rng = random.Random(seed)
    means = sorted(fmean(rng.choices(gaps, k=len(gaps))) for _ in range(resamples))
    return Metric(
        value=fmean(gaps),
        n=len(gaps),
        low=means[round(0.025 * (resamples - 1))],
        high=means[round(0.975 * (resamples - 1))],
    )


def _paired(ours: Mapping[str, float], theirs: Mapping[str, float]) -> list[float]:
    gaps = [value - theirs[key] for key, value in ours.items() if key in theirs]
    if not gaps:
        raise ValueError("the two runs have no prompt in common")
    return gaps
