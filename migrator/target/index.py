"""Building the shadow column's indexes: concurrently, resumable, with enough memory, never twice at once.

Floor 1. Promise: an index that stands valid is left alone; one that somebody is building is waited for, also when its
client died (the build outlives it); an INVALID one that nobody builds is dropped and built again. The application's
reads and writes go on throughout.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.state.connection import LockBusy, fetch, run, transaction
from migrator.statements import compose
from migrator.target import facts, message
from migrator.target.dependents import LiveIndex
from migrator.target.relation import Target, suffixed

_FILE = "target/index.sql"
#: Seconds between two looks at a build that somebody else is doing.
_LOOK_SECONDS = 1.0
#: The most maintenance_work_mem that a build asks for by itself: a graph of 400,000 vectors of 1,024 dimensions. More
#: is the operator's to set on the server, since it is shared memory that only they know they have.
MAX_MEMORY_BYTES = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class Twin:
    """An index to be made over the shadow column: a live one's copy, on the table or on one of its partitions."""

    target: Target
    live: LiveIndex
    oid: int
    schema: str
    table: str
    name: str

    @classmethod
    def of(cls, target: Target, oid: int, live: LiveIndex) -> Twin:
        """Return the copy of an index on the table itself."""
        return cls(target, live, oid, target.schema, target.table, suffixed(live.name))

    @property
    def index_id(self) -> sql.Identifier:
        """The index, qualified: it lies in its table's schema."""
        return sql.Identifier(self.schema, self.name)

    def statement(self, *, as_parent: bool = False) -> sql.Composed:
        """Return the CREATE INDEX that makes the live index again over the shadow column."""
        live = self.live
        options: sql.Composable = sql.SQL("")
        if live.options:
            pairs = [option.split("=", 1) for option in live.options]
            made = [sql.SQL("{} = {}").format(sql.Identifier(option), sql.Literal(value)) for option, value in pairs]
            options = sql.SQL(" WITH ({})").format(sql.SQL(", ").join(made))
        tablespace: sql.Composable = sql.SQL("")
        if live.tablespace is not None:
            tablespace = sql.SQL(" TABLESPACE {}").format(sql.Identifier(live.tablespace))
        # The predicate comes from pg_get_expr, not from input.
        text: Any = live.predicate
        predicate = sql.SQL(" WHERE {}").format(sql.SQL(text)) if text is not None else sql.SQL("")
        parts = {
            "name": sql.Identifier(self.name),
            "table": sql.Identifier(self.schema, self.table),
            "method": sql.Identifier(live.method),
            "column": sql.Identifier(self.target.shadow),
            "opclass": sql.Identifier(live.opclass_schema, live.opclass),
            "options": options,
            "tablespace": tablespace,
            "predicate": predicate,
        }
        return compose(_FILE, "build_parent", parts) if as_parent else compose(_FILE, "build", parts)


async def state(connection: AsyncConnection, oid: int, name: str) -> tuple[bool | None, int | None]:
    """Return (valid, builder): None for an index that is not there, and the pid of whoever builds on the table."""
    row = (await fetch(connection, compose(_FILE, "state"), {"oid": oid, "name": name}))[0]
    return row["valid"], row["builder"]


async def progress(connection: AsyncConnection, oid: int) -> str | None:
    """Return a line about the build that is going on, or None."""
    rows = await fetch(connection, compose(_FILE, "progress"), {"oid": oid})
    if not rows:
        return None
    row = rows[0]
    done, total = (
        (row["tuples_done"], row["tuples_total"]) if row["tuples_total"] else (row["blocks_done"], row["blocks_total"])
    )
    share = f" {100 * done / total:.0f} %" if total else ""
    return f"index: {row['phase']}{share}"


