"""What it costs to look at every vector: the structure gate and the sentinel in one pass, of 1,024 dimensions.

Both columns of the table are filled with vectors of two known spaces, and a tenth of a percent of the rows has the old
one. Rows per second are those of one core: all processor time of the pass is counted, ours and the server's, since on a
machine that is busy with other things the clock says nothing. Beside it the same measures taken from a binary COPY of
the same vectors by numpy. What is learnt before the pass costs the same at any size of the table.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import psutil
import psycopg
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks import Figure
from migrator import spec as specs
from migrator.cli import console
from migrator.demo.servers import Postgres
from migrator.spending.pacing import SharedPacer
from migrator.spending.worker import Worker
from migrator.state import migrations, schema
from migrator.state.connection import make_engine, transaction
from migrator.state.migrations import Migration
from migrator.target import vectors
from migrator.validation import every_vector, sentinel
from migrator.validation.every_vector import Window
from migrator.validation.sentinel import Suspects
from migrator.validation.structure import Faults

_BENCH = "validate"
ROWS, DIMS = 30_000, 1024
#: Every so many rows one has the old model's vector: 0.1 %.
_WRONG_EVERY = 1_000
#: Passes measured, after one that warms the caches.
_PASSES = 8
_SEED = 1
#: Goals: rows a second of one core; growth of memory from the first tenth of the windows to the last.
_ROWS_PER_SECOND, _GROWTH = 100_000, 1.05
#: Characters of a row's text.
_BODY = 400
#: Length of each space's mean: any two texts have a cosine of 0.09, as they have with models, or more.
_MEAN = 0.3
_SETTINGS = {"fsync": "off", "autovacuum": "off", "shared_buffers": "1GB", "max_wal_size": "8GB"}

_TABLE = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE docs (id bigint PRIMARY KEY, body text, embedding vector(1024), embedding__migrator vector(1024));
"""
_SPEC = {
    "name": "docs",
    "target": {"table": "public.docs", "column": "embedding", "text": "{body}"},
    "from": {"model": "v3", "dimensions": DIMS},
    "to": {"model": "v4", "dimensions": DIMS, "base_url": "http://127.0.0.1:1/v1", "price_usd_per_mtok": 1.0},
    "limits": {"max_cost_usd": 1.0},
}

Vectors = NDArray[np.float32]


def run() -> list[Figure]:
    """Run it on a server of its own."""
    home = Path(tempfile.mkdtemp(prefix="mgb-"))
    home.chmod(0o711)
    server = Postgres(home / "postgres", settings=_SETTINGS)
    try:
        server.start()
        console.aside(f"writing {ROWS:,} rows with two vectors of {DIMS:,} dimensions")
        _fill(server.url)
        with threadpool_limits(1):
            return asyncio.run(_measure(server.url))
    finally:
        server.remove()
        shutil.rmtree(home, ignore_errors=True)


def _space(seed: int) -> Callable[[int], Vectors]:
    """Return what draws vectors of a space: a mean of its own, and directions of falling weight."""
    chance = np.random.default_rng(seed)
    middle = chance.standard_normal(DIMS) * _MEAN / np.sqrt(DIMS)
    spread = (chance.standard_normal((DIMS, DIMS)) * np.arange(1, DIMS + 1)[:, None] ** -0.4).astype(np.float32)

    def draw(rows: int) -> Vectors:
        made = chance.standard_normal((rows, DIMS), dtype=np.float32) @ spread
        made *= np.sqrt(1 - _MEAN**2) / np.linalg.norm(made, axis=1, keepdims=True)
        made += middle.astype(np.float32)
        unit: Vectors = made / np.linalg.norm(made, axis=1, keepdims=True)
        return unit

    return draw


def _fill(url: str) -> None:
    old, new = _space(1), _space(2)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_TABLE.encode())
        with connection.cursor().copy("COPY docs FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int8", "text", "bytea", "bytea"])
            for first in range(0, ROWS, _WRONG_EVERY):
                before, after = old(_WRONG_EVERY), new(_WRONG_EVERY)
                after[0] = before[1]
                wire = [vectors.encode(each, "vector") for each in (before, after)]
                for row in range(_WRONG_EVERY):
                    body = f"text {first + row} ".ljust(_BODY, "x")
                    copy.write_row((first + row, body, wire[0][row].data, wire[1][row].data))
        connection.execute("VACUUM (FREEZE, ANALYZE) docs")


