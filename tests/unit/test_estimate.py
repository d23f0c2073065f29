"""The plan's sums, against values worked out by hand."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from migrator.measures.sampling import Total
from migrator.planning import alternatives, calibration, duration, estimate, prices
from migrator.provider import profiles
from migrator.windows import Window
from tests.unit.test_plan_provider import BEIJING, HERE, SINGAPORE, spec

V4 = "qwen/text-embedding-v4"


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
    unsure = estimate.sizes("vector", 1024, 1000, index_count=2, most_rows=1100)
    assert unsure["index_build"] == {"memory_bytes": 5_284_400, "bytes": 2 * index}
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
        (1_000_000, None, 100 * 0.8 / 4 / 3600, "latency, assuming 0.8 s a request, 4 in flight"),
    ],
)
def test_hours_and_what_binds(
    requests_per_minute: int | None, tokens_per_minute: int | None, expected: float, binds: str
) -> None:
    found = duration.hours(
        1000,
        50_000,
        texts_per_request=10,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
    )
    assert found.hours == pytest.approx(expected)
    assert found.binds.startswith(binds)
    assert {"latency", "database_writes"} <= found.by_limit.keys()
    assert found.by_limit["database_writes"] == pytest.approx(1000 / 5000 / 3600)


def test_requests_are_packed_as_the_backfill_packs_them() -> None:
    """Ten short texts fill a request by number; of 3,000 tokens each, two fill one of 8,192."""
    assert duration.texts_per_request([50] * 100, max_texts=10, max_tokens=8192) == 10
    assert duration.texts_per_request([3000] * 100, max_texts=10, max_tokens=8192) == 2
    assert duration.texts_per_request([9000] * 10, max_texts=10, max_tokens=8192) == 1
    assert duration.texts_per_request([], max_texts=10, max_tokens=8192) == 10


NIGHT = Window.parse("22:00-06:00 UTC")


@pytest.mark.parametrize(
    ("hours", "windows", "done"),
    [
        (5, [], datetime(2026, 11, 2, 17, tzinfo=UTC)),
        (5, [NIGHT], datetime(2026, 11, 3, 3, tzinfo=UTC)),  # rests from noon to 22:00
        (8, [NIGHT], datetime(2026, 11, 3, 6, tzinfo=UTC)),
        (8.5, [NIGHT], datetime(2026, 11, 3, 22, 30, tzinfo=UTC)),  # and the next day
        (20, [NIGHT, Window.parse("12:00-14:00 UTC")], datetime(2026, 11, 4, 6, tzinfo=UTC)),
        (24 * 500, [], None),
        (24 * 500, [NIGHT], None),
    ],
)
def test_the_finishing_date_rests_outside_the_windows(
    hours: float, windows: list[Window], done: datetime | None
) -> None:
    assert duration.finish(datetime(2026, 11, 2, 12, tzinfo=UTC), hours, windows) == done


def test_c1_every_price_is_shown_with_its_source_and_the_contradiction_is_told() -> None:
    """100 million tokens: 12.00 at the page's text, 14.40 at its table."""
    found = prices.cost(Total(100e6), (0.12, 0.144), profiles.of(spec().to), V4)
    assert (found["low"], found["high"]) == (12.0, 14.4)
    sums = [(each["usd_per_mtok"], each["likely_usd"]) for each in found["by_price"]]
    assert sums == [(0.12, 12.0), (0.144, 14.4), (0.12, 12.0), (0.144, 14.4)]
    assert [each["source"].split(":")[0] for each in found["by_price"]] == ["the spec"] * 2 + [
        "published on 2026-11-01"
    ] * 2
    assert "0.12 in its text and 0.144 in its table" in found["by_price"][-1]["source"]
    assert "0.144 is 20 % above 0.12 USD" in found["contradiction"]
    assert "the cap counts with 0.144" in found["contradiction"]


def test_prices_that_agree_are_no_contradiction() -> None:
    assert prices.contradiction((0.1, 0.1), None) is None
    assert prices.contradiction((0.1, 0.1), (0.1, 0.1)) is None
    assert "0.2 is 100 % above 0.1" in str(prices.contradiction((0.2, 0.2), (0.1, 0.1)))
    free = prices.cost(prices.NOTHING, (0.0, 0.0), profiles.of(spec(base_url=HERE).to), V4)
    assert (free["low"], free["high"], free["contradiction"]) == (0.0, 0.0, None)


def test_the_band_of_the_cost_is_tokens_low_at_the_low_price_and_high_at_the_high() -> None:
    tokens = Total(100e6, error=0.01)
    found = prices.cost(tokens, (0.1, 0.2), profiles.of(spec(base_url=HERE).to), V4)
    assert found["low"] == pytest.approx(10 * (1 - 1.25 * 0.0196))
    assert found["high"] == pytest.approx(20 * (1 + 1.25 * 0.0196))


