"""What was billed against what was estimated: their ratio, and how sure it is.

Floor 0. Pure: the seed is a parameter. A bill comes by request, so what is drawn again for the interval are requests:
rows that were billed together tell one thing together.
Source: Cochran: Sampling Techniques, 1977, chapter 6 (ratio estimates); Efron, Tibshirani: An Introduction to the
Bootstrap, 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from migrator.measures.bootstrap import RESAMPLES

#: Billed requests below which the ratio's interval stands for nothing, and the plan keeps its allowance: it is drawn
#: from whole requests, and one of them alone shows no width at all. A bootstrap of n is narrower than Student's t by
#: 1.96 / t(n - 1) times the square root of (n - 1) / n: 18 % at 10, 47 % at 4.
FEWEST_REQUESTS = 10


@dataclass(frozen=True, slots=True)
class Ratio:
    """Billed over estimated, and its 95 % interval."""

    value: float
    low: float
    high: float
    #: Requests that it was learnt from.
    requests: int


def measure(
    estimated: ArrayLike, billed: ArrayLike, weights: ArrayLike, requests: Sequence[str], *, seed: int
) -> Ratio | None:
    """Return the ratio of weighted sums over rows; None where nothing was estimated.

    Shape: a figure per row each, and the request that it was billed with. Units: tokens.
    """
    ours, theirs, weighed = (np.asarray(each, dtype=np.float64) for each in (estimated, billed, weights))
    if not (ours * weighed).sum() > 0:
        return None
    names = {name: number for number, name in enumerate(dict.fromkeys(requests))}
    places = np.array([names[name] for name in requests])
    sums = [np.bincount(places, weights=weighed * each, minlength=len(names)) for each in (theirs, ours)]
    drawn = np.random.default_rng(seed).integers(0, len(names), (RESAMPLES, len(names)))
    above, below = (each[drawn].sum(axis=1) for each in sums)
    kept = below > 0
    low, high = np.percentile(above[kept] / below[kept], [2.5, 97.5])
    return Ratio(float(sums[0].sum() / sums[1].sum()), float(low), float(high), len(names))


def sureness(low: float, high: float, requests: int) -> str:
    """Return how sure a ratio is, for people."""
    if requests < FEWEST_REQUESTS:
        return f"of {requests:,} requests, too few for an interval: the plan keeps its own band"
    return f"{low:.3f} to {high:.3f} at 95 %"