async def _stored(worker: Worker) -> Migration:
    async with transaction(worker.engine) as connection:
        await schema.upgrade(connection)
        values = {
            "target_schema": "public",
            "target_table": "docs",
            "target_column": "embedding",
            "shadow_column": "embedding__migrator",
            "key_columns": ["id"],
            "key_types": ["bigint"],
            "spec": specs.parse(_SPEC, "bench").dump(),
            "plan": {"vector_schema": "public", "vector_type": "vector"},
            "fingerprint": {},
            "from_generation": f"v3@{DIMS}",
            "to_generation": f"v4@{DIMS}",
        }
        await migrations.store_plan(connection, "docs", values, "bench")
        return await migrations.get(connection, "docs")


@dataclass(slots=True)
class _Resident:
    """Our own memory after each window, in bytes."""

    sizes: list[int] = field(default_factory=list)

    async def take(self, window: Window) -> None:
        """Look at it."""
        del window
        self.sizes.append(psutil.Process().memory_info().rss)

    @property
    def growth(self) -> float:
        """The last tenth against the first."""
        tenth = max(1, len(self.sizes) // 10)
        return max(self.sizes[-tenth:]) / max(self.sizes[:tenth])


def _processor_seconds() -> float:
    """Return what we and the server's processes have used."""
    ours = psutil.Process()
    every = [ours, *ours.children(recursive=True)]
    return sum(sum(each.cpu_times()[:2]) for each in every)


async def _measure(url: str) -> list[Figure]:
    engine = make_engine(url, "bench", pool_size=1)
    worker = Worker(engine, "bench", 30, 1, SharedPacer(engine, "redis://127.0.0.1:1/0"))
    try:
        migration = await _stored(worker)
        began, used = time.perf_counter(), _processor_seconds()
        learnt = await sentinel.learn(worker, migration, rows=ROWS, seed=_SEED)
        taught, clock = _processor_seconds() - used, time.perf_counter() - began
        assert learnt.rule is not None  # noqa: S101 - known spaces
        direction = learnt.rule.discriminant.direction
        spans = (await every_vector.frame(worker, migration)).spans
        # Windows a tenth as wide for memory: it is looked at after each, and there are to be many.
        narrow = [
            replace(span, first_page=first, beyond_page=min(first + 25, span.beyond_page))
            for span in spans[:-1]
            for first in range(span.first_page, span.beyond_page, 25)
        ]
        resident, suspects = _Resident(), Suspects(learnt)
        await every_vector.look(worker, migration, narrow, direction, [Faults(), suspects, resident])
        seconds = []
        for _ in range(_PASSES):
            used = _processor_seconds()
            await every_vector.look(worker, migration, spans, direction, [Faults(), Suspects(learnt)])
            seconds.append(_processor_seconds() - used)
        copied = _copied(url, direction)
        return _figures(min(seconds), copied, (taught, clock), resident, suspects)
    finally:
        await worker.close()


def _copied(url: str, direction: Vectors) -> float:
    """Take length and product of every vector from a binary COPY; returns the processor seconds."""
    with psycopg.connect(url, autocommit=True) as connection:
        used = _processor_seconds()
        rows: list[bytes] = []
        query = b"COPY (SELECT public.vector_send(embedding__migrator) FROM docs) TO STDOUT (FORMAT BINARY)"
        with connection.cursor().copy(query) as copy:
            copy.set_types(["bytea"])
            for row in copy.rows():
                rows.append(row[0])
                if len(rows) == _WRONG_EVERY:
                    found = vectors.decode_all(rows, "vector", DIMS)
                    np.linalg.norm(found, axis=1)
                    found @ direction
                    rows.clear()
        return _processor_seconds() - used


def _figures(
    seconds: float, copied: float, learning: tuple[float, float], resident: _Resident, suspects: Suspects
) -> list[Figure]:
    wrong, grown = ROWS // _WRONG_EVERY, f"{max(resident.sizes) / 2**20:.0f} MB at the most"
    by_copy = f"{ROWS / copied:,.0f} rows/s by binary COPY and numpy"
    return [
        Figure.at_least(
            _BENCH, "structure and sentinel, one core", ROWS / seconds, "rows/s", _ROWS_PER_SECOND, by_copy
        ),
        Figure.within(_BENCH, "resident memory", resident.growth, "ratio", (0, _GROWTH), grown),
        Figure.within(_BENCH, f"found of {wrong} swapped", suspects.count, "rows", (wrong, wrong)),
        Figure(_BENCH, "learning, one core", learning[0], "s", versus=f"{learning[1]:.1f} s by the clock"),
    ]
