"""How steady a provider is, and what may then be asked of a sample that is embedded again."""

from __future__ import annotations

import numpy as np
import pytest

from migrator.validation.gates import Steadiness


@pytest.mark.parametrize(
    ("lowest", "threshold"),
    [
        (1.0, 0.999),
        (0.9997, 0.999),
        (0.9990, 0.997),
        (0.9970, 0.991),
        (0.9900, 0.99),
        (0.5, 0.99),
    ],
)
def test_three_times_the_distance_is_let_pass_down_to_where_another_text_may_be(
    lowest: float, threshold: float
) -> None:
    assert Steadiness(20, lowest).threshold(0.999) == pytest.approx(threshold)


def test_a_threshold_that_is_wanted_lower_stays() -> None:
    assert Steadiness(20, 0.5).threshold(0.9) == 0.9


def test_the_farthest_answer_counts_and_a_refusal_does_not() -> None:
    first = np.array([[1, 0], [1, 0], [0, 0]], dtype=np.float32)
    second = np.array([[1, 0], [0.6, 0.8], [1, 0]], dtype=np.float32)
    assert Steadiness.of(first, second) == Steadiness(2, pytest.approx(0.6))
    assert Steadiness.of(first[:0], second[:0]) == Steadiness(0, 1.0)
