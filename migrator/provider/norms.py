"""The length of a model's vectors: the same for every text, or not. What the first answers show, later ones must keep.

Floor 1. Pure. Why: a gateway that answers with another model, or shortens vectors without scaling them, shows in their
length before it shows in anything else; nothing published says which models normalise, so it is measured.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: What stands for a model whose vectors have lengths of their own.
VARIES = 0.0
#: Relative spread below which lengths count as one: float32 and decimals cut to five digits make about 1e-5.
_SAME = 1e-3
#: Relative deviation from the length that was found at which an answer is not believed: upstreams of one model were
#: seen to differ by 1e-3, another model or an unscaled cut by tens of per cent.
_DEVIATES = 1e-2


def measure(vectors: NDArray[np.float32]) -> float | None:
    """Return the length that all of these have, VARIES, or None where one vector alone can't tell.

    One vector of length 1 does tell: nothing is so by chance.
    """
    lengths = _lengths(vectors)
    middle = float(np.median(lengths))
    if np.abs(lengths - 1).max() <= _SAME:
        return 1.0
    if len(lengths) == 1:
        return None
    return middle if np.abs(lengths / middle - 1).max() <= _SAME else VARIES


def deviating(vectors: NDArray[np.float32], norm: float) -> float | None:
    """Return the length that lies farthest from `norm`, where it lies too far; None where all is well."""
    if norm == VARIES:
        return None
    lengths = _lengths(vectors)
    farthest = float(lengths[np.abs(lengths - norm).argmax()])
    return farthest if abs(farthest / norm - 1) > _DEVIATES else None


def _lengths(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return lengths
