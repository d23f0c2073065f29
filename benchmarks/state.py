"""What a million batches cost: to claim one, to tick, to look at the status. State alone; the table behind it is small.

One embedded PostgreSQL (fsync off: what a flush takes is the disk's), a migration that was planned and started for
real, and the windows of a table of 32 million pages (250 GB) planned by the same code that plans every pass. Claims are
whole transactions, as a worker makes them; beside each figure stands the same with a thousand batches.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import func, text
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks import Figure
from migrator import spec as specs
from migrator.cli import console
from migrator.demo.servers import Postgres
from migrator.demo.simulator.control import Simulator
from migrator.orchestrator import metrics, progress, verbs
from migrator.orchestrator.tick import tick
from migrator.state import batches, leases, migrations, schema
from migrator.state.batches import Heap
from migrator.state.connection import make_engine, transaction
from migrator.target import readers
from workers.runtime import spare_the_collector

_BENCH = "state"
BATCHES, FEW = 1_000_000, 1_000
#: Migrations of one deployment whose tick is measured: the big one and others with FEW batches each.
MIGRATIONS = 10
_OTHERS = tuple(f"docs_{number}" for number in range(1, MIGRATIONS))
_WIDTH_PAGES = 32
#: Statements that plan them, 100,000 windows each.
_STATEMENTS = 10
#: Claims measured, and looks at the status and ticks.
_CLAIMS, _LOOKS = 500, 20
#: Goals: R27 and what an operator takes for instant; and what a look may cost the database.
_CLAIM_SECONDS, _TICK_SECONDS, _STATEMENT_SECONDS = 0.005, 0.2, 30.0
_STATUS_DATABASE_SECONDS = 0.005

#: What says when something was done last: set back, so that a tick finds what it finds after ten seconds.
_AGE = tuple(
    text(f"UPDATE migrator.{table} SET {column} = {column} - interval '10 s'")  # noqa: S608 - names of our own
    for table, column in (("migrations", "signals_at"), ("samples", "at"), ("flows", "at"))
)

_SETTINGS = {
    "fsync": "off",
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track_planning": "on",
}
_EXTENSIONS = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE EXTENSION pg_stat_statements;
"""
_TABLE = """
CREATE TABLE {name} (id bigint PRIMARY KEY, body text, embedding vector(64));
INSERT INTO {name} SELECT i, 'text ' || i, array_fill(0.1, ARRAY[64])::vector FROM generate_series(1, 100) i;
ANALYZE {name}
"""


def run() -> list[Figure]:
    """Run it on a server of its own."""
    home = Path(tempfile.mkdtemp(prefix="mgb-"))
    home.chmod(0o711)
    server, simulator = Postgres(home / "postgres", settings=_SETTINGS), Simulator(home / "simulator")
    before = os.environ.get("BENCH_PROVIDER_KEY")
    os.environ["BENCH_PROVIDER_KEY"] = "none"
    try:
        server.start()
        simulator.start()
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(_EXTENSIONS)
            for name in ("docs", *_OTHERS):
                connection.execute(_TABLE.format(name=name).encode())
        return asyncio.run(_measure(server.url, simulator.base_url))
    finally:
        if before is None:
            del os.environ["BENCH_PROVIDER_KEY"]
        simulator.stop()
        server.remove()
        shutil.rmtree(home, ignore_errors=True)


async def _measure(url: str, base_url: str) -> list[Figure]:
    engine = make_engine(url, "bench")
    spare_the_collector()
    try:
        async with transaction(engine) as connection:
            await schema.upgrade(connection)
            await readers.install(connection)
        await _start(engine, base_url, "docs")
        await _plan(engine, FEW)
        few = await _claims(engine)
        few_ticks, few_looks = await _ticks_and_looks(engine)
        planned = await _plan(engine, BATCHES)
        with psycopg.connect(url, autocommit=True) as plain:
            plain.execute("ANALYZE migrator.batches")
        await _tick(engine)
        claims = await _claims(engine)
        ticks, looks = await _ticks_and_looks(engine)
        database = 1000 * _STATUS_DATABASE_SECONDS
        in_database = [
            _below(f"{name}, in the database", 1000 * await _database_seconds(engine, step), "ms", database)
            for name, step in (("status", _look), ("exporter's scrape", _scrape))
        ]
        shared = await _shared_ticks(engine, base_url)
        return [
            _below("plan 1,000,000 batches, per statement", planned / _STATEMENTS, "s", _STATEMENT_SECONDS),
            _below("claim, p99", 1000 * _p99(claims), "ms", 1000 * _CLAIM_SECONDS, _of_few(_p99(few))),
            _below("tick, median", 1000 * ticks, "ms", 1000 * _TICK_SECONDS, _of_few(few_ticks)),
            _below(f"tick of {MIGRATIONS} migrations, median", 1000 * shared, "ms", 1000 * _TICK_SECONDS),
            Figure(_BENCH, "status, median", 1000 * looks, "ms", versus=_of_few(few_looks)),
            *in_database,
        ]
    finally:
        await engine.dispose()


