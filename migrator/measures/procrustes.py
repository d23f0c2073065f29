"""How well one orthogonal map leads from the old space into the new one, measured on rows that it never saw.

Floor 0. Pure. For information: a map that bridges well says that both models order texts alike; none is ever used,
since what it loses is lost for each search.
Source: Schoenemann: A generalized solution of the orthogonal Procrustes problem, Psychometrika 31(1), 1966.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from migrator.measures.nearest import nearest, unit

#: The share of the rows that the map is learnt from; the rest asks.
_LEARNT = 0.8
#: Rows held out below which their mean says nothing.
_FEWEST_HELD_OUT = 10


@dataclass(frozen=True, slots=True)
class Bridge:
    """Of the `depth` rows nearest to each held-out row in the new space, the share that its mapped old vector finds."""

    recall: float
    depth: int
    learnt_rows: int
    held_out_rows: int


def fit(old: NDArray[np.float32], new: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the map W for which old @ W comes nearest to new, among those that keep every length and angle.

    Shape: old n x d, new n x e, of the same rows; the result d x e, orthogonal where d = e, else as near as there is.
    """
    left, _, right = np.linalg.svd(old.astype(np.float64).T @ new.astype(np.float64), full_matrices=False)
    made: NDArray[np.float64] = left @ right
    return made


def bridge(old: NDArray[np.float32], new: NDArray[np.float32], *, seed: int, depth: int = 10) -> Bridge | None:
    """Learn the map from most rows and try it on the rest; None where too few are left to try it on.

    Shape: old n x d, new n x e, of the same rows in the same order.
    """
    order = np.random.default_rng(seed).permutation(len(old))
    cut = int(_LEARNT * len(order))
    learnt, held_out = order[:cut], order[cut:]
    if len(held_out) < _FEWEST_HELD_OUT or len(old) <= depth:
        return None
    first, second = unit(old), unit(new)
    mapped = (first[held_out] @ fit(first[learnt], second[learnt])).astype(np.float32)
    itself = held_out.tolist()
    wanted = nearest(second[held_out], second, depth, without=itself)
    found = nearest(mapped, second, depth, without=itself)
    shares = [len(set(a) & set(b)) / depth for a, b in zip(wanted.tolist(), found.tolist(), strict=True)]
    return Bridge(float(np.mean(shares)), depth, len(learnt), len(held_out))
