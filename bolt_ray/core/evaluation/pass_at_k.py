"""Evaluation statistics of sampled answers: pass@k, maj@k and the interval of a success rate."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that k of the samples, drawn without replacement, hold a correct one.

    1 − C(n−c, k)/C(n, k) (arXiv 2107.03374, eq. 1), computed as a product so that large n neither
    overflow nor lose digits. Unbiased; 1 − (1 − c/n)^k is not.

    Raises:
        ValueError: k outside 1 … n, or c outside 0 … n.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@k needs 1 <= k <= samples, got k {k} and {num_samples} samples")
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"{num_correct} correct of {num_samples} samples is impossible")
    if num_samples - num_correct < k:
        return 1.0
    draws = np.arange(num_samples - num_correct + 1, num_samples + 1, dtype=np.float64)
    return float(-np.expm1(np.sum(np.log1p(-k / draws))))


def maj_at_k(answers: Sequence[Hashable | None], correct: Sequence[bool], k: int | None = None) -> float:
    """Is the most frequent of the first k answers correct? 1, 0, or a share when answers tie.

    Args:
        answers: normalized answers of one prompt; None (nothing could be parsed) has no vote.
        correct: whether each sample is right; samples of one answer that differ count with their mean.
        k: None for all.

    Raises:
        ValueError: k outside 1 … n, or lists of different lengths.
    """
    k = len(answers) if k is None else k
    if len(answers) != len(correct):
        raise ValueError(f"{len(answers)} answers but {len(correct)} verdicts")
    if not 1 <= k <= len(answers):
        raise ValueError(f"maj@k needs 1 <= k <= samples, got k {k} and {len(answers)} samples")
    votes = Counter(answer for answer in answers[:k] if answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    shares = [
        float(np.mean([right for answer, right in zip(answers[:k], correct[:k], strict=True) if answer == winner]))
        for winner, count in votes.items()
        if count == most
    ]
    return math.fsum(shares) / len(shares)


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a success rate (Wilson 1927); never outside [0, 1], sane at 0 and at 1.

    Raises:
        ValueError: no trial, successes outside 0 … trials, or a confidence outside (0, 1).
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials have no interval")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / trials
    center = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    # The bound is exactly 0 or 1 there; floating point would leave a residue.
    low = 0.0 if successes == 0 else max(center - half, 0.0)
    high = 1.0 if successes == trials else min(center + half, 1.0)
    return low, high


def difference_interval(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """95 % interval of ``after`` − ``before``, each a share with the two ends of its Wilson interval.

    Newcombe, Statistics in Medicine 17 (1998), method 10. It takes the two for independent samples; on the same
    problems the true interval is narrower.
    """
    value, low, high = before
    later, later_low, later_high = after
    difference = later - value
    return (
        difference - math.hypot(later - later_low, high - value),
        difference + math.hypot(later_high - later, value - low),
    )
