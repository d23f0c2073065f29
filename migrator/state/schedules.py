"""Schedules: from when on a migration may work, and at what time of the day it is tried again.

Floor 1. Promise: a day's try is taken once, whoever ticks: the row says so before anything is resumed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.schedule_tables import schedules
from migrator.windows import Daily


@dataclass(frozen=True, slots=True)
class Schedule:
    """One migration's schedule."""

    not_before: datetime | None = None
    resume_daily: str | None = None
    #: When the last try was taken, or daily tries were asked for: what lay before that is over.
    resumed_at: datetime | None = None
    priority: int = 0

    def is_due(self, now: datetime, *, since: datetime) -> bool:
        """Say whether what rests `since` then is to be tried: its time of the day came after that, and after a try."""
        if self.resume_daily is None:
            return False
        return Daily.parse(self.resume_daily).before(now) > max(since, self.resumed_at or since)


async def find(connection: AsyncConnection, migration_id: int) -> Schedule:
    """Return a migration's schedule; an empty one where none was made."""
    return (await find_all(connection, [migration_id])).get(migration_id, Schedule())


async def find_all(connection: AsyncConnection, migration_ids: Collection[int]) -> dict[int, Schedule]:
    """Return the schedules of those that have one."""
    if not migration_ids:
        return {}
    rows = await connection.execute(select(schedules).where(schedules.c.migration_id.in_(migration_ids)))
    return {row.migration_id: Schedule(row.not_before, row.resume_daily, row.resumed_at, row.priority) for row in rows}


async def put(connection: AsyncConnection, migration_id: int, **values: Any) -> None:
    """Set some of a schedule's columns, and leave the others."""
    statement = insert(schedules).values(migration_id=migration_id, **values)
    await connection.execute(statement.on_conflict_do_update(index_elements=["migration_id"], set_=values))


async def count_as_tried(connection: AsyncConnection, migration_id: int) -> None:
    """Count this day's try as had where its time is over already: whoever asks for tries at noon means tomorrow."""
    await connection.execute(
        update(schedules).where(schedules.c.migration_id == migration_id).values(resumed_at=func.clock_timestamp())
    )


async def take_try(connection: AsyncConnection, migration_id: int, seen: Schedule) -> bool:
    """Take the day's try; False where somebody took it since `seen` was read, or asked for other ones, or for none."""
    statement = (
        update(schedules)
        .where(
            schedules.c.migration_id == migration_id,
            schedules.c.resumed_at.is_not_distinct_from(seen.resumed_at),
            schedules.c.resume_daily == seen.resume_daily,
        )
        .values(resumed_at=func.clock_timestamp())
    )
    return (await connection.execute(statement)).rowcount == 1
