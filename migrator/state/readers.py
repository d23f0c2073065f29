"""Readers: the applications that said lately what they can embed queries with.

Floor 1. Promise: what a process said last counts, and whoever was silent for long counts no more. They are written by
`migrator.reader_ready` (target/readers.sql), in the applications' own transactions.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.reader_tables import readers

#: Seconds for which a sign of life is believed: ten of those that `migrator.client` gives, so that a quiet process and
#: one that was replaced a moment ago are both reckoned with.
HEARD_SECONDS = 600
#: Seconds for which a reader may go on as it was told before a migration began: twice the time between two questions of
#: `migrator.client`.
BELIEVED_SECONDS = 60.0
#: Seconds after which a sign of life is forgotten.
FORGET_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Heard:
    """An application that was heard lately. `can` counts its processes by the generation that they can embed with."""

    application: str
    role: str
    processes: int
    can: dict[str, int]
    last_seen: datetime
    age_seconds: float

    def is_ready(self, generation: str) -> bool:
        """Say whether every process of it can embed queries with that generation."""
        return self.can.get(generation, 0) == self.processes


async def heard(connection: AsyncConnection, migration_id: int) -> list[Heard]:
    """Return who was heard lately, by name."""
    now = func.clock_timestamp()
    of_process = (readers.c.application, readers.c.role, readers.c.instance)
    query = (
        select(readers, now.label("now"))
        .ext(distinct_on(*of_process))
        .where(readers.c.migration_id == migration_id, readers.c.last_seen > now - timedelta(seconds=HEARD_SECONDS))
        .order_by(*of_process, readers.c.id.desc())
    )
    found: dict[tuple[str, str], Heard] = {}
    for row in await connection.execute(query):
        before = found.get((row.application, row.role))
        can = dict(before.can) if before else {}
        for generation in row.generations:
            can[generation] = can.get(generation, 0) + 1
        last_seen = max(row.last_seen, before.last_seen) if before else row.last_seen
        found[row.application, row.role] = Heard(
            row.application,
            row.role,
            1 + (before.processes if before else 0),
            can,
            last_seen,
            (row.now - last_seen).total_seconds(),
        )
    return list(found.values())


async def forget_old(connection: AsyncConnection) -> None:
    """Delete signs of life that nobody believes any more."""
    old = func.clock_timestamp() - timedelta(seconds=FORGET_SECONDS)
    await connection.execute(delete(readers).where(readers.c.last_seen < old))
