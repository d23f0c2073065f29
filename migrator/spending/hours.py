"""Hours: whether bulk work may be done now, by the schedule's start and the windows, and for how long yet.

Floor 1, its top. Promise: by the database's clock alone; asked before each request and before each index build, so
what a schedule says binds from the next one on, whoever holds a ticket or a lease.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.errors import AtRest
from migrator.state import migrations, schedules
from migrator.state.migrations import Migration
from migrator.state.schedules import Schedule
from migrator.windows import Window, closes_at


@dataclass(eq=False)
class StartsLater(AtRest):
    """The schedule says that it is to begin later."""

    name: str
    moment: str

    runbook = "pause-and-resume"
    happened = "{name} rests: it is not to begin before {moment}."
    state = "Nothing was sent and no index is begun; it goes on by itself then."
    next = "Wait, or run `migrator schedule {name} --start-at now`."


@dataclass(eq=False)
class OutsideWindow(AtRest):
    """Work is only done in the windows."""

    name: str
    windows: str

    runbook = "pause-and-resume"
    happened = "{name} rests: it may only work in its window ({windows})."
    state = "Everything embedded so far is kept, and it goes on by itself when the window opens."
    next = "Wait, or run `migrator limits {name} --window W`."


@dataclass(eq=False)
class WindowCloses(AtRest):
    """An answer would come after the window's end."""

    name: str
    windows: str
    seconds: float

    runbook = "pause-and-resume"
    happened = "{name} sends nothing new: its window ({windows}) closes in {seconds:.0f} s."
    state = "Everything embedded so far is kept, and it goes on by itself when the window opens again."
    next = "Wait, or run `migrator limits {name} --window W`."


#: Bulk work is not to be done now, and goes on by itself.
OutOfHours = StartsLater | OutsideWindow | WindowCloses


async def require(
    connection: AsyncConnection, migration: Migration, *, spare_seconds: float = 0.0, known: Schedule | None = None
) -> float | None:
    """Make sure that work may be done for so long yet; returns the seconds until a window's end, None without one.

    By the schedule that is `known`, or else by the one that is stored now.

    Raises: StartsLater, OutsideWindow, WindowCloses.
    """
    not_before = (known or await schedules.find(connection, migration.id)).not_before
    if not_before is None and not migration.windows:
        return None
    now = await migrations.database_now(connection)
    if not_before is not None and not_before > now:
        raise StartsLater(migration.name, _words(not_before))
    closes = closes_at([Window.parse(each) for each in migration.windows], now)
    if closes is None:
        return None
    told, left = ", ".join(migration.windows), (closes - now).total_seconds()
    if closes == now:
        raise OutsideWindow(migration.name, told)
    if left < spare_seconds:
        raise WindowCloses(migration.name, told, left)
    return left


async def binding(connection: AsyncConnection, migration: Migration, known: Schedule | None = None) -> str | None:
    """Return what binds by the hour, as `status` tells it; None where work may be done."""
    try:
        await require(connection, migration, known=known)
    except StartsLater as error:
        return f"start at {error.moment}"
    except OutsideWindow:
        return "window"
    return None


def _words(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
