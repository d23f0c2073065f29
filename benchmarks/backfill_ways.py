"""Ways to fill a vector column: our own engine's, those that everyone writes, and shapes of ours that lost.

Each gets a database of its own with the same table and writes the same vectors; the rivals write to a plain new column,
ours into an expanded table with its capture triggers, under a lease, by the batches of `tick`, with its real landings.
What is left out of ours is the provider: its embedder has every vector at hand.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import queue
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psycopg
from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.backfill_table import DIMS, Table, Vectors, connect
from migrator import spec as specs
from migrator.backfill import batch, embedding
from migrator.canary import watch
from migrator.orchestrator import verbs
from migrator.orchestrator.perform import perform
from migrator.orchestrator.tick import tick
from migrator.provider.embedder import Answer, Embedder, TextRefused
from migrator.spending import asking
from migrator.spending.pacing import SharedPacer
from migrator.spending.worker import Worker
from migrator.state import batches, migrations, schema
from migrator.state.connection import make_engine, transaction
from migrator.target import readers, vectors
from workers import tasks
from workers.runtime import read_before_fork, spare_the_collector

#: Rows of the slow rivals: their rate does not depend on how long they run, and nobody wants to wait for them.
LOOP_ROWS, KEY_ORDER_ROWS = 1500, 4000
KEY_ORDER_BATCH = 1000
_NAME = "bench"
#: Processes of a worker on this machine's two cores, and seconds that one with nothing to do waits.
_PROCESSES, _SPARE_SECONDS = 2, 0.01
#: Seconds after which a process ticks that nothing came to.
_BEAT_SECONDS = 1.0
#: Requests that one process has at the provider at a time.
IN_FLIGHT = 4
_KEY_VARIABLE = "BENCH_PROVIDER_KEY"
#: Pages of a lane of the lost shapes: the widest of our windows.
_LANE_PAGES = 384


Wait = Callable[[int], Awaitable[None]]


@dataclass(slots=True)
class AtHand(Embedder):
    """An embedder that has every vector at hand and knows a text's by its number; nothing is asked or booked."""

    found: Vectors = field(default_factory=lambda: np.empty((0, DIMS), "<f4"))
    #: What is waited for before so many rows are answered.
    wait: Wait | None = None

    def plan(self, texts: Sequence[str]) -> list[list[int]]:
        """Pack by number alone: counting tokens belongs to the provider."""
        step = self.max_texts
        return [list(range(start, min(start + step, len(texts)))) for start in range(0, len(texts), step)]

    async def embed(self, texts: Sequence[str], positions: Sequence[int]) -> AsyncIterator[Answer | TextRefused]:
        """Answer at once; the canary's texts, which are no row's, by vectors of the other end, unlike by model."""
        if self.wait is not None:
            await self.wait(len(positions))
        words = [texts[position].split(maxsplit=2) for position in positions]
        end = 100 if str(self.model.generation).startswith("v3") else 200
        rows = [int(each[1]) - 1 if each[0] == "text" else len(each[0]) - end for each in words]
        yield Answer(tuple(positions), self.found[rows], uuid.uuid4().hex, 10 * len(rows))


def spec_of(table: str = "public.docs") -> specs.Spec:
    """Return the spec that the engine's run is started by."""
    return specs.parse(
        {
            "name": _NAME,
            "target": {"table": table, "column": "embedding", "text": "{body}"},
            "from": {"model": "v3", "dimensions": DIMS},
            "to": {
                "model": "v4",
                "dimensions": DIMS,
                "base_url": "http://127.0.0.1:1/v1",
                "api_key_env": _KEY_VARIABLE,
                "price_usd_per_mtok": 0.0,
            },
            "limits": {"max_cost_usd": 1.0},
        },
        "benchmark",
    )


async def expand(url: str) -> None:
    """Plan and start a migration, as the operator does."""
    engine = make_engine(url, "benchmark")
    async with transaction(engine) as connection:
        await schema.upgrade(connection)
        await readers.install(connection)
    await verbs.make_plan(engine, spec_of(), actor="benchmark")
    await verbs.start(engine, spec_of(), path="bench.toml", actor="benchmark", on_wait=lambda *_: None)
    await engine.dispose()


@contextmanager
def _at_hand(found: Vectors, wait: Wait | None = None) -> Iterator[None]:
    """Let every embedder have the vectors at hand."""
    os.environ[_KEY_VARIABLE] = "none"

    async def make(*words: Any, **more: Any) -> AtHand:
        made = await asking.make_embedder(*words, **more)
        return AtHand(made.http, made.model, made.profile, made.purse, made.max_texts, found=found, wait=wait)

    with mock.patch.object(batch, "make_embedder", make), mock.patch.object(watch, "make_embedder", make):
        yield


