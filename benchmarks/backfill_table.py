"""The table that the backfill is measured on: made once with its HNSW index, cloned for every way of writing.

A clone is a copy of files, so every way finds the same pages, the same graph and counters at zero. Autovacuum is off:
an ANALYZE of a vector table holds the horizon back for seconds, and would hit one way and not the next.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from psycopg.types import TypeInfo

from migrator.demo.servers import Postgres
from migrator.target import vectors

Vectors = NDArray[np.float32]
DIMS = 1024
#: Clusters, dimensions within which they lie, width of a cluster (their centres are 1 wide), and what lies outside.
_TOPICS, _INNER_DIMS, _SPREAD, _NOISE = 200, 64, 0.7, 0.02
#: autovacuum: see above. The rest: a checkpoint in the middle of one way would write its pages' images once more.
SETTINGS = {"autovacuum": "off", "max_wal_size": "8GB", "checkpoint_timeout": "1h", "shared_buffers": "512MB"}
#: Bytes of a page for rows, of a line pointer, of a TOAST pointer, and of a tuple besides its text: header, id, the
#: text's length, n, the live vector's pointer.
_PAGE_BYTES, _LINE_BYTES, _POINTER_BYTES, _TUPLE_BYTES = 8168, 4, 18, 24 + 8 + 4 + 4 + 18
#: Seconds that statistics may take to arrive.
_STATISTICS_SECONDS = 15.0

_TABLE = """
CREATE EXTENSION vector;
CREATE TABLE docs (id bigint PRIMARY KEY, body text STORAGE PLAIN, n int NOT NULL DEFAULT 0, embedding vector(1024));
"""


@dataclass(frozen=True, slots=True)
class Table:
    """One table as every way finds it: so many rows, so many on a page."""

    rows: int
    body: int
    pages: int

    @property
    def rows_per_page(self) -> float:
        """Rows on a page."""
        return self.rows / self.pages

    @property
    def hot_ceiling(self) -> float:
        """The largest share of updates that can be HOT: all but the rows that must leave a page to make room.

        One leaves, so that the next finds room. But each row that stays grows by its new TOAST pointer, and the room
        must always hold a whole row: where the page's spare bytes don't take all that growth, another has to leave.
        """
        old = _aligned(_TUPLE_BYTES + self.body)
        new = _aligned(_TUPLE_BYTES + self.body + _POINTER_BYTES)
        rows = _PAGE_BYTES // (old + _LINE_BYTES)
        spare = _PAGE_BYTES - rows * (old + _LINE_BYTES)
        leaving = next(k for k in range(1, rows + 1) if (rows - k) * (new - old) <= spare + (k - 1) * old)
        return 1 - leaving / rows


@dataclass(frozen=True, slots=True)
class Counters:
    """Where table and server stand. `wal` and `heap` are in bytes."""

    updates: int
    hot: int
    wal: int
    heap: int


def _aligned(size: int) -> int:
    return -(-size // 8) * 8


def draw(rows: int, seed: int) -> Vectors:
    """Draw vectors as models make them: of length 1, in clusters, with few of their dimensions used; rows x DIMS.

    Directionless noise would be another benchmark: in a graph of it an insert searches four times as long.
    """
    model = np.random.default_rng(1)
    topics = model.standard_normal((_TOPICS, _INNER_DIMS))
    turned = np.linalg.qr(model.standard_normal((DIMS, _INNER_DIMS)))[0].T
    texts = np.random.default_rng(seed)
    inner = topics[texts.integers(0, _TOPICS, rows)] + _SPREAD * texts.standard_normal((rows, _INNER_DIMS))
    vectors = inner @ turned + _NOISE * texts.standard_normal((rows, DIMS))
    found: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("<f4")
    return found


def connect(url: str) -> psycopg.Connection:
    """Open a connection that knows vectors; its transactions are the caller's."""
    connection = psycopg.connect(url)
    found = TypeInfo.fetch(connection, "vector")
    if found is not None:
        found.register(connection)
        dumper = type("_vector_dumper", (vectors._WireDumper,), {"oid": found.oid})  # noqa: SLF001 - ours
        connection.adapters.register_dumper(vectors.WireVector, dumper)
    connection.commit()
    return connection


def make(server: Postgres, name: str, *, rows: int, body: int, indexed: bool = True) -> Table:
    """Make a database with the table, its rows and its index."""
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url = server.database_url(name)
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(_TABLE)
    with connect(url) as connection:
        wire = vectors.encode(draw(rows, 8), "vector")
        with connection.cursor().copy("COPY docs (id, body, embedding) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int8", "text", "vector"])
            for number, each in enumerate(wire, start=1):
                copy.write_row((number, f"text {number} ".ljust(body, "x"), each))
    with psycopg.connect(url, autocommit=True) as admin:
        if indexed:
            admin.execute(sql.SQL("SET maintenance_work_mem = {}").format(f"{max(512, rows // 100)}MB"))
            admin.execute("CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops)")
        admin.execute("VACUUM (FREEZE, ANALYZE) docs")
        pages = admin.execute("SELECT pg_relation_size('docs') / current_setting('block_size')::int").fetchone()
    assert pages is not None  # noqa: S101 - one row, always
    return Table(rows, body, pages[0])


@contextmanager
def clone(server: Postgres, base: str) -> Iterator[str]:
    """Lend a copy of a database; yields its URL."""
    names = {"base": sql.Identifier(base), "name": sql.Identifier(f"{base}_clone")}
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {name} TEMPLATE {base} STRATEGY FILE_COPY").format(**names))
        admin.execute("CHECKPOINT")
        try:
            yield server.database_url(f"{base}_clone")
        finally:
            admin.execute(sql.SQL("DROP DATABASE {name} WITH (FORCE)").format(**names))


def counters(url: str, *, updates: int = 0) -> Counters:
    """Read the counters, waiting until so many updates were counted: a session's are told when it ends."""
    deadline = time.monotonic() + _STATISTICS_SECONDS
    query = """SELECT n_tup_upd, n_tup_hot_upd, pg_current_wal_insert_lsn() - '0/0', pg_relation_size(relid)
                 FROM pg_stat_user_tables WHERE relname = 'docs'"""
    with psycopg.connect(url, autocommit=True) as admin:
        while True:
            row = admin.execute(query).fetchone()
            assert row is not None  # noqa: S101 - the table is there
            if row[0] >= updates or time.monotonic() > deadline:
                return Counters(row[0], row[1], int(row[2]), row[3])
            time.sleep(0.05)
