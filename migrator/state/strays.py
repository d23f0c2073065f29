"""Strays: who wrote vectors of the generation that is not live, how many, and when last.

Floor 1. Promise (H7): no writer of the last day is missed, and the look at them costs the same for ten writes as for
millions: the application's trigger adds a line a write, which waits for nobody; every tick adds the lines up by the
hour, and a look reads the sums and what came since.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.migrations import Migration

#: Seconds for which a diverted write counts as lately: a day holds every nightly job.
STRAY_SECONDS = 86_400
#: Lines added up by one tick: some 50 ms of work, and ten times what a busy writer brings in ten seconds.
FOLD_LINES = 20_000
#: Writers that are told at once, the busiest first.
_TOLD = 20

_FOLD = """
WITH folding AS (
    DELETE FROM migrator.strays WHERE id IN (
        SELECT id FROM migrator.strays WHERE migration_id = :migration_id ORDER BY id LIMIT :lines
           FOR UPDATE SKIP LOCKED)
    RETURNING at, application, role, generation)
INSERT INTO migrator.stray_sums AS s (migration_id, hour, application, role, generation, writes, last_seen)
SELECT :migration_id, date_trunc('hour', at), application, role, generation, count(*), max(at)
  FROM folding GROUP BY 2, 3, 4, 5 ORDER BY 2, 3, 4, 5
    ON CONFLICT (migration_id, hour, application, role, generation)
    DO UPDATE SET writes = s.writes + excluded.writes, last_seen = greatest(s.last_seen, excluded.last_seen)
"""
#: One statement: between two, lines could be added up and be counted twice, or not at all.
_SEEN = """
SELECT application, role, generation, sum(writes)::bigint AS writes, max(last_seen) AS last_seen
  FROM (SELECT application, role, generation, writes, last_seen FROM migrator.stray_sums
         WHERE migration_id = :migration_id
           AND hour > clock_timestamp() - make_interval(secs => :seconds) - interval '1 hour'
        UNION ALL
        SELECT application, role, generation, 1, at FROM migrator.strays WHERE migration_id = :migration_id) AS w
 WHERE last_seen > clock_timestamp() - make_interval(secs => :seconds) AND generation <> :live
 GROUP BY application, role, generation ORDER BY writes DESC, application, role LIMIT :told
"""


@dataclass(frozen=True, slots=True)
class Stray:
    """One writer's diverted writes of the last day: which generation, how many, and when the last one came."""

    application: str
    role: str
    generation: str
    writes: int
    last_seen: datetime

    @property
    def who(self) -> str:
        """The writer, as `status` names it."""
        return f"{self.application} (role {self.role})"


async def seen(connection: AsyncConnection, migration: Migration) -> list[Stray]:
    """Return who wrote vectors of the generation that is not live in the last day, the busiest first.

    The hour in which the day began counts as a whole.
    """
    values = {"migration_id": migration.id, "seconds": STRAY_SECONDS, "live": str(migration.live_generation)}
    found = await connection.execute(text(_SEEN), {**values, "told": _TOLD})
    return [Stray(**row._mapping) for row in found]  # noqa: SLF001 - SQLAlchemy's public name for it


async def fold(connection: AsyncConnection, migration_id: int) -> int:
    """Add up the oldest lines; returns how many sums that changed."""
    values = {"migration_id": migration_id, "lines": FOLD_LINES}
    return (await connection.execute(text(_FOLD), values)).rowcount
