"""What the order of writes costs: page lanes against key order, on full pages, with an HNSW index on the live column.

Each way fills the same rows of a table of its own with the same vectors, one way after the other, on one embedded
PostgreSQL (fsync on). Before each, its table is as new: loaded, indexed, vacuumed, checkpointed. Lanes are written by
`target.lanes`, in transactions of one answer, as the backfill does, and of a whole lane (one row of each page of a
window), its best case. All send vectors in binary; only order, statement and rows a transaction differ.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks import Figure
from migrator.cli import console
from migrator.demo.servers import Postgres
from migrator.provider import profiles
from migrator.state import schema
from migrator.state.connection import driver, make_engine, transaction
from migrator.target import lanes as lanes_sql
from migrator.target import pages, vectors
from migrator.target.lanes import Lanes
from migrator.target.relation import Target
from migrator.template import Template

_BENCH = "lanes"
ROWS, DIMS = 2800, 1024
#: Characters of a row's text: seven rows fill a page, whose vectors lie in TOAST.
_BODY = 1080
#: Rows a transaction of the two ways in key order: what is usual for each.
_EXECUTEMANY_ROWS, _UNNEST_ROWS = 100, 1000
#: P12: the share of HOT updates, of its ceiling 1 - 1 / rows per page.
_HOT_SHARE = 0.95

_LOAD = """
CREATE TABLE {table} (id bigint PRIMARY KEY, body text STORAGE PLAIN, embedding vector({dims}), shadow vector({dims}));
INSERT INTO {table} (id, body, embedding) SELECT id, body, embedding FROM source ORDER BY id;
CREATE INDEX ON {table} USING hnsw (embedding vector_cosine_ops);
"""
_SOURCE = """
CREATE EXTENSION vector;
SELECT setseed(0.5);
CREATE UNLOGGED TABLE source AS
  SELECT i AS id, rpad('text ' || i, {body}, 'x') AS body,
         (SELECT array_agg(random() - 0.5) FROM generate_series(1, {dims}) WHERE i > 0)::vector({dims}) AS embedding
    FROM generate_series(1, {rows}) AS i;
"""

Vectors = NDArray[np.float32]
_SIZES = (("rows", ROWS), ("dims", DIMS), ("body", _BODY))
#: Our own ways: the others are what they are compared with.
_OURS = ("by_answers", "by_lanes")
#: Seconds that statistics may take to arrive.
_STATISTICS_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class _Measured:
    """What one way did. `growth` is the heap's size after, of its size before."""

    rows_per_second: float
    hot: float
    growth: float
    rows_per_page: float


def _lanes(table: str) -> Lanes:
    template = Template.parse("{body}")
    target = Target("public", table, "embedding", "shadow", ("id",), ("bigint",), template, None, only_embedded=False)
    return Lanes(target, "shadow", "embedding", "public", "vector")


def _named(table: str, text: str) -> sql.Composed:
    # Texts of this module only: psycopg asks for a literal and can't know.
    template: Any = text
    return sql.SQL(template).format(table=sql.Identifier(table), **{name: sql.Literal(value) for name, value in _SIZES})


async def _page_count(engine: AsyncEngine, table: str) -> int:
    async with transaction(engine) as connection:
        return (await lanes_sql.page_count(connection, _lanes(table).target))[2]


async def _in_lanes(engine: AsyncEngine, table: str, found: Vectors, size: int | None) -> None:
    """Write windows as the backfill reads them, `size` rows a transaction, or a whole lane where it is None."""
    lanes, count = _lanes(table), await _page_count(engine, table)
    width = pages.width(count, ROWS)
    for first in range(0, count, width):
        async with transaction(engine, read_only=True) as connection:
            rows = await lanes.read_window(connection, 0, first, first + width - 1)
        step = size or min(width, count - first)
        for start in range(0, len(rows), step):
            run = rows[start : start + step]
            async with transaction(engine) as connection:
                await lanes.lock_table(connection)
                await lanes.write(connection, run, found[[int(row.key[0]) - 1 for row in run]])


async def _by_answers(engine: AsyncEngine, table: str, found: Vectors) -> None:
    await _in_lanes(engine, table, found, profiles.load()["generic"].max_texts)


async def _by_lanes(engine: AsyncEngine, table: str, found: Vectors) -> None:
    await _in_lanes(engine, table, found, None)


async def _by_executemany(engine: AsyncEngine, table: str, found: Vectors) -> None:
    statement = _named(table, "UPDATE public.{table} SET shadow = %s WHERE id = %s")
    for start in range(0, ROWS, _EXECUTEMANY_ROWS):
        async with transaction(engine) as connection:
            raw = await driver(connection)
            await vectors.register(raw, "public")
            wire = vectors.encode(found[start : start + _EXECUTEMANY_ROWS], "vector")
            async with raw.cursor() as cursor:
                await cursor.executemany(statement, [(each, start + at) for at, each in enumerate(wire, start=1)])