def _below(name: str, figure: float, unit: str, high: float, versus: str | None = None) -> Figure:
    return Figure(_BENCH, name, figure, unit, f"< {high:.4g}", figure < high, versus)


def _of_few(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms with {FEW:,} batches"


async def _ticks_and_looks(engine: AsyncEngine) -> tuple[float, float]:
    """Return the medians of a tick and of a look at the status, in seconds."""
    ticks = [await _timed(lambda: _tick(engine)) for _ in range(_LOOKS)]
    looks = [await _timed(lambda: _look(engine)) for _ in range(_LOOKS)]
    return statistics.median(ticks), statistics.median(looks)


async def _database_seconds(engine: AsyncEngine, step: Callable[[AsyncEngine], Awaitable[object]]) -> float:
    """Return what the server plans and executes for such a look, in seconds."""
    async with transaction(engine) as connection:
        await connection.execute(text("SELECT public.pg_stat_statements_reset()"))
    for _ in range(_LOOKS):
        await step(engine)
    async with transaction(engine) as connection:
        took = text("SELECT sum(total_plan_time + total_exec_time) FROM public.pg_stat_statements")
        return float((await connection.execute(took)).scalar_one()) / 1000 / _LOOKS


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(0.99 * len(seconds))]


async def _shared_ticks(engine: AsyncEngine, base_url: str) -> float:
    """Return the median of a tick of the whole deployment, in seconds, once nine others are under way beside it.

    Each as if it came ten seconds after the last: every signal is read anew, and every sample taken.
    """
    for name in _OTHERS:
        await _start(engine, base_url, name)
        await _plan(engine, FEW, name)
    await _tick(engine, None)
    took = []
    for _ in range(_LOOKS):
        async with transaction(engine) as connection:
            for statement in _AGE:
                await connection.execute(statement)
        took.append(await _timed(lambda: _tick(engine, None)))
    return statistics.median(took)


async def _start(engine: AsyncEngine, base_url: str, name: str) -> None:
    to = {"model": "text-embedding-v4", "dimensions": 64, "base_url": base_url, "api_key_env": "BENCH_PROVIDER_KEY"}
    data: dict[str, Any] = {
        "name": name,
        "target": {"table": f"public.{name}", "column": "embedding", "text": "{body}"},
        "from": {"model": "text-embedding-v3", "dimensions": 64},
        "to": {**to, "price_usd_per_mtok": 1.0},
        "limits": {"max_cost_usd": 1.0},
    }
    spec = specs.parse(data, "bench")
    await verbs.make_plan(engine, spec, actor="bench")
    await verbs.start(engine, spec, path=f"{name}.toml", actor="bench", on_wait=lambda *_: None)


async def _plan(engine: AsyncEngine, count: int, name: str = "docs") -> float:
    """Plan so many batches as the next pass; returns the seconds."""

    async def plan() -> None:
        async with transaction(engine) as connection:
            found = await migrations.get(connection, name)
            await batches.plan_pass(connection, found, Heap(1, 1, count * _WIDTH_PAGES), _WIDTH_PAGES)
            await migrations.change(connection, found.id, pass_number=found.pass_number + 1)

    console.aside(f"planning {count:,} batches of {name}")
    return await _timed(plan)


async def _claims(engine: AsyncEngine) -> list[float]:
    """Claim and finish batches one by one, by their tickets; returns the seconds of each claim."""
    took = []
    async with transaction(engine) as connection:
        found = await migrations.get(connection, "docs")
        tickets = await batches.offer(connection, found, _CLAIMS)
    for ticket in tickets:
        began = time.perf_counter()
        async with transaction(engine) as connection:
            lease = await leases.claim(connection, ticket, holder="bench", seconds=30)
        took.append(time.perf_counter() - began)
        assert lease is not None  # noqa: S101 - nobody else claims here
        async with transaction(engine) as connection:
            await leases.finish(connection, lease, finished_at=func.clock_timestamp())
    return took


async def _tick(engine: AsyncEngine, only: str | None = "docs") -> None:
    await tick(engine, actor="bench", only=only, ticket_seconds=0.001)


async def _look(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await progress.read(connection, await migrations.get(connection, "docs"))


async def _scrape(engine: AsyncEngine) -> None:
    await metrics.read(engine)


async def _timed(step: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await step()
    return time.perf_counter() - began