async def _work(url: str, name: str, broker: Any, begin: Callable[[], object], *, first: bool, processes: int) -> float:
    """Work off the tickets of the queue `broker`; returns when the last was done, on the clock of all processes.

    `begin` is called when everything is at hand; then the `first` process hands out the first tickets. After each piece
    of work a process ticks, as a worker's does, and where nothing came for a second, as beat does.
    """
    engine = make_engine(url, "benchmark", pool_size=6)
    worker = Worker(engine, name, 30.0, IN_FLIGHT, SharedPacer(engine, ""))
    begin()
    if first:
        await _hand_out(engine, name, broker)
    told = ended = ticked = time.perf_counter()
    while True:
        try:
            ticket = broker.get_nowait()
        except queue.Empty:
            if time.perf_counter() - ticked < _BEAT_SECONDS:
                await asyncio.sleep(_SPARE_SECONDS)
                continue
        else:
            if ticket is None:
                break
            await perform(worker, ticket)
            ended = time.perf_counter()
        ticked = time.perf_counter()
        tells = ticked - told >= tasks.TELL_SECONDS
        told = ticked if tells else told
        if not await _hand_out(engine, name, broker, tells=tells):
            for _ in range(processes):
                broker.put(None)
    await worker.close()
    return ended


async def _hand_out(engine: AsyncEngine, name: str, broker: Any, *, tells: bool = True) -> bool:
    """Give the queue what a tick hands out of the backfill; False when all of that was done before."""
    handed = [each for each in (await tick(engine, actor=name, tells=tells)).tickets if each.queue == "backfill"]
    for ticket in handed:
        broker.put(ticket)
    if handed:
        return True
    async with transaction(engine) as connection:
        migration = await migrations.get(connection, _NAME)
        return await batches.any_open(connection, migration.id)


def ours(url: str, found: Vectors, wait: Wait | None = None) -> tuple[int, float]:
    """Fill the column by our engine, in one process, one batch at a time; returns (rows, seconds) of its work."""
    began: list[float] = []
    with _at_hand(found, wait):
        broker: queue.SimpleQueue[Any] = queue.SimpleQueue()
        ended = asyncio.run(_work(url, "w", broker, lambda: began.append(time.perf_counter()), first=True, processes=1))
    return len(found), ended - began[0]


def ours_one_by_one(url: str, found: Vectors) -> tuple[int, float]:
    """Fill the column by our engine, every answer in a landing of its own."""
    with mock.patch.object(embedding, "LANDING_ROWS", 1):
        return ours(url, found)


def ours_by_two(url: str, found: Vectors) -> tuple[int, float]:
    """Fill the column by our engine as one worker with a process a core does; returns (rows, seconds) of their work."""
    spawning = multiprocessing.get_context("spawn")
    barrier, broker, ends = spawning.Barrier(_PROCESSES + 1), spawning.Queue(), spawning.Queue()
    crew = [
        spawning.Process(target=_one_of_crew, args=(url, found, number, broker, barrier, ends))
        for number in range(_PROCESSES)
    ]
    for process in crew:
        process.start()
    barrier.wait()
    began = time.perf_counter()
    for process in crew:
        process.join()
    if any(process.exitcode for process in crew):
        raise RuntimeError("a process of ours failed")
    return len(found), max(ends.get() for _ in crew) - began


def _one_of_crew(url: str, found: Vectors, number: int, broker: Any, barrier: Any, ends: Any) -> None:
    read_before_fork()
    spare_the_collector()
    try:
        with _at_hand(found):
            work = _work(url, f"w{number}", broker, barrier.wait, first=number == 0, processes=_PROCESSES)
            ends.put(asyncio.run(work))
    except BaseException:
        # Nobody waits for one that is gone.
        barrier.abort()
        for _ in range(_PROCESSES):
            broker.put(None)
        raise


def add_column(url: str) -> None:
    """Add the plain column that the rivals write to."""
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("ALTER TABLE docs ADD COLUMN shadow vector(1024)")


def loop(url: str, found: Vectors) -> int:
    """Select a row, embed, update by key, commit: the loop that everyone writes first."""
    with connect(url) as connection:
        last = 0
        for _ in range(min(LOOP_ROWS, len(found))):
            row = connection.execute(
                "SELECT id, body FROM docs WHERE shadow IS NULL AND id > %s ORDER BY id LIMIT 1", [last]
            ).fetchone()
            assert row is not None  # noqa: S101 - fewer than the table has
            last = row[0]
            text = "[" + ",".join(map(repr, found[last - 1].tolist())) + "]"
            connection.execute("UPDATE docs SET shadow = %s WHERE id = %s", [text, last])
            connection.commit()
    return min(LOOP_ROWS, len(found))


def key_order(url: str, found: Vectors) -> int:
    """Update a thousand rows a transaction in key order, one statement, binary vectors: what good engineers write."""
    rows = min(KEY_ORDER_ROWS, len(found))
    with connect(url) as connection:
        for start in range(0, rows, KEY_ORDER_BATCH):
            wire = vectors.encode(found[start : start + KEY_ORDER_BATCH], "vector")
            connection.execute(
                "UPDATE docs AS t SET shadow = v.vector FROM unnest(%s::bigint[], %b::vector[]) AS v (id, vector)"
                " WHERE t.id = v.id",
                [list(range(start + 1, start + 1 + len(wire))), wire],
            )
            connection.commit()
    return rows


