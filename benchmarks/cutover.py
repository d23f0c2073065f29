"""What a swap costs the application: how long the lock is held, how long anybody waits, and what readers are answered.

One embedded PostgreSQL (fsync on), a table on whose vector hangs more than twenty of everything, a migration that was
planned, started, filled and validated for real, and an application in a process of its own throughout: readers of
table, view and index, writers of both generations. First the swaps, one after the other; then one each way while a
reader holds the table for six seconds.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import Figure
from benchmarks.backfill_table import SETTINGS
from benchmarks.cutover_application import DIMS, ROWS, V3, V4, Told, literals, live, texts
from migrator import spec as specs
from migrator.cli import console
from migrator.cutover import swapping
from migrator.cutover.swapping import CUTOVER, ROLLBACK, Direction
from migrator.demo.servers import Postgres
from migrator.demo.simulator.control import Simulator
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import verbs, work
from migrator.spending.worker import Worker
from migrator.state import migrations, schema
from migrator.state.connection import transaction
from migrator.target import dependents, facts, message, readers
from migrator.target.message import Timing
from migrator.target.swap import Bounds

_BENCH = "cutover"
S = MigrationStatus
#: Swaps each way, seconds between two, and seconds for which a reader holds the table.
_SWAPS, _PAUSE_SECONDS, _READER_SECONDS = 20, 0.3, 6.0
#: Goals: the lock is held for so long at the median; nobody waits longer than one try's deadline and this.
_HELD_MS, _BESIDES_MS = 50.0, 50.0
_ANY = Bounds(1_000_000, 1_000_000.0)
_KEY = "BENCH_PROVIDER_KEY"
_TABLE = """
CREATE EXTENSION vector;
CREATE TABLE docs (id bigint PRIMARY KEY, body text, n int NOT NULL DEFAULT 0, embedding vector(64));
CREATE TABLE truth (id bigint PRIMARY KEY, body text UNIQUE, v3 vector(64), v4 vector(64));
"""
_DEPENDENTS = """
CREATE ROLE bench_reader;
CREATE INDEX docs_embedding_idx ON docs USING hnsw (embedding vector_cosine_ops);
ALTER TABLE docs ALTER embedding SET STORAGE MAIN, ALTER embedding SET STATISTICS 50,
  ALTER embedding SET DEFAULT array_fill(0.125::real, ARRAY[64])::vector;
COMMENT ON COLUMN docs.embedding IS 'searched by the shop';
GRANT SELECT (id, embedding), UPDATE (embedding) ON docs TO bench_reader;
ALTER TABLE docs ADD CONSTRAINT unit CHECK (vector_norm(embedding) < 1.5),
  ADD CONSTRAINT dims CHECK (vector_dims(embedding) = 64);
CREATE VIEW docs_view AS SELECT id, body, embedding FROM docs;
CREATE VIEW docs_outer WITH (security_barrier) AS SELECT v.embedding, d.body FROM docs_view v JOIN docs d USING (id);
CREATE VIEW docs_third AS SELECT embedding FROM docs_outer;
CREATE VIEW docs_near AS SELECT id, embedding <=> array_fill(0.125::real, ARRAY[64])::vector AS far FROM docs;
CREATE VIEW docs_write AS SELECT id, embedding FROM docs;
CREATE RULE put AS ON UPDATE TO docs_write DO INSTEAD UPDATE docs SET embedding = NEW.embedding WHERE id = OLD.id;
GRANT SELECT ON docs_view, docs_outer TO bench_reader;
CREATE TABLE moved (id bigint);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER vector_moved AFTER UPDATE OF embedding ON docs FOR EACH ROW
  WHEN (OLD.embedding IS DISTINCT FROM NEW.embedding) EXECUTE FUNCTION note();
