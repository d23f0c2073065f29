"""One vector beside several texts, found in bounded memory."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from migrator.measures import sharing
from migrator.measures.sharing import Sharing


def numbers(values: list[int]) -> sharing.Numbers:
    return np.array(values, dtype=np.uint64)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(rows=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=30))
def test_a_row_shares_its_vector_exactly_where_another_text_has_it(rows: list[tuple[int, int]]) -> None:
    prints, texts = numbers([row[0] for row in rows]), numbers([row[1] for row in rows])
    expected = [any(vector == other and text != its for other, its in rows) for vector, text in rows]
    assert sharing.groups(prints, texts).tolist() == expected


def test_equal_vectors_have_equal_fingerprints_and_no_others_do() -> None:
    chance = np.random.default_rng(1)
    measures = [chance.standard_normal(100_000).astype(np.float32).astype(np.float64) for _ in range(2)]
    prints = sharing.fingerprints(*measures)
    assert (prints == sharing.fingerprints(*measures)).all()
    assert len(np.unique(prints)) == len(prints)
    assert (sharing.fingerprints(*measures[::-1]) != prints).all()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), limit=st.integers(50, 400))
def test_a_slice_keeps_all_rows_of_a_vector_or_none(seed: int, limit: int) -> None:
    chance = np.random.default_rng(seed)
    kept = Sharing(max_rows=limit)
    vectors = chance.integers(0, 2**63, 100, dtype=np.uint64)
    prints = np.repeat(vectors, 10)
    chance.shuffle(prints)
    for start in range(0, 1000, 70):
        block = prints[start : start + 70]
        kept.add(block, np.arange(start, start + len(block), dtype=np.uint64), block)
    found, counts = np.unique(kept.rows[0], return_counts=True)
    assert kept.seen == 1000
    assert kept.rows.shape[1] <= limit
    assert (counts == 10).all()
    assert set(found) == {vector for vector in vectors if vector % kept.slices == 0}
