"""Cosines between rows of two arrays.

Floor 0. Pure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def paired(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine of each pair of rows.

    Shape: both n x dims; the result n.   Zero rows give 0, never NaN.
    """
    a, b = first.astype(np.float64), second.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: NDArray[np.float64] = np.zeros(len(a))
    np.divide(np.einsum("ij,ij->i", a, b), norms, out=cosines, where=norms > 0)
    return cosines
