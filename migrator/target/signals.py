"""Reading the signals that the database gives: one small look each, and what it was that was seen.

Floor 1. Promise: a look that the role is not allowed to take says so (`UnreadableError`), instead of finding nothing;
our own sessions, and our own index build, are never blamed (H18).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.signals import FEWEST_DEAD_ROWS, FEWEST_UPDATES, LOCK_WAIT_SECONDS, Signal
from migrator.state.connection import fetch
from migrator.statements import compose
from migrator.target.privileges import see_others

_FILE = "target/signals.sql"
#: Age of a snapshot from which on it explains why updates are no longer HOT: seconds, or transactions where its time is
#: not known (a slot, a standby). Younger ones are the application's everyday statements.
_CULPRIT_SECONDS, _CULPRIT_XIDS = 10.0, 1_000


class UnreadableError(Exception):
    """A signal can't be read; `str()` says why, in words that hold no value of a row and no secret."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look saw. `excused` where a value over its threshold is nobody's fault that waiting would mend."""

    value: float | None
    detail: str = ""
    memory: dict[str, Any] = field(default_factory=dict)
    excused: bool = False


Memory = Mapping[str, Any]


async def table_oid(connection: AsyncConnection, schema: str, table: str) -> int | None:
    """Return the table's oid, or None where it is gone; never waits for a lock."""
    rows = await fetch(connection, compose(_FILE, "table_oid"), {"schema": schema, "table": table})
    return int(rows[0]["oid"]) if rows else None


async def replica_lag(connection: AsyncConnection, oid: int, memory: Memory) -> Look:
    """Return the replay lag of the slowest physical standby, in seconds; 0 where there is none."""
    del oid
    rows = await fetch(connection, compose(_FILE, "replica_lag"), {"mark": memory.get("position", "0/0")})
    if not rows:
        return Look(0.0, "no standby")
    row = rows[0]
    if row["hidden"]:
        raise UnreadableError(f"the role may not see the standbys ({see_others('it').as_string()})")
    if row["behind_mark"]:
        return Look(max(row["seconds"], row["now"] - memory["at"]), row["standby"], dict(memory))
    return Look(row["seconds"], row["standby"], {"position": row["position"], "at": row["now"]})


async def archive_backlog(connection: AsyncConnection, oid: int, memory: Memory) -> Look:
    """Return how many finished WAL segments wait for the archiver; 0 where nothing is archived."""
    del oid, memory
    row = (await fetch(connection, compose(_FILE, "archive_backlog")))[0]
    if not row["archives"]:
        return Look(0.0, "archive_mode is off")
    return Look(float(row["segments"]), "archive_command fails" if row["fails"] else "")


async def horizon(connection: AsyncConnection) -> list[dict[str, Any]]:
    """Return who holds back pruning in this database, the oldest first; of others the role may see nothing."""
    return await fetch(connection, compose(_FILE, "horizon"))


async def oldest_snapshot(connection: AsyncConnection, oid: int, memory: Memory) -> Look:
    """Return the age in seconds of the oldest transaction of others that holds back pruning."""
    del oid, memory
    await _require_sight(connection)
    aged = [row for row in await horizon(connection) if row["seconds"] is not None]
    return Look(aged[0]["seconds"], aged[0]["who"]) if aged else Look(0.0)


async def lock_waiters(connection: AsyncConnection, oid: int, memory: Memory) -> Look:
    """Return how many sessions of others have been waiting for a lock on the table."""
    del memory
    row = (await fetch(connection, compose(_FILE, "lock_waiters"), {"oid": oid, "wait": LOCK_WAIT_SECONDS}))[0]
    told = f"pid {row['pid']} for {row['seconds']:.0f} s" if row["waiters"] else ""
    return Look(float(row["waiters"]), told)


