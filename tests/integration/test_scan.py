"""The scan of a plan against real tables: every figure, every shape of table, and how often its bands hold."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from migrator.demo import corpus
from migrator.measures import languages
from migrator.planning import plan as plans
from migrator.planning import population, scan
from migrator.planning.population import Population
from migrator.planning.scan import Drawn, Scan
from migrator.provider import tokens
from migrator.spending.worker import Worker
from migrator.state.connection import make_engine, transaction
from migrator.target import facts
from migrator.target.relation import Target
from migrator.template import Template
from tests.deployment import Deployment

MAX_TOKENS = 8192
#: Seeded samples of each table, and how many of them have to hold.
SAMPLES, HOLD = 20, 19
PROSE = {
    "english": "The committee of the town decided yesterday that every old bridge across the river must be mended soon",
    "french": "La commission a décidé hier que tous les anciens ponts sur la rivière devront être réparés avant l'été",
    "code": "def merge(left: list[int], right: list[int]):\n    while left and right: yield left.pop(0)\n",
    "cjk": "委员会昨天决定必须尽快修复河上的所有旧桥因为它们已经很老了而且不再安全",
}


def mixed(rows: int, seed: int = 7) -> list[str | None]:
    """English, French, code, Han and nothing at all, in runs as they are imported; a few texts are very long."""
    chance = random.Random(seed)  # noqa: S311 - the same rows every time
    made: list[str | None] = []
    while len(made) < rows:
        kind = chance.choice(list(PROSE))
        for _ in range(chance.randint(20, 200)):
            words = PROSE[kind].split(" ") if kind != "cjk" else list(PROSE[kind])
            joined = (" " if kind != "cjk" else "").join(
                chance.choices(words, k=max(1, int(chance.lognormvariate(3.2, 1.1))))
            )
            made.append(None if chance.random() < 0.03 else joined)
    return made[:rows]


Fill = Callable[[list[str | None]], None]


@pytest.fixture
def fill(deployment: Deployment) -> Fill:
    """Fill the deployment's table with these texts, in this order."""
    deployment.make_table(0)

    def made(texts: list[str | None]) -> None:
        with deployment.connect() as connection, connection.cursor() as cursor:
            with cursor.copy("COPY docs (title, body) FROM STDIN") as copy:
                for text in texts:
                    copy.write_row((None, text))
            cursor.execute("ANALYZE docs")

    return made


async def scanning(worker: Worker, **values: Any) -> Scan:
    async with transaction(worker.engine, read_only=True) as connection:
        relation = await facts.relation(connection, "public", "docs")
        assert relation is not None
        heaps = await facts.heaps(connection, relation.oid)
    target = Target(
        schema="public", table="docs", column="embedding", shadow="embedding__migrator", key_columns=("id",),
        key_types=("bigint",), template=Template.parse(values.pop("text", "{body}")), where=values.pop("where", None),
        only_embedded=False,
    )  # fmt: skip
    return Scan(worker.engine, target, heaps, **values)


async def drawn(made: Scan, *, max_tokens: int = MAX_TOKENS) -> Drawn:
    found = await made.draw()
    await made.look_into(found, tokenizer="qwen", max_text_tokens=max_tokens)
    return found


async def sampled(made: Scan, *, max_tokens: int = MAX_TOKENS, truncates: bool = False) -> Population:
    """Scan without counting, as a table is that is too large for it."""
    found = await drawn(made, max_tokens=max_tokens)
    return population.of(found, made.heaps, tokenizer="qwen", truncates=truncates)


def billed(texts: list[str | None]) -> int:
    return sum(tokens.count_all([text for text in texts if text and text.strip()])[0])


@pytest.mark.parametrize("table", ["wikipedia", "mixed"])
async def test_the_stated_band_holds_the_tokens_that_are_billed(fill: Fill, worker: Worker, table: str) -> None:
    """The band in at least 19 of 20 samples, of all pages and of some; likely within 3 % at 1,000 texts."""
    texts: list[str | None] = mixed(9000)
    if table == "wikipedia":
        texts = [each.body for each in corpus.load(7000).articles]
    fill(texts)
    true = billed(texts)
    for pages in (scan.PAGES, 120):
        held, likely = 0, []
        for seed in range(SAMPLES):
            found = await sampled(await scanning(worker, seed=seed, pages=pages))
            held += found.tokens.low <= true <= found.tokens.high
            likely.append(abs(found.tokens.value / true - 1))
            assert len(found.drawn.texts) == scan.TEXTS
        assert held >= HOLD, (pages, held, likely)
        if pages == scan.PAGES:
            assert max(likely) <= 0.03, likely


