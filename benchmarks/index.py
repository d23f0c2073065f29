"""What the index build costs: ours against CREATE INDEX CONCURRENTLY by hand, with the best settings and with none.

One table whose live and shadow columns hold the same vectors, so both ways build the same graph. Rounds take turns on
one embedded PostgreSQL, and the fastest of each counts: a machine that is busy with other things only slows one down.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from pathlib import Path

import psycopg

from benchmarks import Figure
from benchmarks.backfill_table import SETTINGS, make
from migrator.cli import console
from migrator.demo.servers import Postgres
from migrator.planning import estimate
from migrator.state.connection import make_engine, transaction
from migrator.target import dependents, facts, index
from migrator.target.build import Build
from migrator.target.relation import Target, suffixed
from migrator.template import Template

_BENCH = "index"
ROWS, DIMS, ROUNDS = 20_000, 1024, 2
#: Our build's speed, of the one by hand with the best settings.
_SHARE = 0.9
_TARGET = Target(
    schema="public",
    table="docs",
    column="embedding",
    shadow=suffixed("embedding"),
    key_columns=("id",),
    key_types=("bigint",),
    template=Template.parse("{body}"),
    where=None,
    only_embedded=False,
)
_CREATE = b"CREATE INDEX CONCURRENTLY docs_embedding_idx ON docs USING hnsw (embedding vector_cosine_ops)"


def _prepare(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER TABLE docs ADD COLUMN embedding__migrator vector(1024)")
        connection.execute("UPDATE docs SET embedding__migrator = embedding")
        connection.execute("VACUUM FULL docs")
        connection.execute("VACUUM (FREEZE, ANALYZE) docs")


def _by_hand(url: str, *, best: bool) -> float:
    """Build as pgvector's README says: memory for the whole graph, and a worker for every core."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP INDEX IF EXISTS docs_embedding_idx")
        if best:
            cores = os.cpu_count() or 1
            connection.execute("SET maintenance_work_mem = '1GB'")
            connection.execute(f"SET max_parallel_maintenance_workers = {cores}".encode())
            connection.execute(f"ALTER TABLE docs SET (parallel_workers = {cores})".encode())
        began = time.perf_counter()
        connection.execute(_CREATE)
        seconds = time.perf_counter() - began
        connection.execute("ALTER TABLE docs RESET (parallel_workers)")
        return seconds


async def _ours(url: str) -> float:
    engine = make_engine(url, "benchmark")
    try:
        async with transaction(engine) as connection:
            relation = await facts.relation(connection, "public", "docs")
            assert relation is not None  # noqa: S101 - it was just made
            found = await dependents.every_index(connection, relation.oid, "embedding")
        build = Build(engine, "bench", estimate.build_memory_bytes("vector", DIMS, ROWS), _always, _at_once)
        began = time.perf_counter()
        for live in found:
            await index.ensure(build, _TARGET, live, "vector")
        seconds = time.perf_counter() - began
        if build.notes:
            raise RuntimeError("; ".join(build.notes))
    finally:
        await engine.dispose()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP INDEX docs_embedding_idx__migrator")
    return seconds


async def _always() -> bool:
    return True


async def _at_once() -> None:
    return


def run() -> list[Figure]:
    """Measure on a PostgreSQL of its own; returns the figures."""
    home = Path(tempfile.mkdtemp(prefix="mgb-"))
    # PostgreSQL runs as `nobody` where we are root, and must pass through.
    home.chmod(0o711)
    server = Postgres(home / "postgres", settings=SETTINGS)
    try:
        server.start()
        console.aside(f"  making {ROWS:,} rows of {DIMS} dimensions ...")
        make(server, "base", rows=ROWS, body=1080, indexed=False)
        url = server.database_url("base")
        _prepare(url)
        console.aside("  by hand, no settings ...")
        plain = _by_hand(url, best=False)
        by_hand, ours = [], []
        for number in range(1, ROUNDS + 1):
            console.aside(f"  round {number} of {ROUNDS} ...")
            by_hand.append(_by_hand(url, best=True))
            ours.append(asyncio.run(_ours(url)))
    finally:
        server.remove()
        shutil.rmtree(home, ignore_errors=True)
    return [
        Figure(_BENCH, "ours", ROWS / min(ours), "rows/s"),
        Figure(_BENCH, "by hand, best settings", ROWS / min(by_hand), "rows/s"),
        Figure(_BENCH, "by hand, no settings", ROWS / plain, "rows/s"),
        Figure.at_least(_BENCH, "times as fast", min(by_hand) / min(ours), "ratio", _SHARE, "by hand, best settings"),
    ]
