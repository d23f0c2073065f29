"""The plan's sums, against values worked out by hand."""

from __future__ import annotations

import random

import pytest

from migrator.planning import estimate
from migrator.provider import tokens as token_counts


def of_tokens(count: int) -> str:
    """A text that is billed as so many tokens: every digit is one, and there is an end mark."""
    return "1" * (count - token_counts.END_MARKS)


def test_the_band_of_a_sample_by_hand() -> None:
    """Counts 10 and 20: mean 15, standard deviation sqrt(50), its error sqrt(50 / 2) = 5, times 1.96 = 9.8."""
    found = estimate.tokens([of_tokens(10), of_tokens(20)], rows=100)
    assert (found.estimate, found.low, found.high) == (1500, 520, 2480)
    assert "2 sampled texts" in found.method
    assert "95 %" in found.method


def test_every_row_counted_is_no_estimate() -> None:
    found = estimate.tokens([of_tokens(10), of_tokens(20), of_tokens(33)], rows=3)
    assert (found.low, found.estimate, found.high) == (63, 63, 63)


def test_equal_texts_have_no_band() -> None:
    found = estimate.tokens([of_tokens(12)] * 50, rows=1_000_000)
    assert (found.low, found.estimate, found.high) == (12_000_000, 12_000_000, 12_000_000)


@pytest.mark.parametrize(("sample", "rows"), [([], 10), ([of_tokens(10)], 0), ([], 0)])
def test_nothing_to_embed_costs_nothing(sample: list[str], rows: int) -> None:
    found = estimate.tokens(sample, rows)
    assert (found.low, found.estimate, found.high) == (0, 0, 0)
    assert "no text" in found.method


def test_the_band_narrows_with_the_square_root_of_the_sample() -> None:
    few = estimate.tokens([of_tokens(10), of_tokens(30)] * 50, rows=10_000)
    many = estimate.tokens([of_tokens(10), of_tokens(30)] * 200, rows=10_000)
    assert few.estimate == many.estimate == 200_000
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(2, rel=0.01)


def test_the_band_holds_the_true_total_about_as_often_as_it_says() -> None:
    """150 samples of 100 from a skewed population: a 95 % band that held less than 90 % of the time would be a lie."""
    chance = random.Random(95)  # noqa: S311 - the same draws every time
    population = [2 + min(400, int(chance.lognormvariate(3, 0.8))) for _ in range(2000)]
    texts = {count: of_tokens(count) for count in population}
    total, held = sum(population), 0
    for _ in range(150):
        sample = [texts[count] for count in chance.sample(population, 100)]
        found = estimate.tokens(sample, rows=len(population))
        held += found.low <= total <= found.high
    assert 0.90 <= held / 150 <= 0.99


@pytest.mark.usefixtures("no_tokenizer")
def test_without_the_tokenizer_the_band_holds_its_error_too() -> None:
    found = estimate.tokens([of_tokens(12)] * 20, rows=1000)
    each = token_counts.estimate(of_tokens(12))
    assert found.estimate == 1000 * each
    assert found.low == round(1000 * each * (1 - token_counts.ESTIMATE_ERROR))
    assert found.high == pytest.approx(1000 * each * (1 + token_counts.ESTIMATE_ERROR), abs=1)
    assert "estimated by script" in found.method


@pytest.mark.parametrize(
    ("type_name", "dims", "size", "per_row"),
    [
        ("vector", 1024, 4104, 4104 + 3 * (44 + 24)),  # three TOAST chunks
        ("halfvec", 1024, 2056, 2056 + 2 * (44 + 24)),
        ("vector", 256, 1032, 1032),  # stays in the row
        ("halfvec", 256, 520, 520),
        ("halfvec", 2048, 4104, 4104 + 3 * (44 + 24)),
    ],
)
def test_sizes_of_a_vector(type_name: str, dims: int, size: int, per_row: int) -> None:
    assert estimate.vector_bytes(type_name, dims) == size
    assert estimate.shadow_bytes_per_row(type_name, dims) == per_row


def test_an_hnsw_graph_of_1024_dimensions() -> None:
    """4.8 kB a row in memory; on disk one element a page, since two do not fit into 8,192 bytes."""
    assert estimate.build_memory_bytes("vector", 1024, 1_000_000) == 4_804_000_000
    assert estimate.index_bytes("vector", 1024, 1000) == 1000 * 8192
    assert estimate.index_bytes("halfvec", 1024, 1000) == 1000 * 8192 // 3
    assert estimate.index_bytes("vector", 1024, 0) == 0


def test_disk_wal_and_build_of_a_plan() -> None:
    found = estimate.sizes("vector", 1024, 1000, index_count=2)
    rows, index = 1000 * 4308, 1000 * 8192
    assert found["disk_bytes"] == rows + 2 * index
    assert found["wal_bytes"] == round(1.1 * (rows + 2 * index))
    assert found["index_build"] == {"memory_bytes": 4_804_000, "bytes": 2 * index}
    bare = estimate.sizes("vector", 1024, 1000, index_count=0)
    assert (bare["disk_bytes"], bare["index_build"]) == (rows, {"memory_bytes": 0, "bytes": 0})


@pytest.mark.parametrize(
    ("requests_per_minute", "tokens_per_minute", "expected", "binds"),
    [
        (60, None, 100 / 60 / 60, "requests_per_minute"),  # 1,000 rows are 100 requests
        (None, 10_000, 50_000 / 10_000 / 60, "tokens_per_minute"),
        (60, 10_000, 50_000 / 10_000 / 60, "tokens_per_minute"),
        (10, 10_000, 100 / 10 / 60, "requests_per_minute"),
        (None, None, 100 * 0.8 / 4 / 3600, "no limit is set"),
    ],
)
def test_hours_and_what_binds(
    requests_per_minute: int | None, tokens_per_minute: int | None, expected: float, binds: str
) -> None:
    found, why = estimate.hours(
        1000,
        50_000,
        texts_per_request=10,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
    )
    assert found == pytest.approx(expected)
    assert why.startswith(binds)
