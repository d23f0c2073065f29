"""`written` and `suspects`: vectors that the application brought itself, and which of them look wrong.

Floor 1. Promise: a note is deleted only in the transaction that looked at its row; a suspect is one row per key and
column, so there are never more than the table has rows, however often somebody writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Text, cast, delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.generation import Side
from migrator.state.trust_tables import suspects, written

Key = tuple[str, ...]
#: Seconds between two looks at a suspect: what its writer, or an edit of its text, mended leaves the list by itself.
AGAIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Note:
    """A vector that somebody wrote, by the column's generation and the row's key."""

    id: int
    side: Side
    key: Key
    application: str
    role: str


async def read(connection: AsyncConnection, migration_id: int, *, limit: int) -> list[Note]:
    """Read the oldest notes.

    Locks: them, until commit; somebody else who reads them waits, and then finds those that follow.
    """
    mine = select(written).where(written.c.migration_id == migration_id)
    query = mine.order_by(written.c.id).limit(limit).with_for_update()
    return [
        Note(row.id, Side(row.side), tuple(row.key), row.application, row.role)
        for row in await connection.execute(query)
    ]


async def settle(connection: AsyncConnection, notes: Sequence[Note]) -> None:
    """Delete exactly these notes."""
    await connection.execute(delete(written).where(written.c.id.in_([each.id for each in notes])))


async def newest_id(connection: AsyncConnection, migration_id: int, side: Side) -> int:
    """Return the newest note's id; 0 where there is none."""
    query = select(func.coalesce(func.max(written.c.id), 0))
    mine = query.where(written.c.migration_id == migration_id, written.c.side == side.value)
    return int((await connection.execute(mine)).scalar_one())


async def any_up_to(connection: AsyncConnection, migration_id: int, side: Side, last: int) -> bool:
    """Say whether a note is left that is no newer than `last`."""
    mine = exists().where(written.c.migration_id == migration_id, written.c.side == side.value, written.c.id <= last)
    return bool((await connection.execute(select(mine))).scalar_one())


async def suspect(connection: AsyncConnection, migration_id: int, notes: Sequence[Note]) -> None:
    """Remember the rows of these notes as suspects, each with who wrote it last."""
    latest = {(each.side.value, each.key): each for each in notes}
    rows = [
        {
            "migration_id": migration_id,
            "side": side,
            "key": list(key),
            "application": each.application,
            "role": each.role,
        }
        for (side, key), each in sorted(latest.items())
    ]
    if not rows:
        return
    statement = insert(suspects)
    again = {name: statement.excluded[name] for name in ("application", "role")}
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["migration_id", "side", "key"], set_={**again, "looked_at": func.clock_timestamp()}
        ),
        rows,
    )


async def clear(connection: AsyncConnection, migration_id: int, side: Side, keys: Sequence[Key]) -> None:
    """Take rows off the list."""
    if keys:
        await connection.execute(delete(suspects).where(*_those(migration_id, side, keys)))


async def touch(connection: AsyncConnection, migration_id: int, side: Side, keys: Sequence[Key]) -> None:
    """Say that rows on the list were looked at again."""
    if keys:
        seen = update(suspects).where(*_those(migration_id, side, keys))
        await connection.execute(seen.values(looked_at=func.clock_timestamp()))


def _those(migration_id: int, side: Side, keys: Sequence[Key]) -> list[ColumnElement[bool]]:
    named = suspects.c.key.in_([cast(list(key), ARRAY(Text)) for key in keys])
    return [suspects.c.migration_id == migration_id, suspects.c.side == side.value, named]


async def listed(
    connection: AsyncConnection, migration_id: int, side: Side | None = None, *, limit: int
) -> list[dict[str, Any]]:
    """Return suspects, those first that nobody looked at for longest."""
    query = select(suspects).where(suspects.c.migration_id == migration_id)
    if side is not None:
        query = query.where(suspects.c.side == side.value)
    found = await connection.execute(query.order_by(suspects.c.looked_at, suspects.c.key).limit(limit))
    return [dict(row._mapping) for row in found]  # noqa: SLF001 - SQLAlchemy's public name for it


async def writers(
    connection: AsyncConnection, migration_id: int, side: Side | None = None
) -> list[tuple[Side, str, int]]:
    """Return who wrote how many suspects into which generation's column: (side, application and role, rows)."""
    who = func.concat(suspects.c.application, " (role ", suspects.c.role, ")")
    query = select(suspects.c.side, who, func.count()).where(suspects.c.migration_id == migration_id)
    if side is not None:
        query = query.where(suspects.c.side == side.value)
    found = await connection.execute(query.group_by(suspects.c.side, who).order_by(func.count().desc(), who))
    return [(Side(each[0]), str(each[1]), int(each[2])) for each in found]


async def forget(connection: AsyncConnection, migration_id: int, side: Side) -> int:
    """Take every suspect of one column off the list; returns how many."""
    mine = delete(suspects).where(suspects.c.migration_id == migration_id, suspects.c.side == side.value)
    return (await connection.execute(mine)).rowcount
