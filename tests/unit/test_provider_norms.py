"""The length of vectors: measured once, held to afterwards, and only where it says something."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from migrator.provider import norms


def of_lengths(*lengths: float) -> NDArray[np.float32]:
    made = np.random.default_rng(7).standard_normal((len(lengths), 16))
    scaled = made / np.linalg.norm(made, axis=1, keepdims=True) * np.array(lengths)[:, None]
    return scaled.astype(np.float32)


@pytest.mark.parametrize(
    ("lengths", "norm"),
    [
        ((1, 1, 1), 1.0),
        ((1,), 1.0),
        ((1.0005, 0.9996), 1.0),
        ((0.5,), None),
        ((3, 3, 3), 3.0),
        ((0.9, 1.1), norms.VARIES),
        ((1, 1, 1.4), norms.VARIES),
    ],
)
def test_r2_the_length_is_measured(lengths: tuple[float, ...], norm: float | None) -> None:
    found = norms.measure(of_lengths(*lengths))
    assert found is norm if norm is None else found == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize(
    ("lengths", "norm", "farthest"),
    [
        ((1, 1), 1.0, None),
        ((1, 1.005), 1.0, None),
        ((1, 0.97, 1.02), 1.0, 0.97),
        ((1, 1), 3.0, 1.0),
        ((7, 0.1), norms.VARIES, None),
    ],
)
def test_r14_what_deviates_is_named(lengths: tuple[float, ...], norm: float, farthest: float | None) -> None:
    found = norms.deviating(of_lengths(*lengths), norm)
    assert found is None if farthest is None else found == pytest.approx(farthest, rel=1e-5)
