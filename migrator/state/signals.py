"""The stored verdict: what the last reading of each signal said, when, and whether new requests wait because of it.

Floor 1. Promise (P12): many workers look here and one at a time reads the catalogs; a reading that is too old counts
for nothing, and then its absence is what binds. A signal that can't be read binds (a CHECK says so too).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.signals import BELIEVED_SECONDS, STALE_SECONDS, Signal, phrase
from migrator.state.signal_tables import signals
from migrator.state.tables import SCHEMA, migrations

#: Seconds for which whoever reads has the turn: longer than every look of a reading together may take.
TURN_SECONDS = 25.0


@dataclass(frozen=True, slots=True)
class Weighed:
    """One signal's reading against its threshold."""

    signal: Signal
    value: float | None
    threshold: float
    binds: bool
    detail: str
    problem: str | None
    memory: dict[str, Any]
    age_seconds: float = 0.0

    def __str__(self) -> str:
        return phrase(self.signal, self.value, self.threshold, detail=self.detail, problem=self.problem)

    def as_json(self) -> dict[str, Any]:
        """Return the shape that `status --json` has under throttle.signals."""
        return {
            "signal": self.signal.value,
            "value": self.value,
            "threshold": self.threshold,
            "age_seconds": round(self.age_seconds, 1),
            "binds": self.binds,
            "detail": self.detail,
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class Reading:
    """All signals of a migration, as they were read last; `age_seconds` is None where they never were."""

    signals: tuple[Weighed, ...]
    age_seconds: float | None

    @property
    def is_due(self) -> bool:
        """Whether it is to be read again."""
        return self.age_seconds is None or self.age_seconds > BELIEVED_SECONDS

    @property
    def is_stale(self) -> bool:
        """Whether it counts for nothing."""
        return self.age_seconds is None or self.age_seconds > STALE_SECONDS

    @property
    def binding(self) -> str | None:
        """Why no further request may be sent, or None."""
        if self.age_seconds is None:
            return "the database's signals were not read yet"
        if self.age_seconds > STALE_SECONDS:
            return f"the database's signals were not read for {self.age_seconds:.0f} s"
        found = [each for each in self.signals if each.binds]
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        return f"{found[0]}{more}" if found else None


async def reading(connection: AsyncConnection, migration_id: int) -> Reading:
    """Return the stored reading."""
    return (await readings(connection, [migration_id])).get(migration_id, Reading((), None))


async def readings(connection: AsyncConnection, migration_ids: Collection[int]) -> dict[int, Reading]:
    """Return the stored readings of migrations, by their ids, in one statement."""
    if not migration_ids:
        return {}
    now = func.clock_timestamp()
    query = (
        select(migrations.c.id, signals, func.extract("epoch", now - migrations.c.signals_at).label("age"))
        .select_from(migrations.outerjoin(signals, signals.c.migration_id == migrations.c.id))
        .where(migrations.c.id.in_(migration_ids))
    )
    by_id: dict[int, list[Row[Any]]] = {}
    for row in await connection.execute(query):
        by_id.setdefault(row.id, []).append(row)
    return {migration_id: _reading(rows) for migration_id, rows in by_id.items()}


def _reading(rows: Sequence[Row[Any]]) -> Reading:
    age = None if rows[0].age is None else max(0.0, float(rows[0].age))
    order = list(Signal)
    found = [
        Weighed(
            Signal(row.signal), row.value, row.threshold, row.binds, row.detail, row.problem, row.memory, age or 0.0
        )
        for row in rows
        if row.signal is not None
    ]
    return Reading(tuple(sorted(found, key=lambda each: order.index(each.signal))), age)


async def take_turn(connection: AsyncConnection, migration_id: int) -> datetime | None:
    """Take the turn to read; None when the reading is fresh, or somebody else is at it.

    Nobody is waited for: who holds the migration's row for long plans its batches, and what is stored will do.
    """
    now = func.clock_timestamp()
    believed = now - timedelta(seconds=BELIEVED_SECONDS)
    free = (
        select(migrations.c.id)
        .where(
            migrations.c.id == migration_id,
            or_(migrations.c.signals_until.is_(None), migrations.c.signals_until < now),
            or_(migrations.c.signals_at.is_(None), migrations.c.signals_at < believed),
        )
        # Not against the foreign keys of those who reserve and record.
        .with_for_update(key_share=True, skip_locked=True)
    )
    statement = (
        update(migrations)
        .where(migrations.c.id == free.scalar_subquery())
        .values(signals_until=now + timedelta(seconds=TURN_SECONDS))
        .returning(migrations.c.signals_until)
    )
    turn: datetime | None = (await connection.execute(statement)).scalar_one_or_none()
    return turn


#: One statement: it is done with the turn, or not at all.
_RECORD = text(
    f"""
WITH mine AS (
  UPDATE {SCHEMA}.migrations SET signals_at = clock_timestamp(), signals_until = NULL
   WHERE id = :migration_id AND signals_until = :turn RETURNING id),
found AS (
  SELECT mine.id, f.* FROM mine, jsonb_to_recordset(CAST(:found AS jsonb)) AS f (signal text, value float8,
         threshold float8, binds boolean, detail text, problem text, memory jsonb)),
gone AS (
  DELETE FROM {SCHEMA}.signals AS s USING mine
   WHERE s.migration_id = mine.id AND s.signal NOT IN (SELECT signal FROM found)),
kept AS (
  INSERT INTO {SCHEMA}.signals (migration_id, signal, value, threshold, binds, detail, problem, memory, at)
  SELECT id, signal, value, threshold, binds, detail, problem, memory, clock_timestamp() FROM found
  ON CONFLICT (migration_id, signal) DO UPDATE SET value = excluded.value, threshold = excluded.threshold,
     binds = excluded.binds, detail = excluded.detail, problem = excluded.problem, memory = excluded.memory,
     at = excluded.at)
SELECT count(*) FROM mine
"""  # noqa: S608 # nosec B608 - our own schema's name
)
_RECORDED = ("value", "threshold", "binds", "detail", "problem", "memory")


async def record(connection: AsyncConnection, migration_id: int, turn: datetime, found: Sequence[Weighed]) -> bool:
    """Store a reading; False when the turn was lost meanwhile (thresholds changed, or it took too long)."""
    rows = [{"signal": each.signal.value, **{name: getattr(each, name) for name in _RECORDED}} for each in found]
    values = {"migration_id": migration_id, "turn": turn, "found": json.dumps(rows)}
    return bool((await connection.execute(_RECORD, values)).scalar_one())


async def forget_age(connection: AsyncConnection, migration_id: int) -> None:
    """Make whoever looks next read again: thresholds were changed. Whoever is reading has lost the turn.

    The old reading stands until then, so that batches in hand are not given back for want of one.
    """
    due = func.clock_timestamp() - timedelta(seconds=BELIEVED_SECONDS + 1)
    statement = update(migrations).where(migrations.c.id == migration_id)
    await connection.execute(statement.values(signals_at=func.least(migrations.c.signals_at, due), signals_until=None))