async def test_small_tables_are_counted_and_large_ones_are_drawn(
    fill: Fill, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill([*mixed(3000), "", "  \n ", None])
    made = await scanning(worker)
    found = await drawn(made)
    await made.count(found, exact=False, truncates=False)
    counted = population.of(found, made.heaps, tokenizer="qwen", truncates=False)
    assert (counted.counted, counted.rows.low, counted.rows.high) == (True, 3003, 3003)
    # Every page was read, so the sample knows all of it too; only where texts have to be looked into it is unsure.
    apart = await sampled(made)
    assert {**apart.counts, "octets": apart.octets.value} == counted.counts
    assert apart.octets.error == 0
    assert counted.counts["all_null"] > 50
    assert counted.counts["empty"] >= 1
    assert counted.counts["blank"] == 1
    monkeypatch.setattr(scan, "COUNTED_PAGES", 1)
    large = await drawn(made)
    await made.count(large, exact=False, truncates=False)
    assert large.counts is None
    await made.count(large, exact=True, truncates=False)
    assert large.counts == counted.counts


async def test_a_count_that_takes_too_long_gives_way_to_the_sample(
    fill: Fill, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(mixed(3000))
    monkeypatch.setattr(scan, "_COUNT_SECONDS", 0.001)
    made = await scanning(worker)
    found = await drawn(made)
    await made.count(found, exact=False, truncates=False)
    assert found.counts is None


@pytest.mark.parametrize("truncates", [False, True])
async def test_texts_over_the_models_window_are_not_billed_or_only_up_to_it(
    fill: Fill,
    worker: Worker,
    truncates: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    texts = mixed(4000)
    fill(texts)
    counts = tokens.count_all([text for text in texts if text])[0]
    true = sum(each if each <= 60 else 60 * truncates for each in counts)
    found = await sampled(await scanning(worker), max_tokens=60, truncates=truncates)
    assert found.tokens.low <= true <= found.tokens.high
    assert abs(found.tokens.value / true - 1) < 0.03
    assert found.counts["too_long"] == pytest.approx(sum(each > 60 for each in counts), rel=0.05)


async def test_pages_of_many_rows_are_read_to_their_end(fill: Fill, worker: Worker) -> None:
    """About 150 rows on a page: more than are looked for at first."""
    fill(["x"] * 20_000)
    found = await sampled(await scanning(worker, pages=40))
    assert found.rows_per_page > 100
    assert found.rows.value == pytest.approx(20_000, rel=0.05)
    assert found.rows.low <= 20_000 <= found.rows.high


async def test_pages_that_are_not_there_break_nothing(fill: Fill, worker: Worker, sql: psycopg.Connection) -> None:
    """A dump's statistics were restored: of a hundred million rows on more pages than the file has."""
    fill(mixed(2000))
    sql.execute(
        "SELECT pg_restore_relation_stats('schemaname', 'public', 'relname', 'docs', 'relpages', 6000000,"
        " 'reltuples', 100000000::real)"
    )
    found = await sampled(await scanning(worker))
    assert found.beyond_file
    assert found.rows.value == pytest.approx(100e6)
    assert (found.rows.low, found.rows.high) == (pytest.approx(90e6), pytest.approx(110e6))
    assert "statistics" in found.method
    assert found.tokens.value == pytest.approx(100e6 / 2000 * billed(mixed(2000)), rel=0.03)


async def test_partitions_are_drawn_from_by_their_size_and_through_the_parent_where_they_may_not_be_read(
    deployment: Deployment, worker: Worker, sql: psycopg.Connection
) -> None:
    sql.execute(
        "CREATE TABLE docs (id bigint, body text, embedding vector(64)) PARTITION BY RANGE (id);"
        "CREATE TABLE docs_a PARTITION OF docs FOR VALUES FROM (0) TO (4000);"
        "CREATE TABLE docs_b PARTITION OF docs FOR VALUES FROM (4000) TO (5000);"
        "INSERT INTO docs SELECT n, 'short ' || n FROM generate_series(0, 3999) AS n;"
        "INSERT INTO docs SELECT n, repeat('much longer ' || n, 30) FROM generate_series(4000, 4999) AS n"
    )
    made = await scanning(worker)
    whole = await sampled(made)
    assert whole.rows.value == 5000
    assert [each.may_read for each in made.heaps] == [True, True]
    found = await sampled(replace(made, pages=40))
    assert found.rows.low <= 5000 <= found.rows.high
    sql.execute("CREATE ROLE above_only LOGIN; GRANT SELECT ON docs TO above_only")
    engine = make_engine(deployment.url.replace("postgres@", "above_only@"), "test")
    try:
        async with transaction(engine, read_only=True) as connection:
            relation = await facts.relation(connection, "public", "docs")
            assert relation is not None
            heaps = await facts.heaps(connection, relation.oid)
        assert [each.may_read for each in heaps] == [False, False]
        assert (await sampled(replace(made, engine=engine, heaps=heaps))).counts == whole.counts
    finally:
        await engine.dispose()
        sql.execute("DROP OWNED BY above_only; DROP ROLE above_only")


async def test_the_mix_of_languages_is_told_in_the_words_of_a_pilot_and_with_what_it_costs(
    fill: Fill, worker: Worker
) -> None:
    """A half is English, a quarter French, a quarter Han, whose texts are short and take more tokens a byte."""
    english = "the committee of the town decided that the old bridge is to be mended by the spring"
    french = "la commission a décidé que les anciens ponts sur la rivière seront réparés par la ville avant l'été"
    han = "委员会昨天决定必须尽快修复河上的所有旧桥"
    fill([text for number in range(100) for text in (f"{english} {number}", f"{english}", french, han)])
    found = (await sampled(await scanning(worker))).languages()
    assert {name: each["texts"] for name, each in found.items()} == {"english": 0.5, "french": 0.25, "han": 0.25}
    total = billed([text for number in range(100) for text in (f"{english} {number}", f"{english}", french, han)])
    assert found["french"]["tokens"] == pytest.approx(billed([french] * 100) / total, abs=0.001)
    assert set(found) <= languages.NAMES | {"han"}


async def test_scripts_lengths_copies_and_arrivals(fill: Fill, worker: Worker, sql: psycopg.Connection) -> None:
    """A third of the texts is Han, a quarter are copies, and ten rows arrive in a day."""
    texts = [f"text number {number} of so many words" for number in range(800)]
    fill([*texts, *(["the same words again and again"] * 401), *(f"文章第{number}号" for number in range(600))])
    sql.execute("ALTER TABLE docs ADD updated_at timestamptz DEFAULT now(), ADD created_at timestamptz")
    sql.execute("UPDATE docs SET created_at = now() - interval '1 day' * (id / 10.0)")
    engine = worker.engine
    made = await scanning(worker)
    oid = made.heaps[0].oid
    counters, column = await scan.activity(engine, oid, made.heaps)
    assert column == "created_at", "not the column that every update touches"
    found = await sampled(await scanning(worker, arrived=column))
    assert found.scripts() == {"latin": pytest.approx(2 / 3, abs=0.06), "han": pytest.approx(1 / 3, abs=0.06)}
    assert set(found.languages()) == {"english", "han"}
    assert found.duplicates() == pytest.approx(400 / 1801, abs=0.01)
    lengths = found.lengths()
    assert lengths["bytes"]["p5"] <= lengths["bytes"]["p50"] <= lengths["bytes"]["max"] == 32
    growth = found.growth(counters, column)
    assert growth.per_day == pytest.approx(10, rel=0.05)
    assert "younger than 7 days by created_at" in growth.how
    assert found.growth({"seconds": 864_000.0, "inserted": 500}, None).per_day == 50
    assert found.growth({"seconds": 864_000.0, "inserted": 1801}, None).per_day is None, "it was loaded since"
    assert found.growth(None, None).per_day is None


async def test_p11_no_text_stays_in_what_a_plan_keeps(deployment: Deployment, fill: Fill, worker: Worker) -> None:
    fill([f"canary-secret-{number} words of a row" for number in range(50)])
    made = await plans.make(worker.engine, deployment.spec)
    assert made.document["rows"] == 50
    assert "canary" not in json.dumps(made.document, default=str)
    assert "canary" not in repr(made)
