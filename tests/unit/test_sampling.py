"""What a sample tells of a table, against values worked out by hand, and how often its band holds."""

from __future__ import annotations

import math
import random

import pytest

from migrator.measures import sampling
from migrator.measures.sampling import Measured, Total


def test_pages_by_hand() -> None:
    """Pages of 10 and 20 rows out of 100: 1,500 rows; variance 50, so the mean's is 50 / 2 * (1 - 2 / 100) = 24.5."""
    found = sampling.of_pages([10, 20], 100)
    assert found.value == 1500
    assert found.error == pytest.approx(math.sqrt(24.5) / 15)
    assert found.high == pytest.approx(1500 * (1 + 1.25 * sampling.wideness(1) * found.error))
    assert found.low == 0


def test_pages_that_are_all_alike_leave_the_last_one_unknown() -> None:
    """40 of 109 pages hold 185 rows each; 20,000 rows fill 108 of them, and the last one is not full."""
    found = sampling.of_pages([185] * 40, 109)
    assert found.low <= 20_000 <= found.high
    assert found.spread < 0.015, "about a page"


def test_every_page_read_is_no_estimate() -> None:
    found = sampling.of_pages([10, 20, 33], 3)
    assert (found.low, found.value, found.high) == (63, 63, 63)


def test_a_page_without_rows_counts() -> None:
    assert sampling.of_pages([10, 0, 0, 10], 40).value == 200


@pytest.mark.parametrize(("sums", "pages"), [([], 10), ([], 0), ([0, 0], 10)])
def test_nothing_there_is_nothing(sums: list[float], pages: int) -> None:
    assert sampling.of_pages(sums, pages) == Total(0.0)


def test_a_single_page_tells_nothing_for_sure() -> None:
    found = sampling.of_pages([10], 100)
    assert (found.value, found.low) == (1000, 0)
    assert found.high > 2000


@pytest.mark.parametrize(("freedom", "wide"), [(5, 2.571), (10, 2.228), (30, 2.042), (1000, 1.962)])
def test_students_t_as_the_tables_print_it(freedom: int, wide: float) -> None:
    assert sampling.wideness(freedom) == pytest.approx(wide, rel=0.01)


def test_the_ratio_by_hand() -> None:
    """4 and 6 tokens of 10 bytes each: half a token a byte, off by -1 and +1; sqrt(2 * 2) / 20 = 0.1, of 0.5: 20 %."""
    told = [Measured("a", 10, 4), Measured("b", 10, 6)]
    found = sampling.by_ratio(told, Total(2000), rows=math.inf)
    assert (found.value, found.error) == (1000, pytest.approx(0.2))
    # Where the bytes are an estimate too, both errors add up as they do.
    assert sampling.by_ratio(told, Total(2000, 0.15, 40), rows=math.inf).error == pytest.approx(0.25)


def test_rows_of_one_page_that_are_off_together_weigh_together() -> None:
    apart = [Measured(page, 10, told) for page, told in enumerate([4, 4, 6, 6])]
    together = [Measured(page, 10, told) for page, told in zip("aabb", [4, 4, 6, 6], strict=True)]
    wide, narrow = (sampling.by_ratio(each, Total(100), rows=math.inf).error for each in (together, apart))
    assert wide == pytest.approx(narrow * math.sqrt(2) * math.sqrt(2 / (4 / 3)))


def test_every_row_looked_into_leaves_no_error_of_its_own() -> None:
    told = [Measured("a", 10, 4), Measured("b", 10, 6)]
    found = sampling.by_ratio(told, Total(20), rows=2)
    assert (found.low, found.value, found.high) == (10, 10, 10)
    assert sampling.by_ratio([], Total(20), rows=2) == Total(0.0)
    assert sampling.by_ratio([Measured("a", 10, 0)], Total(20), rows=2) == Total(0.0)


def test_the_bands_hold_the_true_totals_as_often_as_they_say_and_are_no_wider_than_they_must_be() -> None:
    """200 samples of 300 of 6,000 pages whose rows are alike, and of 200 rows on them: of rows, bytes and tokens."""
    chance = random.Random(95)  # noqa: S311 - the same draws every time
    pages = []
    for _ in range(6000):
        long, per_byte = chance.lognormvariate(5, 0.5), chance.choice([0.22, 0.25, 0.4])
        octets = [1 + int(chance.lognormvariate(0, 0.4) * long) for _ in range(chance.randint(3, 9))]
        pages.append([(each, each * per_byte * chance.uniform(0.8, 1.2)) for each in octets])
    rows = sum(map(len, pages))
    octets_total = sum(octets for page in pages for octets, _ in page)
    tokens_total = sum(tokens for page in pages for _, tokens in page)
    whole, half = [0, 0, 0], [0, 0, 0]
    for _ in range(200):
        drawn = chance.sample(range(len(pages)), 300)
        by_rows = sampling.of_pages([len(pages[each]) for each in drawn], len(pages))
        by_octets = sampling.of_pages([sum(octets for octets, _ in pages[each]) for each in drawn], len(pages))
        looked = chance.sample([(each, *row) for each in drawn for row in pages[each]], 200)
        by_tokens = sampling.by_ratio([Measured(*each) for each in looked], by_octets, rows)
        totals = (by_rows, rows), (by_octets, octets_total), (by_tokens, tokens_total)
        for place, (found, true) in enumerate(totals):
            off = abs(found.value / true - 1)
            whole[place] += found.low <= true <= found.high
            half[place] += off <= found.spread / 2
    assert min(whole) >= 0.95 * 200, whole
    assert max(half) < 0.85 * 200, half


def test_distinct_values_by_hand() -> None:
    """1, 1, 2, 3 of 100 rows: three values, two of them once: 4 * 3 / (4 - 2 + 2 * 4 / 100)."""
    assert sampling.distinct([1, 1, 2, 3], 100) == pytest.approx(12 / 2.08)
    assert sampling.distinct([1, 2, 3], 100) == pytest.approx(100), "all of them different: so are all rows"
    assert sampling.distinct([1, 1, 1, 1], 100) == 1
    assert sampling.distinct([1, 1, 2], 3) == 2
    assert sampling.distinct([], 10) == 0


def test_quantiles_are_values_that_were_drawn() -> None:
    assert sampling.quantiles([5, 1, 3, 2, 4], [0, 0.5, 0.99]) == [1, 3, 5]
    assert sampling.quantiles([], [0.5]) == []