async def parts(connection: AsyncConnection, oid: int, name: str) -> dict[int, tuple[str, str]]:
    """Return the partitions' own indexes of a partitioned index, (schema, name) by the partition's oid."""
    rows = await fetch(connection, compose(_FILE, "parts"), {"oid": oid, "name": name})
    return {row["heap_oid"]: (row["schema"], row["name"]) for row in rows}


async def ensure(
    engine: AsyncEngine, target: Target, oid: int, live: LiveIndex, *, wanted_bytes: int, who: str
) -> None:
    """Make sure that a live index's twin stands valid on the shadow; takes as long as it takes."""
    twin = Twin.of(target, oid, live)
    if live.is_partitioned:
        await _ensure_parts(engine, twin, wanted_bytes=wanted_bytes, who=who)
    else:
        await _ensure_one(engine, twin, wanted_bytes=wanted_bytes, who=who)


async def _ensure_one(engine: AsyncEngine, twin: Twin, *, wanted_bytes: int, who: str) -> None:
    while True:
        async with transaction(engine, read_only=True) as connection:
            valid, builder = await state(connection, twin.oid, twin.name)
        if valid:
            return
        if builder is not None:
            await asyncio.sleep(_LOOK_SECONDS)
            continue
        async with message.raw_connection(engine) as raw:
            await _build(raw, twin, dropping=valid is False, wanted_bytes=wanted_bytes, who=who)


async def _ensure_parts(engine: AsyncEngine, twin: Twin, *, wanted_bytes: int, who: str) -> None:
    """Make the index of a partitioned table: its name first, then each partition's, which is then attached."""
    async with transaction(engine, read_only=True) as connection:
        valid, _ = await state(connection, twin.oid, twin.name)
        live_parts = await parts(connection, twin.oid, twin.live.name)
        heaps = await facts.heaps(connection, twin.oid)
    if valid is None:
        await _shortly(engine, twin.statement(as_parent=True))
    for heap in heaps:
        async with transaction(engine, read_only=True) as connection:
            attached = await parts(connection, twin.oid, twin.name)
        if heap.oid in attached:
            continue
        name = live_parts[heap.oid][1] if heap.oid in live_parts else f"{heap.table}_{twin.live.name}"
        part = replace(twin, oid=heap.oid, schema=heap.schema, table=heap.table, name=suffixed(name))
        await _ensure_one(engine, part, wanted_bytes=wanted_bytes, who=who)
        await _shortly(engine, compose(_FILE, "attach", {"parent": twin.index_id, "index": part.index_id}))


async def _shortly(engine: AsyncEngine, statement: sql.Composed) -> None:
    """Run a statement whose lock others would queue behind: with a deadline, again and again, leaving room between.

    Raises: LockBusy, when the ladder ends.
    """
    for pause in (*message.LADDER_SECONDS, None):
        try:
            async with transaction(engine, lock_timeout_seconds=message.DEADLINE_SECONDS) as connection:
                await run(connection, statement)
        except LockBusy:
            if pause is None:
                raise
            await asyncio.sleep(pause)
        else:
            return


async def _build(raw: psycopg.AsyncConnection[Any], twin: Twin, *, dropping: bool, wanted_bytes: int, who: str) -> None:
    async with raw.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(compose(_FILE, "memory"))
        row = await cursor.fetchone()
        standing = int(row["bytes"]) if row is not None else 0
        memory = max(standing, min(wanted_bytes, MAX_MEMORY_BYTES))
        settings = {"application": sql.Literal(who), "memory": sql.Literal(f"{memory // 1024}kB")}
        await cursor.execute(compose(_FILE, "session", settings))
        try:
            if dropping:
                await cursor.execute(compose(_FILE, "drop", {"index": twin.index_id}))
            await cursor.execute(twin.statement())
            table = {"table": sql.Identifier(twin.schema, twin.table), "column": sql.Identifier(twin.target.shadow)}
            await cursor.execute(compose(_FILE, "analyze", table))
        finally:
            if not raw.closed:
                await cursor.execute(compose(_FILE, "reset"))
