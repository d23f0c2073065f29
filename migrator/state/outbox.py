"""The outbox: events that hooks are to be told, written in the transaction that they tell of.

Floor 1. Promise: an event is there if, and only if, what it tells was committed. It is told at least once: a claim
raises `tries`, which fences it, and hides it from others for CLAIM_SECONDS; whoever dies in between leaves it to be
claimed again. Where a spec has no hooks, nothing is written.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import sql
from sqlalchemy import and_, case, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator import reasons
from migrator.events import COSTS, EDGES, Channel, Event, HooksSpec
from migrator.lifecycle import MigrationStatus
from migrator.state.hook_tables import hook_events, hook_watches

#: Seconds for which a claim hides an event: three times what telling it may take.
CLAIM_SECONDS = 30.0
#: Tries, and the seconds after the first: doubled each time, up to an hour. Twelve last for two hours and a half, so
#: that a receiver may be down for a deployment or a morning's outage; after that nobody waits for the news.
TRIES, BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 12, 5.0, 3600.0
#: Characters of a reason or of a failure that are kept.
MAX_CHARACTERS = 500
#: Seconds without being seen after which something that lasts begins anew: six ticks.
_GAP_SECONDS = 60.0
#: Seconds for which what lasts and comes back is not told again: it may come and go all night.
_QUIET_SECONDS = 3600.0

_open = and_(hook_events.c.told_at.is_(None), hook_events.c.given_up_at.is_(None))
_due = and_(_open, hook_events.c.not_before <= func.clock_timestamp())


@dataclass(frozen=True, slots=True)
class Told:
    """An event that was claimed, to be told by one channel; `tries` is the claim's fence."""

    id: int
    event_id: str
    event: Event
    channel: Channel
    status: MigrationStatus
    reason: str | None
    at: datetime
    tries: int


async def write(
    connection: AsyncConnection,
    migration_id: int,
    hooks: HooksSpec | None,
    event: Event,
    *,
    status: MigrationStatus,
    reason: str | None,
    mark: str | None = None,
) -> None:
    """Write an event for every channel that is told of it; with a `mark`, unless one with it was written before."""
    channels = hooks.channels_of(event) if hooks is not None else ()
    if not channels:
        return
    told = reasons.without_keys(reason)
    common = {
        "event_id": str(uuid.uuid4()),
        "migration_id": migration_id,
        "event": event,
        "status": status,
        "reason": None if told is None else told[:MAX_CHARACTERS],
        "mark": mark,
    }
    rows = [{**common, "channel": channel} for channel in channels]
    statement = upsert(hook_events).values(rows)
    await connection.execute(statement.on_conflict_do_nothing(index_elements=["migration_id", "channel", "mark"]))


async def write_move(
    connection: AsyncConnection,
    migration_id: int,
    hooks: HooksSpec | None,
    old: MigrationStatus,
    new: MigrationStatus,
    reason: str,
) -> None:
    """Write the event that a move is, if it is one."""
    event = EDGES.get((old, new))
    if event is not None:
        await write(connection, migration_id, hooks, event, status=new, reason=reason)


def in_message(hooks: HooksSpec | None, old: MigrationStatus, new: MigrationStatus) -> dict[str, sql.Composable]:
    """Return the parts of a move in a message (state/moving.sql) that write its event; no channels, no event."""
    event = EDGES.get((old, new))
    channels = hooks.channels_of(event) if hooks is not None and event is not None else ()
    return {
        "event": sql.Literal(str(event)),
        "event_id": sql.Literal(str(uuid.uuid4())),
        "channels": sql.Literal([str(each) for each in channels]),
    }


async def write_costs(
    connection: AsyncConnection, migration_id: int, hooks: HooksSpec | None, status: MigrationStatus, *,
    committed_usd: Any, max_usd: Any, refused: bool = False,
) -> None:  # fmt: skip
    """Tell which parts of the cap are passed, each once per cap; `refused`: a request was not sent because of it."""
    for percent, event in COSTS.items():
        if (refused and event is Event.COST_100) or (max_usd > 0 and committed_usd * 100 >= max_usd * percent):
            reason = f"{_usd(committed_usd)} of {_usd(max_usd)} USD are spent, reserved or possibly billed"
            mark = f"{event}:{max_usd.normalize():f}"
            await write(connection, migration_id, hooks, event, status=status, reason=reason, mark=mark)