def copy(url: str, found: Vectors) -> int:
    """Copy the same vectors in binary into an empty table without an index: the limit."""
    with connect(url) as connection:
        connection.execute("CREATE TABLE empty (id bigint, embedding vector(1024))")
        connection.commit()
        wire = vectors.encode(found, "vector")
        with connection.cursor().copy("COPY empty FROM STDIN (FORMAT BINARY)") as copying:
            copying.set_types(["int8", "vector"])
            for number, each in enumerate(wire, start=1):
                copying.write_row((number, each))
    return len(found)


#: One landing's statement, and the ways that were tried for its rows to be found.
_WRITE = """
WITH k AS (
  SELECT t.tableoid AS heap, t.ctid AS place, v.vector AS vector FROM docs AS t JOIN {rows}
   WHERE t.shadow IS NULL AND sha256(convert_to(coalesce(t.body::text, ''), 'UTF8')) = v.hash {lock})
UPDATE docs AS t SET shadow = k.vector FROM k WHERE t.ctid = k.place AND t.tableoid = k.heap RETURNING t.id
"""
_BY_KEY = """unnest(%(keys)s::text[], %(hashes)s::bytea[], %(vectors)b::vector[])
             AS v (id, hash, vector) ON t.id = v.id::bigint"""
_BY_PLACE = """unnest(%(places)s::tid[], %(keys)s::bigint[], %(hashes)s::bytea[], %(vectors)b::vector[])
               AS v (place, id, hash, vector) ON t.ctid = v.place AND t.id = v.id"""
_LOCK = "FOR NO KEY UPDATE OF t SKIP LOCKED"
#: Name -> (how rows are found, how they are locked). The first is `target/lanes.sql`'s.
SHAPES = {
    "unnest by key (kept)": (_BY_KEY, _LOCK),
    "unnest by ctid": (_BY_PLACE, _LOCK),
    "COPY to a temp table, then join": ("incoming AS v ON t.id = v.id", _LOCK),
    "unnest by key, waiting for locks": (_BY_KEY, ""),
}


def shape(url: str, found: Vectors, name: str, *, rows: int, step: int) -> int:
    """Write the first `rows` rows in lanes by one of the shapes, `step` rows a transaction."""
    by_copy = "COPY" in name
    # Texts of this module only: psycopg asks for a literal and can't know.
    texts: Any = SHAPES[name]
    statement = sql.SQL(_WRITE).format(rows=sql.SQL(texts[0]), lock=sql.SQL(texts[1]))
    with connect(url) as connection:
        if by_copy:
            connection.execute("CREATE TEMP TABLE incoming (id bigint, hash bytea, vector vector)")
        read = connection.execute(
            """SELECT id, sha256(convert_to(body, 'UTF8')), ctid::text FROM docs
                ORDER BY ((ctid::text::point)[0]::int / %s), (ctid::text::point)[1], (ctid::text::point)[0] LIMIT %s""",
            [_LANE_PAGES, rows],
        ).fetchall()
        connection.commit()
        for start in range(0, len(read), step):
            part = read[start : start + step]
            wire = vectors.encode(found[[row[0] - 1 for row in part]], "vector")
            values = {"keys": [str(row[0]) for row in part], "hashes": [row[1] for row in part], "vectors": wire}
            if by_copy:
                with connection.cursor().copy("COPY incoming FROM STDIN (FORMAT BINARY)") as copying:
                    copying.set_types(["int8", "bytea", "vector"])
                    for row, each in zip(part, wire, strict=True):
                        copying.write_row((row[0], row[1], each))
                values = {}
            elif "ctid" in name:
                values["places"] = [row[2] for row in part]
            connection.execute(statement, values or None).fetchall()
            if by_copy:
                connection.execute("TRUNCATE incoming")
            connection.commit()
    return len(read)


_IRRELEVANT = """
BEGIN FOR i IN 1..UPDATES LOOP UPDATE docs SET n = n + 1 WHERE id = 1 + i % ROWS; COMMIT; END LOOP; END
"""


def trigger_cost(url: str, table: Table, *, updates: int) -> float:
    """Return what our trigger adds to an update of an irrelevant column, in microseconds: the least of nine turns.

    Told by the time that the server's process was on a processor, so that a busy machine does not count.
    """
    body = _IRRELEVANT.replace("UPDATES", str(updates)).replace("ROWS", str(table.rows // 2))
    statement = sql.SQL("DO {}").format(sql.Literal(body))
    least = {"DISABLE": float("inf"), "ENABLE ALWAYS": float("inf")}
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("SET synchronous_commit = off")
        for _ in range(9):
            for mode, before in least.items():
                words: Any = f"ALTER TABLE docs {mode} TRIGGER zzzz_capture__migrator"
                admin.execute(words)
                began = _on_processor(admin.info.backend_pid)
                admin.execute(statement)
                least[mode] = min(before, _on_processor(admin.info.backend_pid) - began)
    return 1e6 * (least["ENABLE ALWAYS"] - least["DISABLE"]) / updates


def _on_processor(pid: int) -> float:
    """Return the seconds that a process has run so far (Linux)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9
