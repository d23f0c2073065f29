"""Schedules: when work may begin, and what came to rest by a limit is tried again each day, with nobody there.

Floor 3. Promise: only what time may mend is tried again (a cap, a quota, a provider that refused); what an operator
paused, a gate that failed, a canary that moved and a capture that is off wait for somebody. One try a day, whoever
ticks and however often; an operator who acts in the same moment is not overruled.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.errors import MigratorError, OperatorError, StatusConflict
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import trust, verbs
from migrator.provider.giving_up import ProviderStopped
from migrator.spending.worker import KeyMissing
from migrator.state import migrations, schedules
from migrator.state.budget import CapReached
from migrator.state.connection import transaction
from migrator.state.migrations import Migration
from migrator.state.schedules import Schedule
from migrator.windows import Daily, Window, closes_at, opens_at

logger = logging.getLogger(__name__)

#: Errors whose reason may be gone by tomorrow: a pause's reason begins with the class, and subclasses have their own.
RESUMABLE = (CapReached, ProviderStopped, KeyMissing)
_ACTOR = "schedule"
#: Nobody works on these any more, whatever the hour.
_OVER = frozenset({MigrationStatus.CANCELLED, MigrationStatus.CLEANING, MigrationStatus.CLEANED})


@dataclass(frozen=True, slots=True)
class Wanted:
    """Changes to a schedule; None leaves a part as it is. "off" takes a daily try away, and `now` a later start.

    Raises: ValueError, when it is made of words that can't be read.
    """

    windows: tuple[str, ...] | None = None
    start_at: datetime | None = None
    start_now: bool = False
    resume_daily: str | None = None
    priority: int | None = None

    def __post_init__(self) -> None:
        for each in self.windows or ():
            Window.parse(each)
        if self.resume_daily not in {None, "off"}:
            Daily.parse(str(self.resume_daily))


@dataclass(frozen=True, slots=True)
class Shown:
    """A schedule as it is told. Moments are in UTC; None where nothing was said."""

    migration: Migration
    schedule: Schedule
    #: When work may be done next, and until when; this moment where it may be done now.
    opens: datetime | None
    closes: datetime | None
    tried: datetime | None

    def as_json(self) -> dict[str, Any]:
        """Return the shape of `schedule --json`."""
        return {
            "name": self.migration.name,
            "windows": list(self.migration.windows),
            "start_at": _iso(self.schedule.not_before),
            "resume_daily": self.schedule.resume_daily,
            "opens": _iso(self.opens),
            "closes": _iso(self.closes),
            "next_try": _iso(self.tried),
            "priority": self.schedule.priority,
        }


async def change(engine: AsyncEngine, name: str, wanted: Wanted, *, actor: str) -> Shown:
    """Change a schedule live, and return it.

    Raises: MigrationUnknown, StatusConflict (nothing of it will ever work again).
    """
    values: dict[str, Any] = {}
    if wanted.start_at is not None or wanted.start_now:
        values["not_before"] = None if wanted.start_now else wanted.start_at
    if wanted.resume_daily is not None:
        values["resume_daily"] = None if wanted.resume_daily == "off" else str(Daily.parse(wanted.resume_daily))
    if wanted.priority is not None:
        values["priority"] = wanted.priority
    windows = None if wanted.windows is None else [str(Window.parse(each)) for each in wanted.windows]
    async with transaction(engine) as connection:
        found = await migrations.hold(connection, name)
        if found.status in _OVER and (windows is not None or values):
            wanted_status = "neither cancelled nor cleaned up"
            raise StatusConflict(name, "schedule", wanted_status, found.status, f"migrator status {name}")
        if windows is not None:
            await migrations.change(connection, found.id, windows=windows)
        if values:
            await schedules.put(connection, found.id, **values)
        if values.get("resume_daily") is not None:
            await schedules.count_as_tried(connection, found.id)
        told = {**({} if windows is None else {"windows": windows}), **values}
        if told:
            words = ", ".join(f"{key} = {_told(value)}" for key, value in told.items())
            await migrations.note(connection, found.id, found.status, f"schedule: {words}", actor)
        return await _show(connection, name)


def _told(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return "off" if value in (None, []) else str(value)


async def _show(connection: AsyncConnection, name: str) -> Shown:
    found = await migrations.get(connection, name)
    schedule = await schedules.find(connection, found.id)
    now = (await migrations.database_now(connection)).astimezone(UTC)
    windows = [Window.parse(each) for each in found.windows]
    opens = opens_at(windows, max(now, schedule.not_before or now))
    closes = closes_at(windows, opens) if opens is not None else None
    daily = None if schedule.resume_daily is None else Daily.parse(schedule.resume_daily)
    return Shown(found, schedule, opens, closes, None if daily is None else daily.after(now))


async def wake(engine: AsyncEngine, resting: Sequence[Migration]) -> None:
    """Resume what came to rest by a limit and has its time of the day behind it; a refusal is noted, and is the try."""
    paused = [each for each in resting if _may_heal(each)]
    if not paused:
        return
    async with transaction(engine) as connection:
        found = await schedules.find_all(connection, [each.id for each in paused])
        now = await migrations.database_now(connection)
    for each in paused:
        schedule = found.get(each.id, Schedule())
        if schedule.is_due(now, since=each.since):
            try:
                await _try_again(engine, each, schedule)
            except MigratorError as error:  # nothing was written: the next tick tries it
                logger.warning("%s could not be tried again: %s", each.name, error)


async def _try_again(engine: AsyncEngine, seen: Migration, schedule: Schedule) -> None:
    """Take the day's try and resume, in one transaction, where both are still as they were seen.

    Somebody may have resumed it meanwhile, and paused it for a reason of their own, or have put an end to daily tries.
    """
    refusal: MigratorError | None = None
    try:
        await trust.refuse_suspects(engine, seen)
    except OperatorError as error:
        refusal = error
    async with transaction(engine) as connection:
        found = await migrations.hold(connection, seen.name)
        if found.since != seen.since or not _may_heal(found):
            return
        if not await schedules.take_try(connection, found.id, schedule):
            return
        if refusal is None:
            await verbs.go_on(connection, found, actor=_ACTOR)
        else:
            told = f"the day's try came to nothing: {refusal.sentences()[0]}"
            await migrations.note(connection, found.id, found.status, told, _ACTOR)


def _may_heal(migration: Migration) -> bool:
    return (
        migration.status is MigrationStatus.PAUSED
        and migration.capture_off_at is None
        and (migration.reason or "").partition(":")[0] in {each.__name__ for each in RESUMABLE}
    )


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="seconds")
