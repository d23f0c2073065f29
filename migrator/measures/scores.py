"""Rankings of one side scored against what is relevant, and two sides' scores laid beside each other, also by slice.

Floor 0. Pure: the seed is a parameter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from migrator.measures import bootstrap, retrieval
from migrator.measures.bootstrap import Interval

K = TypeVar("K")
#: Queries below which a slice says nothing.
FEWEST_IN_SLICE = 10


@dataclass(frozen=True, slots=True)
class Scores:
    """One side's figures, one of each per query."""

    ndcg: NDArray[np.float64]
    recall: NDArray[np.float64]
    mrr: NDArray[np.float64]


def score(rankings: Sequence[Sequence[K]], relevant: Sequence[Collection[K]], depth: int) -> Scores:
    """Score each ranking against what it must find."""
    pairs = list(zip(rankings, relevant, strict=True))
    return Scores(
        np.array([retrieval.ndcg(*each, depth) for each in pairs]),
        np.array([retrieval.recall(*each, depth) for each in pairs]),
        np.array([retrieval.reciprocal_rank(*each, depth) for each in pairs]),
    )


def means(old: Scores, new: Scores, depth: int, *, weights: ArrayLike | None = None) -> dict[str, list[float]]:
    """Return the mean of every measure, old and new; empty where there is no query."""
    if not len(old.ndcg):
        return {}
    weighed = None if weights is None else np.asarray(weights, dtype=np.float64)
    names = {f"nDCG@{depth}": "ndcg", f"recall@{depth}": "recall", "MRR": "mrr"}
    return {
        told: [float(np.average(getattr(each, name), weights=weighed)) for each in (old, new)]
        for told, name in names.items()
    }


def by_slice(
    places_of: Mapping[str, Sequence[int]], old: Scores, new: Scores, *, seed: int, weights: ArrayLike | None = None
) -> dict[str, Interval]:
    """Return by how much nDCG changed in each slice, where that says something: it is some of the queries, not all."""
    found = {}
    weighed = None if weights is None else np.asarray(weights, dtype=np.float64)
    for name, places in places_of.items():
        if FEWEST_IN_SLICE <= len(places) < len(old.ndcg):
            at = list(places)
            some = None if weighed is None else weighed[at]
            found[name] = bootstrap.paired(new.ndcg[at], old.ndcg[at], seed=seed, weights=some)
    return found