async def vacuum(connection: AsyncConnection, oid: int, memory: Memory) -> Look:
    """Return for how many seconds a vacuum has been at work on the table; 0 where none is."""
    del memory
    rows = await fetch(connection, compose(_FILE, "vacuum"), {"oid": oid})
    if not rows:
        return Look(0.0)
    if rows[0]["hidden"]:
        raise UnreadableError(
            f"a vacuum runs, and the role may not see on which table ({see_others('it').as_string()})"
        )
    return Look(rows[0]["seconds"], f"pid {rows[0]['pid']}, {rows[0]['phase']}")


async def hot_share(connection: AsyncConnection, oid: int, memory: Memory) -> Look:
    """Return the share of HOT updates since the last reading that had enough of them, of what the pages allow.

    Excused unless somebody's old snapshot explains it: the application's own updates may never be HOT, and waiting
    would not change that; nor while our own index build pins the horizon (H18).
    """
    row = await _writes(connection, oid)
    seen = {"updates": row["updates"], "hot_updates": row["hot_updates"]}
    before = {key: memory.get(key, row[key]) for key in seen}
    share, since = memory.get("share"), before
    updates = row["updates"] - before["updates"]
    if updates < 0:  # the statistics were reset
        since = seen
    elif updates >= FEWEST_UPDATES and row["ceiling"] > 0:
        share, since = min(1.0, (row["hot_updates"] - before["hot_updates"]) / updates / row["ceiling"]), seen
    kept = {**since, "share": share}
    if share is None:
        return Look(None, "too few updates yet", kept)
    if row["building"]:
        return Look(share, "our own index build", kept, excused=True)
    culprit = await _culprit(connection)
    return Look(share, culprit or "no old snapshot", kept, excused=culprit is None)


async def dead_share(connection: AsyncConnection, oid: int, memory: Memory) -> Look:
    """Return dead rows per live row."""
    del memory
    row = await _writes(connection, oid)
    few = row["dead_rows"] < FEWEST_DEAD_ROWS
    if not row["live_rows"]:
        # A table that was emptied, or counters that were and nobody ever analysed it: waiting would mend neither.
        return Look(None, "how many rows there are is not known")
    return Look(row["dead_rows"] / row["live_rows"], f"{row['dead_rows']:,} rows", excused=few)


async def database_size(connection: AsyncConnection, oid: int, memory: Memory) -> Look:
    """Return the size of the database in bytes."""
    del oid, memory
    return Look((await fetch(connection, compose(_FILE, "database_size")))[0]["bytes"])


async def _writes(connection: AsyncConnection, oid: int) -> dict[str, Any]:
    rows = await fetch(connection, compose(_FILE, "writes"), {"oid": oid})
    if not rows:
        raise UnreadableError("the table is gone")
    return rows[0]


async def _require_sight(connection: AsyncConnection) -> None:
    row = (await fetch(connection, compose(_FILE, "hidden_sessions")))[0]
    if row["hidden"]:
        told = see_others(row["role"]).as_string()
        raise UnreadableError(f"the role may not see the transactions of others ({told})")


async def _culprit(connection: AsyncConnection) -> str | None:
    for row in await horizon(connection):
        if row["seconds"] is not None and row["seconds"] > _CULPRIT_SECONDS:
            return f"{row['who']}, its snapshot is {row['seconds']:.0f} s old"
        if row["seconds"] is None and (row["xids"] or 0) > _CULPRIT_XIDS:
            return f"{row['who']}, its snapshot is {row['xids']:,} transactions old"
    return None


#: How each signal of the database is read. The operator's own two are `migrator.throttle.operator`'s.
READERS: dict[Signal, Callable[[AsyncConnection, int, Memory], Awaitable[Look]]] = {
    Signal.LAG: replica_lag,
    Signal.ARCHIVE: archive_backlog,
    Signal.SNAPSHOT: oldest_snapshot,
    Signal.LOCK_WAITERS: lock_waiters,
    Signal.VACUUM: vacuum,
    Signal.HOT: hot_share,
    Signal.DEAD: dead_share,
    Signal.SIZE: database_size,
}
