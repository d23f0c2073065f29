"""The operator's queries as they were when the migration was planned: workers on other hosts have no such file.

Floor 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.queries import Query
from migrator.state.trust_tables import queries


async def store(connection: AsyncConnection, migration_id: int, wanted: Sequence[Query]) -> None:
    """Keep these queries instead of those that were stored."""
    await connection.execute(delete(queries).where(queries.c.migration_id == migration_id))
    rows = [
        {"migration_id": migration_id, "number": number, "text": each.text, "relevant": _as_lists(each)}
        for number, each in enumerate(wanted)
    ]
    if rows:
        await connection.execute(insert(queries), rows)


def _as_lists(query: Query) -> list[list[str]] | None:
    return None if query.relevant is None else [list(key) for key in query.relevant]


async def read(connection: AsyncConnection, migration_id: int) -> list[Query]:
    """Return the stored queries, in their order."""
    found = select(queries.c.text, queries.c.relevant).where(queries.c.migration_id == migration_id)
    return [
        Query(row.text, None if row.relevant is None else tuple(tuple(key) for key in row.relevant))
        for row in await connection.execute(found.order_by(queries.c.number))
    ]
