"""Cosines and rankings, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from migrator.measures import cosine, retrieval


def array(*rows: list[float]) -> NDArray[np.float32]:
    return np.array(rows, dtype="<f4")


def test_cosines_of_pairs() -> None:
    first = array([3, 4], [1, 0], [1, 0], [1, 1], [2, 0])
    second = array([4, 3], [0, 5], [-7, 0], [1, 0], [9, 0])
    assert cosine.paired(first, second).tolist() == pytest.approx([24 / 25, 0, -1, 1 / math.sqrt(2), 1])


def test_a_zero_row_has_cosine_0_and_never_nan() -> None:
    assert cosine.paired(array([0, 0], [1, 2]), array([1, 2], [0, 0])).tolist() == [0, 0]
    assert cosine.paired(array([0, 0]), array([0, 0])).tolist() == [0]


def test_rows_are_compared_pair_by_pair_and_not_all_with_all() -> None:
    assert cosine.paired(np.eye(3, dtype="<f4"), np.roll(np.eye(3, dtype="<f4"), 1, axis=0)).tolist() == [0, 0, 0]
    assert cosine.paired(np.empty((0, 3), dtype="<f4"), np.empty((0, 3), dtype="<f4")).shape == (0,)


def test_cosines_are_summed_in_double_precision() -> None:
    """In single precision 4,096 equal components of 1e20 overflow; 1.0 must come out to the last digits."""
    row = np.full((1, 4096), 1e20, dtype="<f4")
    assert cosine.paired(row, row)[0] == pytest.approx(1.0, abs=1e-12)


#: 1 / log2(rank + 1) of ranks 1, 2, 3.
G1, G2, G3 = 1.0, 0.6309297535714575, 0.5


@pytest.mark.parametrize(
    ("ranking", "relevant", "depth", "expected"),
    [
        (["a", "b", "c"], {"a"}, 10, 1.0),
        (["b", "a", "c"], {"a"}, 10, G2),
        (["b", "c", "a"], {"a"}, 10, G3),
        (["b", "c", "a"], {"a"}, 2, 0.0),
        (["a", "b", "c"], {"a", "c"}, 10, (G1 + G3) / (G1 + G2)),
        (["c", "a", "b"], {"a", "c"}, 10, 1.0),
        (["x", "y"], {"a"}, 10, 0.0),
        ([], {"a"}, 10, 0.0),
        (["a"], set[str](), 10, 0.0),
        # More is relevant than fits: the ideal is cut at the depth, too.
        (["a", "b"], {"a", "b", "c", "d"}, 2, 1.0),
        (["a", "x"], {"a", "b", "c", "d"}, 2, G1 / (G1 + G2)),
        # What is relevant and was never ranked lowers the figure.
        (["a", "x", "y"], {"a", "b"}, 10, G1 / (G1 + G2)),
    ],
)
def test_ndcg(ranking: list[str], relevant: set[str], depth: int, expected: float) -> None:
    assert retrieval.ndcg(ranking, relevant, depth) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ranking", "relevant", "depth", "expected"),
    [
        (["a", "b", "c"], {"a"}, 10, 1.0),
        (["x", "b", "a"], {"a", "b"}, 10, 1.0),
        (["x", "b", "a"], {"a", "b"}, 2, 0.5),
        (["x", "y"], {"a"}, 10, 0.0),
        (["a"], set[str](), 10, 0.0),
        ([], {"a"}, 10, 0.0),
    ],
)
def test_recall(ranking: list[str], relevant: set[str], depth: int, expected: float) -> None:
    assert retrieval.recall(ranking, relevant, depth) == pytest.approx(expected)


def test_the_depth_is_ten_where_nothing_is_said() -> None:
    ranking = list("bcdefghijka")
    assert retrieval.ndcg(ranking, {"a"}) == retrieval.recall(ranking, {"a"}) == 0.0
    assert retrieval.ndcg(ranking, {"k"}) == pytest.approx(1 / math.log2(11))
    assert retrieval.recall(ranking, {"k"}) == 1.0
