"""How long a plan takes: on a million rows, and on as many as statistics say that there are.

A million rows of real prose (cuts of Wikipedia leads of 100 to 1,000 bytes) on an embedded PostgreSQL, planned as
`migrator plan` does. A hundred million would not fit here: what tells a plan of them is statistics, so they are set as
a restored dump sets them (pg_restore_relation_stats, PostgreSQL 18), and the pages that they tell of are not there.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import Figure
from migrator import spec as specs
from migrator.cli import console
from migrator.demo import corpus
from migrator.demo.servers import Postgres
from migrator.planning import plan as plans
from migrator.planning.plan import Plan
from migrator.state.connection import make_engine

_BENCH = "plan"
ROWS, STATED_ROWS = 1_000_000, 100_000_000
#: Seconds that a plan may take.
_SECONDS, _STATED_SECONDS = 10.0, 60.0
#: Characters of prose that a row is cut from.
_PIECE = 1050
_TABLE = """
CREATE EXTENSION vector;
CREATE TABLE docs (id bigint PRIMARY KEY, body text, created_at timestamptz NOT NULL, embedding vector(8));
CREATE INDEX ON docs (created_at);
CREATE TEMP TABLE prose (id bigint PRIMARY KEY, body text);
"""
_FILL = """
INSERT INTO docs SELECT n, substr(p.body, (1 + n %% 50)::int, (100 + n * 104729 %% 900)::int),
                        now() - interval '1 minute' * n, '[1,2,3,4,5,6,7,8]'
                   FROM generate_series(1, %(rows)s::bigint) AS n JOIN prose AS p ON p.id = n * 7919 %% %(pieces)s
"""
_SPEC: dict[str, Any] = {
    "name": "docs",
    "target": {"table": "public.docs", "column": "embedding", "text": "{body}"},
    "from": {"model": "qwen/text-embedding-v3", "dimensions": 8},
    "to": {
        "model": "qwen/text-embedding-v4",
        "dimensions": 8,
        "base_url": "https://api.therouter.ai/v1",
        "price_usd_per_mtok": [0.12, 0.144],
    },
    "limits": {"max_cost_usd": 1000, "requests_per_minute": 1800, "tokens_per_minute": 1_000_000},
}


def _make(url: str) -> None:
    prose = " ".join(each.body for each in corpus.load(3000).articles)
    pieces = [prose[start : start + _PIECE] for start in range(0, len(prose), _PIECE)]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_TABLE)
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO prose VALUES (%s, %s)", enumerate(pieces))
        connection.execute(_FILL, {"pieces": len(pieces), "rows": ROWS})
        connection.execute("VACUUM (FREEZE, ANALYZE) docs")


async def _timed(url: str, *, exact: bool = False) -> tuple[Plan, float]:
    engine = make_engine(url, "benchmark")
    try:
        began = time.perf_counter()
        made = await plans.make(engine, specs.parse(_SPEC, "benchmark"), exact=exact)
        return made, time.perf_counter() - began
    finally:
        await engine.dispose()


def run() -> list[Figure]:
    """Measure on a PostgreSQL of its own; returns the figures."""
    home = Path(tempfile.mkdtemp(prefix="mgb-"))
    # PostgreSQL runs as `nobody` where we are root, and must pass through.
    home.chmod(0o711)
    server = Postgres(home / "postgres", settings={"autovacuum": "off", "max_wal_size": "4GB"})
    try:
        server.start()
        console.aside(f"  making {ROWS:,} rows ...")
        _make(server.url)
        made, seconds = asyncio.run(_timed(server.url))
        counted, counted_seconds = asyncio.run(_timed(server.url, exact=True))
        with psycopg.connect(server.url, autocommit=True) as connection:
            pages = made.document["sample"]["of_pages"] * STATED_ROWS // ROWS
            connection.execute(
                "SELECT pg_restore_relation_stats('schemaname', 'public', 'relname', 'docs',"
                " 'relpages', %s::int, 'reltuples', %s::real)",
                [pages, STATED_ROWS],
            )
        stated, stated_seconds = asyncio.run(_timed(server.url))
    finally:
        server.remove()
        shutil.rmtree(home, ignore_errors=True)
    ratio = made.document["tokens"]["estimate"] / counted.document["tokens"]["estimate"]
    return [
        *_figures(made.document, seconds),
        Figure.within(_BENCH, "tokens, sampled", ratio, "ratio", (0.97, 1.03), "--exact"),
        Figure(_BENCH, "the same, every row counted (--exact)", counted_seconds, "s"),
        Figure.within(_BENCH, f"{STATED_ROWS:,} rows by statistics", stated_seconds, "s", (0, _STATED_SECONDS)),
        Figure.within(_BENCH, "rows of that plan", stated.document["rows"], "rows", (STATED_ROWS, STATED_ROWS)),
    ]


def _figures(document: dict[str, Any], seconds: float) -> list[Figure]:
    tokens = document["tokens"]
    spread = (tokens["high"] - tokens["low"]) / 2 / tokens["estimate"]
    low, high = document["rows_low"], document["rows_high"]
    return [
        Figure.within(_BENCH, f"{ROWS:,} rows", seconds, "s", (0, _SECONDS)),
        Figure.within(_BENCH, "rows found, of those there", document["rows"] / ROWS, "ratio", (0.97, 1.03)),
        Figure(_BENCH, "half the 95 % interval of the rows", (high - low) / 2 / ROWS, "ratio"),
        Figure(_BENCH, "half the 95 % interval of the tokens", spread, "ratio"),
    ]
