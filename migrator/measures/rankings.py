"""Two rankings of the same things against each other: how much of one is in the other.

Floor 0. Pure. They tell how much a search changes, never whether it got better: that is `retrieval`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

K = TypeVar("K")
#: Weight of each further rank in `rbo`: at 0.9 about 86 % of the weight lies in the first ten.
PERSISTENCE = 0.9


def overlap(first: Sequence[K], second: Sequence[K], depth: int = 10) -> float:
    """Return the share of the first `depth` that both rankings have in common; 1 for two empty ones."""
    a, b = set(first[:depth]), set(second[:depth])
    longer = max(len(a), len(b))
    return len(a & b) / longer if longer else 1.0


def rbo(first: Sequence[K], second: Sequence[K], p: float = PERSISTENCE) -> float:
    """Return the rank-biased overlap, extrapolated from the rankings' prefixes; 1 for two empty ones, 0 where one is.

    Nothing may stand twice in one ranking.
    Source: Webber, Moffat, Zobel: A similarity measure for indefinite rankings, ACM TOIS 28(4), 2010, equation 32.
    """
    shorter, longer = sorted((first, second), key=len)
    if not longer:
        return 1.0
    if not shorter:
        return 0.0
    small, large = len(shorter), len(longer)
    agreed = [0] * (large + 1)
    seen_short: set[K] = set()
    seen_long: set[K] = set()
    for depth in range(1, large + 1):
        seen_long.add(longer[depth - 1])
        if depth <= small:
            seen_short.add(shorter[depth - 1])
        agreed[depth] = len(seen_short & seen_long)
    total = sum(agreed[depth] / depth * p**depth for depth in range(1, large + 1))
    # Beyond its end the shorter one is taken to agree as much as it did there.
    total += sum(agreed[small] * (depth - small) / (small * depth) * p**depth for depth in range(small + 1, large + 1))
    rest = (agreed[large] - agreed[small]) / large + agreed[small] / small
    return (1 - p) / p * total + rest * p**large


def chance(rows: int, depth: int = 10) -> float:
    """Return the overlap that two rankings of `rows` things have by chance alone."""
    return min(1.0, depth / rows) if rows > 0 else 1.0
