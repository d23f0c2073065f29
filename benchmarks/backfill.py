"""What the backfill costs: our engine against the loops that everyone writes, with an HNSW index on the live column.

Every way fills a clone of the same table with the same vectors, one after the other on one embedded PostgreSQL (fsync
on). Those that are held against each other take turns, and each one's median turn counts, so that ratios hold on a
machine that is busy with other things: the first turn pays for shared memory that nobody touched before and for new
files of WAL, whichever way it is. Two tables: rows of about a kilobyte (7 a page, as text chunks are), and of 400 bytes
(17 a page).
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import Figure
from benchmarks import backfill_floor as floor
from benchmarks import backfill_ways as ways
from benchmarks.backfill_table import SETTINGS, Table, Vectors, clone, counters, draw, make
from migrator.cli import console
from migrator.demo.servers import Postgres

_BENCH = "backfill"
_OURS = "ours, a worker of two processes"
_COPY = "COPY into an empty table"
#: The same updates without a client, and those without the index on the live column.
_FLOOR, _BARE_FLOOR = "PostgreSQL alone", "PostgreSQL alone, without the old index"
ROWS = 20_000
#: Characters of a row's text -> what the table is called.
_BODIES = {1080: "7 rows a page", 400: "17 rows a page"}
#: P12: the share of HOT updates, of its ceiling (`Table.hot_ceiling`); and the heap's growth, of 1 / rows per page.
_HOT_SHARE, _GROWTH = 0.95, 1.2
#: Goals: times as fast as the rivals, share of the limit, and microseconds of an irrelevant update.
_LOOP_TIMES, _KEY_ORDER_TIMES, _COPY_SHARE, _TRIGGER_US = 8.0, 4.0, 0.4, 20.0
#: Turns that each of those takes that are held against each other.
_TURNS = 5
#: Rows and steps of the shapes that are compared: one provider answer, and a landing that took several along.
_SHAPE_ROWS, _SHAPE_STEPS = 1500, (10, 100)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one way did. `growth` is the heap's, of its size before; WAL is in bytes."""

    rows_per_second: float
    hot: float
    growth: float
    wal_per_row: float
    index_inserts: int


#: Returns the rows that it wrote, and in how many seconds where it knows better than who called it.
Way = Callable[[str, Vectors], int | tuple[int, float]]


def measure(server: Postgres, base: str, way: Way, found: Vectors, *, expanded: bool = False) -> Measured:
    """Let one way fill a clone of a table: an expanded one, or one with a plain new column."""
    with clone(server, base) as url:
        if expanded:
            asyncio.run(ways.expand(url))
        else:
            ways.add_column(url)
        before = counters(url)
        began = time.perf_counter()
        done = way(url, found)
        rows, seconds = done if isinstance(done, tuple) else (done, time.perf_counter() - began)
        after = counters(url, updates=before.updates + (0 if way is ways.copy else rows))
    updates, hot = after.updates - before.updates, after.hot - before.hot
    if way is not ways.copy and updates != rows:
        raise RuntimeError(f"{updates} updates were counted for {rows} rows")
    return Measured(
        rows / seconds,
        hot / max(updates, 1),
        after.heap / before.heap - 1,
        (after.wal - before.wal) / rows,
        updates - hot,
    )


def _figures(name: str, table: Table, measured: dict[str, Measured]) -> list[Figure]:
    mine, per_page = measured[_OURS], table.rows_per_page
    ceiling = table.hot_ceiling
    rates = [Figure(_BENCH, f"{name}: {way}", each.rows_per_second, "rows/s") for way, each in measured.items()]

    def times(way: str, low: float) -> Figure:
        ratio = mine.rows_per_second / measured[way].rows_per_second
        return Figure.at_least(_BENCH, f"{name}: times as fast", ratio, "ratio", low, way)

    return [
        *rates,
        times("loop, a row a transaction", _LOOP_TIMES),
        times("key order, 1,000 a transaction", _KEY_ORDER_TIMES),
        times(_COPY, _COPY_SHARE),
        Figure(_BENCH, f"{name}: share of {_FLOOR}", mine.rows_per_second / measured[_FLOOR].rows_per_second, "ratio"),
        Figure(
            _BENCH,
            f"{name}: share that {_FLOOR} has",
            measured[_FLOOR].rows_per_second / measured[_COPY].rows_per_second,
            "ratio",
            versus=_COPY,
        ),
        Figure.at_least(
            _BENCH, f"{name}: HOT share", mine.hot, "share", _HOT_SHARE * ceiling, f"its ceiling {ceiling:.3f}"
        ),
        Figure(_BENCH, f"{name}: HOT share of 1 - 1 / rows a page", mine.hot / (1 - 1 / per_page), "share"),
        Figure.within(
            _BENCH, f"{name}: heap growth", mine.growth, "share", (0, _GROWTH / per_page), f"{per_page:.1f} rows a page"
        ),
        Figure(_BENCH, f"{name}: WAL a row", mine.wal_per_row, "bytes"),
        Figure(
            _BENCH,
            f"{name}: WAL a row",
            measured["key order, 1,000 a transaction"].wal_per_row,
            "bytes",
            versus="key order",
        ),
        Figure(_BENCH, f"{name}: inserts into the old index a row", mine.index_inserts / table.rows, "inserts"),
    ]


