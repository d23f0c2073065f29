"""Building the shadow column's indexes: concurrently, resumable, with enough memory, never twice at once.

Floor 1. Promise: an index that stands valid is left alone; one that somebody is building is waited for, also when its
client died (the build outlives it); an INVALID one that nobody builds is dropped and built again. The application's
reads and writes go on throughout.
"""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.state.connection import fetch, transaction
from migrator.statements import compose
from migrator.target import message
from migrator.target.dependents import LiveIndex
from migrator.target.relation import Target, suffixed

_FILE = "target/index.sql"
#: Seconds between two looks at a build that somebody else is doing.
_LOOK_SECONDS = 1.0
#: The most maintenance_work_mem that a build asks for by itself: a graph of 400,000 vectors of 1,024 dimensions. More
#: is the operator's to set on the server, since it is shared memory that only they know they have.
MAX_MEMORY_BYTES = 2 * 1024**3


def statement(target: Target, live: LiveIndex) -> sql.Composed:
    """Return the CREATE INDEX that makes a live index again over the shadow column."""
    options: sql.Composable = sql.SQL("")
    if live.options:
        pairs = [option.split("=", 1) for option in live.options]
        made = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value)) for name, value in pairs]
        options = sql.SQL(" WITH ({})").format(sql.SQL(", ").join(made))
    tablespace: sql.Composable = sql.SQL("")
    if live.tablespace is not None:
        tablespace = sql.SQL(" TABLESPACE {}").format(sql.Identifier(live.tablespace))
    # The predicate comes from pg_get_expr, not from input.
    text: Any = live.predicate
    predicate = sql.SQL(" WHERE {}").format(sql.SQL(text)) if text is not None else sql.SQL("")
    parts = {
        "name": sql.Identifier(suffixed(live.name)),
        "table": target.table_id,
        "method": sql.Identifier(live.method),
        "column": sql.Identifier(target.shadow),
        "opclass": sql.Identifier(live.opclass_schema, live.opclass),
        "options": options,
        "tablespace": tablespace,
        "predicate": predicate,
    }
    return compose(_FILE, "build", parts)


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


async def ensure(
    engine: AsyncEngine, target: Target, oid: int, live: LiveIndex, *, wanted_bytes: int, who: str
) -> None:
    """Make sure that a live index's twin stands valid on the shadow; takes as long as it takes."""
    name = suffixed(live.name)
    while True:
        async with transaction(engine, read_only=True) as connection:
            valid, builder = await state(connection, oid, name)
        if valid:
            return
        if builder is not None:
            await asyncio.sleep(_LOOK_SECONDS)
            continue
        async with message.raw_connection(engine) as raw:
            await _build(raw, target, live, dropping=valid is False, wanted_bytes=wanted_bytes, who=who)


async def _build(
    raw: psycopg.AsyncConnection[Any], target: Target, live: LiveIndex, *, dropping: bool, wanted_bytes: int, who: str
) -> None:
    async with raw.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(compose(_FILE, "memory"))
        row = await cursor.fetchone()
        standing = int(row["bytes"]) if row is not None else 0
        memory = max(standing, min(wanted_bytes, MAX_MEMORY_BYTES))
        settings = {"application": sql.Literal(who), "memory": sql.Literal(f"{memory // 1024}kB")}
        await cursor.execute(compose(_FILE, "session", settings))
        try:
            if dropping:
                index = sql.Identifier(target.schema, suffixed(live.name))
                await cursor.execute(compose(_FILE, "drop", {"index": index}))
            await cursor.execute(statement(target, live))
            await cursor.execute(
                compose(_FILE, "analyze", {"table": target.table_id, "column": sql.Identifier(target.shadow)})
            )
        finally:
            if not raw.closed:
                await cursor.execute(compose(_FILE, "reset"))
