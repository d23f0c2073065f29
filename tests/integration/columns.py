"""A table with both generations' vectors, filled at once: what a migration has when its backfill is over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator import spec as specs
from migrator.spending.pacing import SharedPacer
from migrator.spending.worker import Worker
from migrator.state.connection import transaction
from migrator.state.migrations import Migration
from migrator.state.verdicts import Verdict
from migrator.validation import structure
from tests.integration import stored
from tests.spaces import Vectors

SHADOW = "embedding__migrator"
SEED = 7


def make(sql: psycopg.Connection, kind: str, options: str = "", key: str = "PRIMARY KEY") -> None:
    """Make the table; `kind` is the type of both columns."""
    sql.execute(
        f"CREATE TABLE docs (id bigint {key}, title text, n int DEFAULT 0, embedding {kind}, {SHADOW} {kind}){options}"
        .encode()
    )  # fmt: skip


def words(number: int) -> str:
    return f"text {number}"


def fill(sql: psycopg.Connection, old: Vectors, new: Vectors, texts: Sequence[str] | None = None) -> None:
    """Write both vectors of every row."""
    named = "SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attname = %s"
    half = "half" in str(sql.execute(named, [SHADOW]).fetchone())
    with sql.cursor().copy(f"COPY docs (id, title, embedding, {SHADOW}) FROM STDIN (FORMAT BINARY)".encode()) as copy:
        copy.set_types(["int8", "text", "bytea", "bytea"])
        for number, pair in enumerate(zip(old, new, strict=True)):
            title = texts[number] if texts is not None else words(number)
            copy.write_row((number, title, *(_wire(each, half=half) for each in pair)))
    sql.execute("VACUUM ANALYZE docs")


def _wire(vector: NDArray[np.float32], *, half: bool) -> bytes:
    return len(vector).to_bytes(2, "big") + b"\0\0" + vector.astype(">f2" if half else ">f4").tobytes()


def put(sql: psycopg.Connection, keys: Iterable[int], vectors: Vectors) -> None:
    """Write other vectors of the new generation's column."""
    for key, vector in zip(keys, vectors, strict=True):
        text = "[" + ",".join(f"{number:.9g}" for number in vector) + "]"
        sql.execute(f"UPDATE docs SET {SHADOW} = %s WHERE id = %s".encode(), [text, key])


async def plan(engine: AsyncEngine, dims: int, *, kind: str = "vector", name: str = "docs", **gates: Any) -> Migration:
    """Store the migration of that table."""
    data = {**stored.SPEC, "name": name, "gates": gates}
    async with transaction(engine) as connection:
        return await stored.plan(
            connection,
            name,
            spec=specs.parse(data, "test").dump(),
            from_generation=f"v3@{dims}",
            to_generation=f"v4@{dims}",
            plan={"vector_schema": "public", "vector_type": kind},
        )


def make_worker(engine: AsyncEngine) -> Worker:
    return Worker(engine, "test", 2, 2, SharedPacer(engine, "redis://127.0.0.1:1/0"))


async def measured(engine: AsyncEngine, migration: Migration) -> dict[str, Verdict]:
    """Every row's verdicts, by gate."""
    found = await structure.measure(make_worker(engine), migration, seed=SEED)
    return {each.gate: each for each in found.verdicts}
