"""Vectors as points of a plane: the two directions in which they differ most.

Floor 0. Pure. A picture, not a measurement: two directions of a thousand hold a small part of what there is, and the
share that they hold is told with them.
Source: principal components by the eigenvectors of the rows' inner products (Jolliffe: Principal Component Analysis,
2002, section 3.5): as exact as by a singular value decomposition, and it costs rows^3, whatever the dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

#: Rows of a picture: more are a blot.
ROWS = 400
#: Decimals of a coordinate, where the farthest point lies at 1: finer than any pixel.
_DECIMALS = 3


@dataclass(frozen=True, slots=True)
class Plane:
    """Points, the farthest of them at distance 1, and the share of the rows' variance that they show."""

    points: list[list[float]]
    share: float


@dataclass(frozen=True, slots=True)
class Projection:
    """The same rows in both spaces, each in its own plane; and all vectors in one, where they have equal dimensions.

    In `joint` the old vectors come first.
    """

    old: Plane
    new: Plane
    joint: Plane | None

    @classmethod
    def restore(cls, data: dict[str, Any]) -> Self:
        """Read back what was stored as JSON."""
        planes = {name: Plane(**plane) if plane is not None else None for name, plane in data.items()}
        assert planes["old"] is not None  # noqa: S101 - `make` always gives them
        assert planes["new"] is not None  # noqa: S101 - as above
        return cls(planes["old"], planes["new"], planes["joint"])


def make(old: NDArray[np.float32], new: NDArray[np.float32]) -> Projection | None:
    """Project rows that have both vectors; None where they are too few for a plane.

    Shape: old n x dims, new n x dims, of the same rows in the same order.   Only the first ROWS are taken.
    """
    first, second = _unit(old[:ROWS]), _unit(new[:ROWS])
    if len(first) < 3:  # noqa: PLR2004 - three points make a plane
        return None
    same = first.shape[1] == second.shape[1]
    return Projection(plane(first), plane(second), plane(np.concatenate([first, second])) if same else None)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the vectors at length 1, as cosines see them; a zero vector stays one."""
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0)
    return scaled


def plane(vectors: NDArray[np.float64]) -> Plane:
    """Return the rows in the plane of their first two principal components.

    The same rows always give the same picture: a component points to where its farthest row is.
    """
    centred = vectors - vectors.mean(axis=0)
    values, directions = np.linalg.eigh(centred @ centred.T)
    total = float(np.clip(values, 0, None).sum())
    points = directions[:, -1:-3:-1] * np.sqrt(np.clip(values[-1:-3:-1], 0, None))
    farthest = points[np.abs(points).argmax(axis=0), [0, 1]]
    points = points * np.where(farthest < 0, -1.0, 1.0)
    reach = float(np.linalg.norm(points, axis=1).max())
    scaled = points / reach if reach > 0 else points
    share = float(np.clip(values[-2:], 0, None).sum()) / total if total > 0 else 0.0
    return Plane(np.round(scaled, _DECIMALS).tolist(), round(share, 4))
