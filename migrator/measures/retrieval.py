"""Rankings against what is relevant.

Floor 0. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TypeVar

K = TypeVar("K")


def ndcg(ranking: Sequence[K], relevant: Collection[K], depth: int = 10) -> float:
    """Return the normalised discounted cumulative gain of binary relevance: 1 is perfect, 0 found nothing."""
    gain = sum(1 / math.log2(rank + 1) for rank, key in enumerate(ranking[:depth], start=1) if key in relevant)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(relevant), depth) + 1))
    return gain / ideal if ideal else 0.0


def recall(ranking: Sequence[K], relevant: Collection[K], depth: int = 10) -> float:
    """Return the share of what is relevant that was ranked within `depth`."""
    return sum(key in relevant for key in ranking[:depth]) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Sequence[K], relevant: Collection[K], depth: int = 10) -> float:
    """Return 1 / the rank of the first relevant thing within `depth`, else 0; their mean over queries is the MRR."""
    return next((1 / rank for rank, key in enumerate(ranking[:depth], start=1) if key in relevant), 0.0)