def _table(server: Postgres, body: int, name: str, found: Vectors) -> list[Figure]:
    base = f"base_{body}"
    console.aside(f"  {name}: making {len(found):,} rows and their index ...")
    table = make(server, base, rows=len(found), body=body)
    compared: dict[str, tuple[Way, bool]] = {
        _OURS: (ways.ours_by_two, True),
        "loop, a row a transaction": (ways.loop, False),
        "key order, 1,000 a transaction": (ways.key_order, False),
        _COPY: (ways.copy, False),
        _FLOOR: (floor.floor, False),
    }
    turns: dict[str, list[Measured]] = {}
    for turn in range(1, _TURNS + 1):
        for way, (write, expanded) in compared.items():
            console.aside(f"  {name}: {way}, {turn} of {_TURNS} ...")
            turns.setdefault(way, []).append(measure(server, base, write, found, expanded=expanded))
    for way, once, expanded in (
        ("ours, one process", ways.ours, True),
        ("ours, one process, an answer a landing", ways.ours_one_by_one, True),
        (_BARE_FLOOR, floor.floor_without_index, False),
    ):
        console.aside(f"  {name}: {way} ...")
        turns[way] = [measure(server, base, once, found, expanded=expanded)]
    return _figures(name, table, {way: (_best if way == _FLOOR else _median)(each) for way, each in turns.items()})


def _best(turns: list[Measured]) -> Measured:
    """Return the turn of the highest rate: a limit is what was reached once, with nothing in the way of pruning."""
    return max(turns, key=lambda each: each.rows_per_second)


def _median(turns: list[Measured]) -> Measured:
    """Return the turn of the median rate."""
    return sorted(turns, key=lambda each: each.rows_per_second)[len(turns) // 2]


def _shapes(server: Postgres, body: int, name: str, found: Vectors) -> list[Figure]:
    figures = []
    for step in _SHAPE_STEPS:
        for shape in ways.SHAPES:
            console.aside(f"  {name}: {shape}, {step} rows a transaction ...")

            def write(url: str, vectors: Vectors, shape: str = shape, step: int = step) -> int:
                return ways.shape(url, vectors, shape, rows=_SHAPE_ROWS, step=step)

            each = measure(server, f"base_{body}", write, found)
            figures.append(Figure(_BENCH, f"{shape}, {step} rows", each.rows_per_second, "rows/s", versus=name))
    return figures


def _trigger(server: Postgres) -> Figure:
    table = make(server, "plain", rows=1000, body=1080, indexed=False)
    with clone(server, "plain") as url:
        asyncio.run(ways.expand(url))
        cost = ways.trigger_cost(url, table, updates=3000)
    return Figure.within(_BENCH, "trigger, an irrelevant update", max(cost, 0.0), "us", (0, _TRIGGER_US), "no trigger")


def run() -> list[Figure]:
    """Measure on a PostgreSQL of its own; returns the figures.

    Raises: ExtraMissing.
    """
    home = Path(tempfile.mkdtemp(prefix="mgb-"))
    # PostgreSQL runs as `nobody` where we are root, and must pass through.
    home.chmod(0o711)
    server = Postgres(home / "postgres", settings=SETTINGS)
    try:
        server.start()
        figures = [_trigger(server)]
        found = draw(ROWS, 7)
        for body, name in _BODIES.items():
            figures += _table(server, body, name, found)
        return figures + _shapes(server, max(_BODIES), _BODIES[max(_BODIES)], found)
    finally:
        server.remove()
        shutil.rmtree(home, ignore_errors=True)