async def _by_unnest(engine: AsyncEngine, table: str, found: Vectors) -> None:
    statement = _named(
        table,
        "UPDATE public.{table} AS t SET shadow = v.vector"
        " FROM unnest(%s::bigint[], %b::public.vector[]) AS v (id, vector) WHERE t.id = v.id",
    )
    for start in range(0, ROWS, _UNNEST_ROWS):
        async with transaction(engine) as connection:
            raw = await driver(connection)
            await vectors.register(raw, "public")
            wire = vectors.encode(found[start : start + _UNNEST_ROWS], "vector")
            await raw.execute(statement, [list(range(start + 1, start + 1 + len(wire))), wire])


_Write = Callable[[AsyncEngine, str, Vectors], Awaitable[None]]
#: Table -> how it is written. The first two are ours.
_WAYS: dict[str, tuple[str, _Write]] = {
    "by_answers": ("lanes, an answer a transaction", _by_answers),
    "by_lanes": ("lanes, a lane a transaction", _by_lanes),
    "by_executemany": (f"key order, executemany, {_EXECUTEMANY_ROWS} a transaction", _by_executemany),
    "by_unnest": (f"key order, one unnest, {_UNNEST_ROWS:,} a transaction", _by_unnest),
}


async def _measure(url: str, table: str, write: _Write, found: Vectors) -> _Measured:
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(_named(table, _LOAD))
        admin.execute(_named(table, "VACUUM ANALYZE {table}"))
        admin.execute("CHECKPOINT")
    engine = make_engine(url, "benchmark")
    before = await _page_count(engine, table)
    began = time.perf_counter()
    await write(engine, table, found)
    seconds = time.perf_counter() - began
    after = await _page_count(engine, table)
    # A session's counters are told when it ends.
    await engine.dispose()
    with psycopg.connect(url, autocommit=True) as admin:
        updates, hot = _counters(admin, table)
    if updates != ROWS:
        raise RuntimeError(f"{table}: {updates} updates were counted for {ROWS} rows")
    return _Measured(ROWS / seconds, hot / updates, after / before, ROWS / before)


def _counters(admin: psycopg.Connection, table: str) -> tuple[int, int]:
    deadline = time.monotonic() + _STATISTICS_SECONDS
    while True:
        row = admin.execute(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_all_tables WHERE relname = %s", [table]
        ).fetchone()
        if row is not None and (row[0] >= ROWS or time.monotonic() > deadline):
            return row[0], row[1]
        time.sleep(0.05)


async def _run(url: str) -> dict[str, _Measured]:
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(_named("source", _SOURCE))
    engine = make_engine(url, "benchmark")
    async with transaction(engine) as connection:
        await schema.upgrade(connection)
    await engine.dispose()
    found = np.random.default_rng(7).standard_normal((ROWS, DIMS)).astype("<f4")
    measured = {}
    for table, (name, write) in _WAYS.items():
        console.aside(f"  {name} ...")
        measured[table] = await _measure(url, table, write, found)
    return measured


def _figures(measured: dict[str, _Measured]) -> list[Figure]:
    figures = []
    for table, (name, _) in _WAYS.items():
        each = measured[table]
        ceiling = 1 - 1 / each.rows_per_page
        figures.append(Figure(_BENCH, f"speed: {name}", each.rows_per_second, "rows/s"))
        if table in _OURS:
            low, versus = _HOT_SHARE * ceiling, f"{_HOT_SHARE} of {ceiling:.3f} at {each.rows_per_page:.1f} rows a page"
            figures.append(Figure.at_least(_BENCH, f"HOT share: {name}", each.hot, "share", low, versus))
        else:
            figures.append(Figure(_BENCH, f"HOT share: {name}", each.hot, "share"))
        figures.append(Figure(_BENCH, f"heap after: {name}", each.growth, "ratio", versus="heap before"))
    for ours in _OURS:
        for table in _WAYS.keys() - set(_OURS):
            ratio = measured[ours].rows_per_second / measured[table].rows_per_second
            figures.append(
                Figure.at_least(_BENCH, f"times as fast: {_WAYS[ours][0]}", ratio, "ratio", 1, _WAYS[table][0])
            )
    return figures


def run() -> list[Figure]:
    """Measure on a PostgreSQL of its own; returns the figures.

    Raises: ExtraMissing.
    """
    home = Path(tempfile.mkdtemp(prefix="mgb-"))
    # PostgreSQL runs as `nobody` where we are root, and must pass through.
    home.chmod(0o711)
    server = Postgres(home / "postgres")
    try:
        server.start()
        return _figures(asyncio.run(_run(server.url)))
    finally:
        server.remove()
        shutil.rmtree(home, ignore_errors=True)
