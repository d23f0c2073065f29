"""`looks`: how far the look at every vector has come, and what it found until there, so that a kill costs seconds.

Floor 1. Promise: at most one look per migration. What it keeps of rows (24 bytes each) is bounded as it is in memory.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, delete, func, insert, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.trust_tables import look_rows, looks


async def read(connection: AsyncConnection, migration_id: int) -> Row[Any] | None:
    """Return the look that is under way, with its age in seconds beside it, or None."""
    age = func.extract("epoch", func.clock_timestamp() - looks.c.at).label("age_seconds")
    return (await connection.execute(select(looks, age).where(looks.c.migration_id == migration_id))).one_or_none()


async def rows(connection: AsyncConnection, migration_id: int) -> list[bytes]:
    """Return what is kept of the rows that were looked at, in the order in which it was kept."""
    query = select(look_rows.c.rows).where(look_rows.c.migration_id == migration_id).order_by(look_rows.c.id)
    return [bytes(row.rows) for row in await connection.execute(query)]


async def keep(connection: AsyncConnection, migration_id: int, values: dict[str, Any], fresh: bytes) -> None:
    """Store how far it is, over what was stored; `fresh`: what is to be kept of the rows since then."""
    statement = upsert(looks).values(migration_id=migration_id, **values)
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["migration_id"], set_={**values, "at": func.clock_timestamp()})
    )
    if fresh:
        await connection.execute(insert(look_rows).values(migration_id=migration_id, rows=fresh))


async def forget(connection: AsyncConnection, migration_id: int) -> None:
    """Delete it: it is over, or is to begin anew."""
    for table in (look_rows, looks):
        await connection.execute(delete(table).where(table.c.migration_id == migration_id))
