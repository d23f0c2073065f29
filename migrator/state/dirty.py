"""`dirty`: hints from the capture trigger that a row may lack one side's vector.

Floor 1. Promise: an id is deleted only by whoever read it, in the transaction that made the hint untrue (or found it
untrue), and never an id that came later. Ten edits of one row are ten ids and one embedding.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.generation import Side
from migrator.state.tables import dirty
from migrator.state.trust_tables import parked

#: Seconds for which a row that is edited all the time may be put off.
LONGEST_QUIET_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Hints:
    """Ids read at one moment, by key, oldest key first."""

    by_key: dict[tuple[str, ...], list[int]]

    def __bool__(self) -> bool:
        return bool(self.by_key)

    def ids(self, keys: Sequence[tuple[str, ...]]) -> list[int]:
        """Return the ids of those keys."""
        return [each for key in keys for each in self.by_key.get(key, [])]


async def read(
    connection: AsyncConnection, migration_id: int, side: Side, *, limit: int, quiet_seconds: float = 0.0
) -> Hints:
    """Read the oldest hints, deduplicated by key; of rows that nobody edited for `quiet_seconds`.

    A row that is edited all the time is not put off for longer than LONGEST_QUIET_SECONDS.
    """
    age = func.extract("epoch", func.clock_timestamp() - dirty.c.at).label("age")
    query = (
        select(dirty.c.id, dirty.c.key, age)
        .where(dirty.c.migration_id == migration_id, dirty.c.side == side)
        .order_by(dirty.c.id)
        .limit(limit)
    )
    by_key: dict[tuple[str, ...], list[int]] = {}
    ages: dict[tuple[str, ...], list[float]] = {}
    for row in await connection.execute(query):
        by_key.setdefault(tuple(row.key), []).append(row.id)
        ages.setdefault(tuple(row.key), []).append(float(row.age))
    ripe = {
        key: ids
        for key, ids in by_key.items()
        if min(ages[key]) >= quiet_seconds or max(ages[key]) >= LONGEST_QUIET_SECONDS
    }
    return Hints(ripe)


async def any_left(connection: AsyncConnection, migration_id: int, side: Side) -> bool:
    """Say whether there is a hint at all, whatever its age."""
    return await newest_id(connection, migration_id, side) is not None


async def settle(connection: AsyncConnection, ids: Sequence[int]) -> None:
    """Delete these ids and no other; those that somebody is deleting just now are his (and cost him no wait)."""
    if ids:
        free = select(dirty.c.id).where(dirty.c.id.in_(ids)).order_by(dirty.c.id).with_for_update(skip_locked=True)
        await connection.execute(delete(dirty).where(dirty.c.id.in_(free)))


async def park(connection: AsyncConnection, migration_id: int, side: Side, keys: Sequence[tuple[str, ...]]) -> None:
    """Remember of rows that left the scope what they waited for; the capture trigger takes them up again."""
    if keys:
        rows = [{"migration_id": migration_id, "side": side.value, "key": list(key)} for key in keys]
        await connection.execute(insert(parked).on_conflict_do_nothing(), rows)


async def count_try(connection: AsyncConnection, ids: Sequence[int]) -> int:
    """Write down that these hints of one key are tried; returns how many tries before this one ended in silence."""
    mine = dirty.c.id.in_(ids)
    tries = await connection.execute(update(dirty).where(mine).values(tries=dirty.c.tries + 1).returning(dirty.c.tries))
    return max((row.tries for row in tries), default=1) - 1


async def forgive(connection: AsyncConnection, ids: Sequence[int]) -> None:
    """Count the tries of these hints anew: whoever tried them last is alive."""
    await connection.execute(update(dirty).where(dirty.c.id.in_(ids)).values(tries=0))


async def mark(connection: AsyncConnection, migration_id: int, side: Side, keys: Sequence[tuple[str, ...]]) -> None:
    """Add hints ourselves (a quarantined row that is to be tried again)."""
    if keys:
        rows = [{"migration_id": migration_id, "side": side.value, "key": list(key)} for key in keys]
        await connection.execute(insert(dirty), rows)


async def count(connection: AsyncConnection, migration_id: int, side: Side) -> tuple[int, float]:
    """Return how many keys are dirty, and the age of the oldest hint in seconds."""
    age = func.coalesce(func.extract("epoch", func.clock_timestamp() - func.min(dirty.c.at)), 0)
    query = select(func.count(dirty.c.key.distinct()), age).where(
        dirty.c.migration_id == migration_id, dirty.c.side == side
    )
    keys, oldest = (await connection.execute(query)).one()
    return int(keys), float(oldest)


async def count_sides(connection: AsyncConnection, migration_id: int, sides: Collection[Side]) -> dict[Side, int]:
    """Return how many keys are dirty on each of these sides, in one statement."""
    # Not grouped by side: keys come in order from their index, and so, from PostgreSQL 16 on, nothing is sorted.
    counts = select(func.count(dirty.c.key.distinct())).where(dirty.c.migration_id == migration_id)
    query = select(*(counts.where(dirty.c.side == side).scalar_subquery() for side in sides))
    return dict(zip(sides, map(int, (await connection.execute(query)).one()), strict=True))


async def listed(
    connection: AsyncConnection, migration_id: int, side: Side, *, limit: int
) -> list[tuple[tuple[str, ...], datetime]]:
    """Return keys that may lack that side's vector and since when, oldest first."""
    query = select(dirty.c.key, func.min(dirty.c.at).label("at")).where(
        dirty.c.migration_id == migration_id, dirty.c.side == side
    )
    found = await connection.execute(query.group_by(dirty.c.key).order_by(text("at"), dirty.c.key).limit(limit))
    return [(tuple(row.key), row.at) for row in found]


async def newest_id(connection: AsyncConnection, migration_id: int, side: Side) -> int | None:
    """Return the newest hint's id, or None when there is none."""
    query = select(func.max(dirty.c.id)).where(dirty.c.migration_id == migration_id, dirty.c.side == side)
    found: int | None = (await connection.execute(query)).scalar_one()
    return found


async def any_up_to(connection: AsyncConnection, migration_id: int, side: Side, last: int) -> bool:
    """Say whether a hint is left that is no newer than `last`."""
    query = (
        select(dirty.c.id)
        .where(dirty.c.migration_id == migration_id, dirty.c.side == side, dirty.c.id <= last)
        .limit(1)
    )
    return (await connection.execute(query)).one_or_none() is not None


async def forget(connection: AsyncConnection, migration_id: int, side: Side | None = None) -> None:
    """Delete every hint of a migration, or of one side of it."""
    for table in (dirty, parked):
        statement = delete(table).where(table.c.migration_id == migration_id)
        await connection.execute(statement if side is None else statement.where(table.c.side == side))