CREATE TRIGGER vector_set AFTER UPDATE OF embedding ON docs FOR EACH ROW EXECUTE FUNCTION note();
CREATE POLICY complete ON docs AS RESTRICTIVE FOR SELECT USING (embedding IS NOT NULL);
CREATE POLICY sound ON docs FOR UPDATE USING (true) WITH CHECK (vector_norm(embedding) > 0);
CREATE FUNCTION nearest(q vector) RETURNS SETOF bigint LANGUAGE sql STABLE
  BEGIN ATOMIC SELECT id FROM docs ORDER BY embedding <=> q LIMIT 3; END;
CREATE FUNCTION complete() RETURNS bigint LANGUAGE sql STABLE
  BEGIN ATOMIC SELECT count(*) FROM docs WHERE embedding IS NOT NULL; END;
CREATE PROCEDURE forget_vector(which bigint) LANGUAGE sql
  BEGIN ATOMIC UPDATE docs SET embedding = NULL WHERE id = which; END;
CREATE STATISTICS both_of_them (ndistinct) ON n, embedding FROM docs;
ANALYZE docs
"""


def run() -> list[Figure]:
    """Measure on servers of its own; returns the figures."""
    home = Path(tempfile.mkdtemp(prefix="mgb-"))
    # PostgreSQL runs as `nobody` where we are root, and must pass through.
    home.chmod(0o711)
    server, simulator = Postgres(home / "postgres", settings=SETTINGS), Simulator(home / "simulator")
    ours = {"MIGRATOR_DATABASE_URL": server.url, "MIGRATOR_BROKER_URL": "redis://127.0.0.1:1/0", _KEY: "none"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        server.start()
        simulator.start()
        _fill(server.url)
        return asyncio.run(_measure(server.url, simulator.base_url))
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        simulator.stop()
        server.remove()
        shutil.rmtree(home, ignore_errors=True)


def _fill(url: str) -> None:
    console.aside(f"  making {ROWS:,} rows and what hangs on them ...")
    words = texts()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_TABLE)
        with connection.cursor().copy("COPY truth FROM STDIN") as copy:
            for number, row in enumerate(zip(words, literals(V3, words), literals(V4, words), strict=True), start=1):
                copy.write_row((number, *row))
        connection.execute(
            "INSERT INTO docs (id, body, embedding) SELECT id, body, v3 FROM truth WHERE id <= %s", [ROWS]
        )
        connection.execute(_DEPENDENTS)


async def _measure(url: str, base_url: str) -> list[Figure]:
    worker = Worker.make("bench")
    try:
        async with transaction(worker.engine) as connection:
            await schema.upgrade(connection)
            await readers.install(connection)
        await _to_ready(worker, base_url)
        hanging = await _hanging(worker)
        with _application(url) as pipe:
            await asyncio.sleep(3.0)
            quiet = _told(pipe)
            timings = await _swaps(worker)
            busy = _told(pipe)
            held = []
            for direction in (CUTOVER, ROLLBACK):
                await _behind_a_reader(url, worker, direction)
                held.append(_told(pipe))
        return _figures(hanging, timings, quiet, busy, held)
    finally:
        await worker.close()


async def _to_ready(worker: Worker, base_url: str) -> None:
    console.aside("  plan, start, backfill, index, gates ...")
    to = {"model": V4, "dimensions": DIMS, "base_url": base_url, "api_key_env": _KEY, "price_usd_per_mtok": 1.0}
    data: dict[str, Any] = {
        "name": "docs",
        "target": {"table": "public.docs", "column": "embedding", "text": "{body}", "fire_triggers": True},
        "from": {"model": V3, "dimensions": DIMS},
        "to": to,
        "limits": {"max_cost_usd": 1.0},
        # Hashes for vectors: there is no quality to compare.
        "gates": {"min_overlap": 0.0, "quality_tolerance": 1.0, "assignment_sample": 50, "search_sample": 20},
    }
    spec = specs.parse(data, "bench")
    await verbs.make_plan(worker.engine, spec, actor="bench")
    await verbs.start(worker.engine, spec, path="docs.toml", actor="bench", on_wait=lambda *_: None)
    await work.work(worker, "docs", until=S.READY, on_line=lambda _: None)


async def _hanging(worker: Worker) -> int:
    """Return how many things hang on the live column."""
    async with transaction(worker.engine, read_only=True) as connection:
        relation = await facts.relation(connection, "public", "docs")
        assert relation is not None  # noqa: S101 - it was just made
        columns = await facts.columns(connection, relation.oid)
        return len(await dependents.find(connection, relation.oid, columns["embedding"]))


async def _swap(worker: Worker, direction: Direction) -> Timing:
    """Swap once, with the ladder; the migration may be swapped the other way afterwards."""
    async with transaction(worker.engine) as connection:
        found = await migrations.get(connection, "docs")
    timing = await swapping.swap(worker.engine, found, direction, bounds=_ANY, actor="bench", on_wait=lambda *_: None)
    if direction is ROLLBACK:
        async with transaction(worker.engine) as connection:
            for status in (S.BACKFILLING, S.INDEXING, S.VALIDATING, S.READY):
                await migrations.move(connection, await migrations.get(connection, "docs"), status, actor="bench")
    return timing


async def _swaps(worker: Worker) -> list[Timing]:
    console.aside(f"  {_SWAPS} swaps each way ...")
    timings = []
    for _ in range(_SWAPS):
        for direction in (CUTOVER, ROLLBACK):
            timings.append(await _swap(worker, direction))
            await asyncio.sleep(_PAUSE_SECONDS)
    return timings


async def _behind_a_reader(url: str, worker: Worker, direction: Direction) -> None:
    console.aside(f"  {direction.verb} behind a reader of {_READER_SECONDS:.0f} s ...")
    taken = threading.Event()

    def hold() -> None:
        with psycopg.connect(url) as connection:
            connection.execute("SELECT count(*) FROM docs")
            taken.set()
            time.sleep(_READER_SECONDS)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(10)
    await _swap(worker, direction)
    thread.join()


@contextmanager
def _application(url: str) -> Iterator[Any]:
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=live, args=(url, theirs), daemon=True)
    process.start()
    try:
        yield ours
    finally:
        ours.send("end")
        process.join(30)
        process.kill()


def _told(pipe: Any) -> Told:
    pipe.send("tell")
    told: Told = pipe.recv()
    return told


def _figures(hanging: int, timings: list[Timing], quiet: Told, busy: Told, held: list[Told]) -> list[Figure]:
    took = [each.held_ms for each in timings]
    steps: dict[str, list[float]] = {}
    for timing in timings:
        for step, each in timing.steps:
            steps.setdefault(step, []).append(each)
    every = [quiet, busy, *held]
    without = f"{_slowest(quiet):.0f} ms without a swap"
    longest = 1000 * message.DEADLINE_SECONDS + _BESIDES_MS
    return [
        Figure.at_least(_BENCH, "what hangs on the column", hanging, "objects", 20),
        _at_most("lock held, median", statistics.median(took), "ms", _HELD_MS),
        Figure(_BENCH, f"lock held, worst of {len(took)}", max(took), "ms"),
        *(Figure(_BENCH, f"of it {step}, median", statistics.median(each), "ms") for step, each in steps.items()),
        Figure(_BENCH, "longest statement beside the swaps", _slowest(busy), "ms", versus=without),
        *(
            _at_most(f"longest statement, {verb} behind a reader", _slowest(each), "ms", longest, without)
            for verb, each in zip(("cutover", "rollback"), held, strict=True)
        ),
        Figure(_BENCH, "answers checked", sum(each.answers for each in every), "answers"),
        _at_most("answers of a wrong generation", sum(each.wrong for each in every), "answers", 0),
        _at_most("failed statements", sum(len(each.failed) for each in every), "statements", 0, _kinds(every)),
    ]


def _slowest(told: Told) -> float:
    return 1000 * max(told.slowest.values())


def _kinds(every: list[Told]) -> str | None:
    return ", ".join(sorted({error for each in every for error in each.failed})) or None


def _at_most(name: str, figure: float, unit: str, high: float, versus: str | None = None) -> Figure:
    return Figure(_BENCH, name, figure, unit, f"<= {high:.4g}", bool(figure <= high), versus)
