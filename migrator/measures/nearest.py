"""The nearest rows of a sample, by looking at every one: exact, and for some thousands of rows a moment's work.

Floor 0. Pure. Distances are pgvector's: by cosine (<=>), inner product (<#>) or Euclid (<->).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Queries whose similarities are held at once: 64 MB against ten thousand rows.
_BLOCK = 1600


def nearest(
    queries: NDArray[np.float32],
    rows: NDArray[np.float32],
    depth: int,
    *,
    operator: str = "<=>",
    without: Sequence[int] | None = None,
) -> NDArray[np.int64]:
    """Return the positions of the nearest rows of each query, the nearest first.

    Shape: queries q x dims, rows n x dims; the result q x min(depth, n). A row of zeros is never found by cosine, as by
    an index of pgvector's. `without`: a row for each query that is not to be found, since it is the query itself.
    """
    depth = min(depth, len(rows) - (without is not None))
    made: NDArray[np.int64] = np.empty((len(queries), max(depth, 0)), dtype=np.int64)
    if depth <= 0:
        return made
    for start in range(0, len(queries), _BLOCK):
        near = _similarities(queries[start : start + _BLOCK], rows, operator)
        if without is not None:
            near[np.arange(len(near)), np.asarray(without[start : start + _BLOCK])] = -np.inf
        some = np.argpartition(-near, depth - 1, axis=1)[:, :depth]
        order = np.argsort(-np.take_along_axis(near, some, axis=1), axis=1, kind="stable")
        made[start : start + _BLOCK] = np.take_along_axis(some, order, axis=1)
    return made


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors of length 1; zeros stay zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    made: NDArray[np.float32] = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
    return made


def _similarities(queries: NDArray[np.float32], rows: NDArray[np.float32], operator: str) -> NDArray[np.float32]:
    """Return how near each row is to each query; what is larger is nearer."""
    if operator == "<#>":
        inner: NDArray[np.float32] = queries @ rows.T
        return inner
    if operator == "<->":
        # Of the squared distance, what is the same for every row is left out.
        euclid: NDArray[np.float32] = 2 * queries @ rows.T - np.einsum("ij,ij->i", rows, rows)[None, :]
        return euclid
    near: NDArray[np.float32] = unit(queries) @ unit(rows).T
    near[:, ~rows.any(axis=1)] = -np.inf
    return near