def _usd(amount: Any) -> str:
    """Return dollars and cents, or four decimals where there would be none."""
    return f"{amount:.2f}" if amount >= 1 else f"{amount:.4f}"


async def lasts(connection: AsyncConnection, migration_id: int, event: Event, *, seconds: float) -> bool:
    """Note that something is so now; True where it has lasted for so long and nobody was told, who is told now."""
    now = func.clock_timestamp()
    seen_lately = hook_watches.c.seen_at > now - timedelta(seconds=_GAP_SECONDS)
    statement = upsert(hook_watches).values(migration_id=migration_id, event=event, since=now, seen_at=now)
    # It also locks the row: of two ticks at once, the second sees what the first one told.
    statement = statement.on_conflict_do_update(
        index_elements=["migration_id", "event"],
        set_={"since": case((seen_lately, hook_watches.c.since), else_=now), "seen_at": now},
    )
    await connection.execute(statement)
    untold = and_(
        hook_watches.c.told_at < hook_watches.c.since, hook_watches.c.told_at < now - timedelta(seconds=_QUIET_SECONDS)
    )
    tell = (
        update(hook_watches)
        .where(
            hook_watches.c.migration_id == migration_id,
            hook_watches.c.event == event,
            hook_watches.c.since <= now - timedelta(seconds=seconds),
            or_(hook_watches.c.told_at.is_(None), untold),
        )
        .values(told_at=now)
    )
    return (await connection.execute(tell)).rowcount == 1


async def with_due(connection: AsyncConnection) -> list[int]:
    """Return the migrations that have events to be told now."""
    query = select(hook_events.c.migration_id).distinct().where(_due).order_by(hook_events.c.migration_id)
    return list((await connection.execute(query)).scalars())


async def count_waiting(connection: AsyncConnection, migration_id: int) -> int:
    """Return how many events of a migration are still to be told."""
    query = select(func.count(func.distinct(hook_events.c.event_id)))
    return int((await connection.execute(query.where(_open, hook_events.c.migration_id == migration_id))).scalar_one())


async def claim(connection: AsyncConnection, migration_id: int) -> Told | None:
    """Take the oldest event that is due, for CLAIM_SECONDS; None where there is none, or others have them."""
    oldest = (
        select(hook_events.c.id)
        .where(_due, hook_events.c.migration_id == migration_id)
        .order_by(hook_events.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(hook_events)
        .where(hook_events.c.id == oldest.scalar_subquery(), _due)
        .values(tries=hook_events.c.tries + 1, not_before=func.clock_timestamp() + timedelta(seconds=CLAIM_SECONDS))
        .returning(hook_events)
    )
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        return None
    return Told(
        row.id, row.event_id, Event(row.event), Channel(row.channel), MigrationStatus(row.status), row.reason, row.at,
        row.tries,
    )  # fmt: skip


async def settle(connection: AsyncConnection, claimed: Told) -> bool:
    """Note that it was told; False where somebody else claimed it meanwhile."""
    values = {"told_at": func.clock_timestamp(), "failure": None}
    return (await connection.execute(_claimed(claimed).values(**values))).rowcount == 1


async def put_back(connection: AsyncConnection, claimed: Told, failure: str, *, counts: bool = True) -> bool:
    """Let it be claimed again later, or never after the last try; True where it was given up.

    Where it does not count, the try was cut short by ourselves.
    """
    last = counts and claimed.tries >= TRIES
    seconds = min(BACKOFF_SECONDS * 2 ** (claimed.tries - 1), LONGEST_BACKOFF_SECONDS) if counts else 0.0
    values = {
        "failure": failure[:MAX_CHARACTERS],
        "not_before": func.clock_timestamp() + timedelta(seconds=seconds),
        "tries": hook_events.c.tries - (0 if counts else 1),
        "given_up_at": func.clock_timestamp() if last else None,
    }
    return (await connection.execute(_claimed(claimed).values(**values))).rowcount == 1 and last


def _claimed(claimed: Told) -> Any:
    return update(hook_events).where(hook_events.c.id == claimed.id, hook_events.c.tries == claimed.tries, _open)
