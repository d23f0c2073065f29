"""How sure a mean difference is: the paired bootstrap.

Floor 0. Pure: the seed is a parameter. Two systems answered the same queries, so what is drawn again is queries, and
what is averaged are the differences of each.
Source: Efron, Tibshirani: An Introduction to the Bootstrap, 1993, chapter 13 (percentile intervals).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Draws: the ends of a 95 % interval are then each known from about 50 of them.
RESAMPLES = 2000
#: Numbers drawn at once, so that memory stays flat for many queries.
_BLOCK = 1_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and between what it lies."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:+.3f} (95 % interval {self.low:+.3f} to {self.high:+.3f})"


def paired(
    new: ArrayLike,
    old: ArrayLike,
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    weights: ArrayLike | None = None,
) -> Interval:
    """Return the mean of new - old over queries, with its percentile interval.

    Shape: both one figure per query, in the same order.   None at all gives 0, and an interval of no width.
    `weights`: how many queries each stands for, where they were not drawn alike.
    """
    differences = np.asarray(new, dtype=np.float64) - np.asarray(old, dtype=np.float64)
    count = len(differences)
    if not count:
        return Interval(0.0, 0.0, 0.0, 0)
    weighed = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    weighted = differences * weighed
    random = np.random.default_rng(seed)
    means: NDArray[np.float64] = np.empty(resamples)
    step = max(1, _BLOCK // count)
    for start in range(0, resamples, step):
        end = min(resamples, start + step)
        drawn = random.integers(0, count, (end - start, count))
        means[start:end] = weighted[drawn].sum(axis=1) / weighed[drawn].sum(axis=1)
    outside = 100 * (1 - level) / 2
    low, high = np.percentile(means, [outside, 100 - outside])
    return Interval(float(weighted.sum() / weighed.sum()), float(low), float(high), count)