def test_alternatives_say_what_they_save() -> None:
    made = spec()
    found = alternatives.of(made, profiles.of(made.to), kind="vector", rows=1_000_000, indexes=1, duplicates=0.25)
    told = {each["what"]: each["text"] for each in found}
    assert list(told) == ["512 dimensions", "halfvec", "duplicates", "batch price"]
    # 2,192 + 2,730 bytes a row against 4,308 + 8,192, and 2,756 in memory against 4,804.
    assert told["halfvec"].startswith("61 % less disk, 43 % less memory to build")
    assert "about 25 % of the texts are copies" in told["duplicates"]
    assert "offers no batch calls" in told["batch price"]


@pytest.mark.parametrize(
    ("url", "per_mtok", "words"),
    [
        # 100 million tokens at half of the spec's 0.12 and 0.144, or of what Beijing publishes: 0.07 and 0.072.
        (BEIJING, [0.06, 0.072], "6.00 to 7.20 USD likely instead of 12.00 to 14.40 (50 % of the spec's prices: Model"),
        (
            None,
            [0.035, 0.036],
            "3.50 to 3.60 USD likely instead of 12.00 to 14.40 (50 % of the prices that dashscope-be",
        ),
        ("https://api.openai.com/v1", [0.06, 0.072], "platform.openai.com/docs/guides/batch"),
        (SINGAPORE, [], ""),
    ],
)
def test_batch_calls_are_told_with_their_sums_and_whose_word_it_is(
    url: str | None, per_mtok: list[float], words: str
) -> None:
    made = spec() if url is None else spec(base_url=url)
    profile = profiles.of(made.to)
    cost = prices.cost(Total(100e6), (0.12, 0.144), profile, made.to.model)
    assert [each["usd_per_mtok"] for each in cost["by_batch_price"]] == pytest.approx(per_mtok)
    lines = alternatives.of(made, profile, kind="halfvec", rows=1, indexes=0, duplicates=0.25)
    told = dict(alternatives.told({"alternatives": lines, "cost_usd": cost, "duplicate_share": 0.25}))
    assert words in told.get("batch price", "")
    assert ("batch price" in told) == bool(words)
    assert told["duplicates"].startswith("about 3.00 to 3.60 USD of the likely sum are for copies; about 25 %")


def test_what_a_pilot_was_billed_mends_the_sums_of_batch_calls_too() -> None:
    made = spec(base_url=BEIJING)
    cost = prices.cost(Total(100e6), (0.12, 0.144), profiles.of(made.to), made.to.model)
    mended = calibration._cost(cost, {"low": 50_000_000, "estimate": 50_000_000, "high": 50_000_000}, made)
    assert [each["likely_usd"] for each in mended["by_batch_price"]] == pytest.approx([3.0, 3.6])


def test_alternatives_that_do_not_apply_are_left_out() -> None:
    made = spec(base_url=HERE)
    profile = profiles.of(made.to)
    found = alternatives.of(made, profile, kind="halfvec", rows=10, indexes=0, duplicates=0.001)
    assert [each["what"] for each in found] == ["512 dimensions"]
    assert "memory" not in found[0]["text"]
    assert alternatives.of(made, profile, kind="vector", rows=0, indexes=1, duplicates=None) == []
    assert [
        each["what"]
        for each in alternatives.of(
            spec(base_url=BEIJING, dimensions=64),
            profiles.of(spec(base_url=BEIJING).to),
            kind="halfvec", rows=10, indexes=1, duplicates=None,
        )
    ] == ["batch price"]  # fmt: skip


@pytest.mark.parametrize(("rows_per_page", "ceiling"), [(7, 0.857), (17, 0.941), (1, 0.0), (0.0, 0.0)])
def test_p12_the_hot_share_that_is_to_be_expected(rows_per_page: float, ceiling: float) -> None:
    found = estimate.hot(rows_per_page)
    assert found["ceiling"] == ceiling
    assert found["expected"] == pytest.approx(0.95 * ceiling, abs=0.001)


def test_the_heap_grows_by_a_row_of_every_page() -> None:
    """Measured: +13 % at 7 rows a page, +6 % at 17."""
    assert estimate.heap_growth_bytes(1000, 7) == round(1000 * 8192 / 7)
    assert estimate.heap_growth_bytes(1000, 0) == 0


def test_an_index_takes_longer_by_rows_dimensions_and_fewer_processes() -> None:
    low, high = estimate.build_seconds(1024, 1_000_000, 3)
    assert low < high
    assert estimate.build_seconds(1024, 2_000_000, 3) == (2 * low, 2 * high)
    assert estimate.build_seconds(512, 1_000_000, 3) == (low / 2, high / 2)
    assert estimate.build_seconds(1024, 1_000_000, 1) == (3 * low, 3 * high)
