"""The stored verdict: what the last reading of each signal said, when, and whether new requests wait because of it.

Floor 1. Promise (P12): many workers look here and one at a time reads the catalogs; a reading that is too old counts
for nothing, and then its absence is what binds. A signal that can't be read binds (a CHECK says so too).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.signals import BELIEVED_SECONDS, STALE_SECONDS, Signal, phrase
from migrator.state.signal_tables import signals
from migrator.state.tables import migrations

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
    now = func.clock_timestamp()
    query = (
        select(signals, func.extract("epoch", now - migrations.c.signals_at).label("age"))
        .select_from(migrations.outerjoin(signals, signals.c.migration_id == migrations.c.id))
        .where(migrations.c.id == migration_id)
    )
    rows = (await connection.execute(query)).all()
    age = None if not rows or rows[0].age is None else max(0.0, float(rows[0].age))
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
    """Take the turn to read; None when the reading is fresh, or somebody else is at it."""
    now = func.clock_timestamp()
    statement = (
        update(migrations)
        .where(
            migrations.c.id == migration_id,
            or_(migrations.c.signals_until.is_(None), migrations.c.signals_until < now),
            or_(migrations.c.signals_at.is_(None), migrations.c.signals_at < now - timedelta(seconds=BELIEVED_SECONDS)),
        )
        .values(signals_until=now + timedelta(seconds=TURN_SECONDS))
        .returning(migrations.c.signals_until)
    )
    turn: datetime | None = (await connection.execute(statement)).scalar_one_or_none()
    return turn


async def record(connection: AsyncConnection, migration_id: int, turn: datetime, found: Sequence[Weighed]) -> bool:
    """Store a reading; False when the turn was lost meanwhile (thresholds changed, or it took too long)."""
    mine = (
        update(migrations)
        .where(migrations.c.id == migration_id, migrations.c.signals_until == turn)
        .values(signals_at=func.clock_timestamp(), signals_until=None)
    )
    if (await connection.execute(mine)).rowcount != 1:
        return False
    kept = [each.signal.value for each in found]
    gone = delete(signals).where(signals.c.migration_id == migration_id, signals.c.signal.not_in(kept))
    await connection.execute(gone)
    for each in found:
        values = {
            "value": each.value,
            "threshold": each.threshold,
            "binds": each.binds,
            "detail": each.detail,
            "problem": each.problem,
            "memory": each.memory,
            "at": func.clock_timestamp(),
        }
        statement = insert(signals).values(migration_id=migration_id, signal=each.signal.value, **values)
        statement = statement.on_conflict_do_update(index_elements=["migration_id", "signal"], set_=values)
        await connection.execute(statement)
    return True


async def forget_age(connection: AsyncConnection, migration_id: int) -> None:
    """Make whoever looks next read again: thresholds were changed. Whoever is reading has lost the turn.

    The old reading stands until then, so that batches in hand are not given back for want of one.
    """
    due = func.clock_timestamp() - timedelta(seconds=BELIEVED_SECONDS + 1)
    statement = update(migrations).where(migrations.c.id == migration_id)
    await connection.execute(statement.values(signals_at=func.least(migrations.c.signals_at, due), signals_until=None))
