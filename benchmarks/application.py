"""What an application feels of the backfill: its searches and writes with and without it, turn by turn.

A process of its own does what applications do, at a fixed rate: nearest neighbours through the HNSW index on the live
column, updates of an irrelevant column by key, inserts of whole rows. Beside it our engine fills the new column, in
turns of some seconds, at 300 rows a second: what 1,800 requests of ten texts a minute grant. On one embedded
PostgreSQL (fsync on), all of it on the same cores, our process as nice as a worker's.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from benchmarks import Figure
from benchmarks import backfill_ways as ways
from benchmarks.backfill_table import SETTINGS, Vectors, clone, connect, draw, make
from migrator.cli import console
from migrator.demo.servers import Postgres
from migrator.target import vectors
from workers.runtime import stand_back

_BENCH = "application"
ROWS, BODY = 20_000, 1080
ROWS_PER_SECOND = 300
#: Turns without and with the backfill, seconds of each, and those at its begin that do not count.
_TURNS, _TURN_SECONDS, _SETTLE_SECONDS = 4, 10.0, 1.0
#: Statements a second of each kind, and the kinds.
_RATE, _KINDS = 40.0, ("search", "update", "insert")
#: Seconds by which a request may be late without slowing down those behind it.
_LATE_SECONDS = 0.2
#: Goal: the p99 of searches and of writes, of what it is without us.
_TIMES = 1.3


def _application(url: str, until: float, kind: str, pipe: Any) -> None:
    """Do one kind of statement at its rate; tells (when it began, how long it took) of each."""
    dice, told = random.Random(kind), []  # noqa: S311 - dice
    asked = vectors.encode(draw(500, 11), "vector")
    with connect(url) as connection:
        connection.autocommit = True
        number = 0
        while (began := time.time()) < until:
            number += 1
            clock = time.perf_counter()
            if kind == "search":
                connection.execute("SELECT id FROM docs ORDER BY embedding <=> %b LIMIT 10", [asked[number % 500]])
            elif kind == "update":
                connection.execute("UPDATE docs SET n = n + 1 WHERE id = %s", [dice.randint(1, ROWS)])
            else:
                values = [ROWS + number, "new ".ljust(BODY, "y"), asked[number % 500]]
                connection.execute("INSERT INTO docs (id, body, embedding) VALUES (%s, %s, %b)", values)
            took = time.perf_counter() - clock
            told.append((began, took))
            # An even rate with some chance in it: never in step with anything of ours.
            time.sleep(max(0.0, dice.uniform(0.5, 1.5) / _RATE - took))
    pipe.send(told)


def _engine(url: str, found: Vectors, going: Any, done: Any) -> None:
    """Fill the column at the rate, while `going` is set."""
    due = 0.0

    async def wait(rows: int) -> None:
        """Let requests go at the rate, evenly, as the pace does; what was not used in time is lost."""
        nonlocal due
        due = max(due + rows / ROWS_PER_SECOND, time.monotonic() - _LATE_SECONDS)
        await asyncio.sleep(due - time.monotonic())
        while not going.is_set():  # noqa: ASYNC110 - the event is of another process
            await asyncio.sleep(0.02)

    os.setsid()  # as a worker, whose session is not the application's
    stand_back()
    ways.ours(url, found, wait=wait)
    done.set()


def _measure(url: str, found: Vectors) -> dict[str, tuple[list[float], list[float]]]:
    """Return each kind's seconds, without and with the backfill."""
    spawning = multiprocessing.get_context("spawn")
    going, done = spawning.Event(), spawning.Event()
    engine = spawning.Process(target=_engine, args=(url, found, going, done), daemon=True)
    engine.start()
    # Processes start, and the cache warms, before anything counts.
    begin = time.time() + 8.0
    until = begin + 2 * _TURNS * _TURN_SECONDS
    crew = {}
    for kind in _KINDS:
        ours, theirs = spawning.Pipe()
        process = spawning.Process(target=_application, args=(url, until, kind, theirs), daemon=True)
        process.start()
        crew[kind] = ours
    with psycopg.connect(url, autocommit=True) as admin:
        written = [_written(admin)]
        for turn in range(2 * _TURNS):
            time.sleep(max(0.0, begin + turn * _TURN_SECONDS - time.time()))
            (going.set if turn % 2 else going.clear)()
        time.sleep(max(0.0, until - time.time()))
        written.append(_written(admin))
    rate = (written[1] - written[0]) / (_TURNS * _TURN_SECONDS)
    console.aside(f"  the backfill wrote {rate:.0f} rows/s while it went on")
    found_of = {kind: crew[kind].recv() for kind in _KINDS}
    if done.is_set() or rate < 0.9 * ROWS_PER_SECOND:
        raise RuntimeError(f"the backfill did not keep its rate: {rate:.0f} rows/s")
    engine.kill()
    engine.join()
    measured: dict[str, tuple[list[float], list[float]]] = {kind: ([], []) for kind in _KINDS}
    for kind, told in found_of.items():
        for at, took in told:
            turn, into = divmod(at - begin, _TURN_SECONDS)
            if turn >= 0 and into >= _SETTLE_SECONDS:
                measured[kind][int(turn) % 2].append(took)
    return measured


def _written(admin: psycopg.Connection) -> int:
    row = admin.execute("SELECT count(embedding__migrator) FROM docs").fetchone()
    assert row is not None  # noqa: S101 - one row, always
    return int(row[0])


def _figures(measured: dict[str, tuple[list[float], list[float]]]) -> list[Figure]:
    def p99(kinds: tuple[str, ...], turn: int) -> float:
        return float(np.percentile([each for kind in kinds for each in measured[kind][turn]], 99))

    figures = []
    for name, kinds in (("searches", ("search",)), ("writes", ("update", "insert"))):
        idle, busy = p99(kinds, 0), p99(kinds, 1)
        figures += [
            Figure(_BENCH, f"p99 of {name} without us", 1000 * idle, "ms"),
            Figure(_BENCH, f"p99 of {name} beside the backfill", 1000 * busy, "ms"),
            Figure.within(_BENCH, f"p99 of {name}", busy / idle, "ratio", (0, _TIMES), "without us"),
        ]
    return figures


def _with_servers(work: Callable[[Postgres], list[Figure]]) -> list[Figure]:
    home = Path(tempfile.mkdtemp(prefix="mgb-"))
    # PostgreSQL runs as `nobody` where we are root, and must pass through.
    home.chmod(0o711)
    server = Postgres(home / "postgres", settings=SETTINGS)
    try:
        server.start()
        return work(server)
    finally:
        server.remove()
        shutil.rmtree(home, ignore_errors=True)


def run() -> list[Figure]:
    """Measure on a PostgreSQL of its own; returns the figures.

    Raises: ExtraMissing.
    """

    def work(server: Postgres) -> list[Figure]:
        console.aside(f"  making {ROWS:,} rows and their index ...")
        make(server, "base", rows=ROWS, body=BODY)
        with clone(server, "base") as url:
            asyncio.run(ways.expand(url))
            console.aside(f"  {2 * _TURNS} turns of {_TURN_SECONDS:.0f} s ...")
            return _figures(_measure(url, draw(ROWS, 7)))

    return _with_servers(work)
