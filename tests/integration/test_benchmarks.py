"""The benchmarks still measure what is there: each way of filling the column fills it, on a table of a few rows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from benchmarks import backfill_floor
from benchmarks import backfill_ways as ways
from benchmarks.backfill_table import clone, draw, make
from migrator.demo.servers import Postgres

ROWS = 300


@pytest.fixture(scope="module")
def base(postgres: Postgres) -> Iterator[str]:
    make(postgres, "bench_base", rows=ROWS, body=400)
    yield "bench_base"
    with psycopg.connect(postgres.url, autocommit=True) as admin:
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier("bench_base")))


def _filled(url: str, column: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(f"SELECT count({column}) FROM docs".encode()).fetchone()
        assert row is not None
        return int(row[0])


@pytest.mark.parametrize("way", ["ours", "ours_by_two", "ours_one_by_one"])
def test_our_engine_fills_every_row(postgres: Postgres, base: str, way: str) -> None:
    with clone(postgres, base) as url:
        asyncio.run(ways.expand(url))
        getattr(ways, way)(url, draw(ROWS, 7))
        assert _filled(url, "embedding__migrator") == ROWS


@pytest.mark.parametrize("shape", ways.SHAPES)
def test_every_shape_fills_every_row(postgres: Postgres, base: str, shape: str) -> None:
    with clone(postgres, base) as url:
        ways.add_column(url)
        assert ways.shape(url, draw(ROWS, 7), shape, rows=ROWS, step=50) == ROWS
        assert _filled(url, "shadow") == ROWS


@pytest.mark.parametrize("way", ["floor", "floor_without_index"])
def test_postgresql_alone_writes_every_row(postgres: Postgres, base: str, way: str) -> None:
    """By the old index, or with it gone, and each row its own vector."""
    found = draw(ROWS, 7)
    with clone(postgres, base) as url:
        ways.add_column(url)
        assert getattr(backfill_floor, way)(url, found)[0] == ROWS
        with psycopg.connect(url) as connection:
            right = connection.execute(
                "SELECT count(*) FROM docs JOIN beside USING (id) WHERE shadow = beside.embedding"
            )
            assert right.fetchone() == (ROWS,)
            indexes = connection.execute("SELECT count(*) FROM pg_index WHERE indrelid = 'docs'::regclass").fetchone()
            assert indexes == (2 if way == "floor" else 1,)
