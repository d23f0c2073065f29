"""How wide a window is: a long lane, and still a batch for every worker of a small table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator.target import pages


@pytest.mark.parametrize(
    ("heap_pages", "rows", "wanted"),
    [
        (0, 0, 500),  # an empty table
        (15, 300, 32),  # one batch
        (300, 300, 500),  # one row a page: no batch of less than 500 rows
        (1_000_000, 1_000_000, 768),
        (3_000, 21_000, 750),  # a small table: four batches
        (1_000_000, 7_000_000, 768),  # a whole lane
        (1_000_000, 24_000_000, 375),  # and no longer than three minutes
        (1_000_000, 200_000_000, 256),
        (100, 20_000, 32),  # 200 rows a page
    ],
)
def test_width(heap_pages: int, rows: int, wanted: int) -> None:
    assert pages.width(heap_pages, rows) == wanted


@given(heap_pages=st.integers(0, 10**7), per_page=st.floats(0, 291))
def test_a_lane_is_never_shorter_than_a_few_requests(heap_pages: int, per_page: float) -> None:
    assert pages.width(heap_pages, int(heap_pages * per_page)) >= pages.MIN_PAGES
