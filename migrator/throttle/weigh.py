"""Weighing: every signal against its threshold, by one reader at a time, stored for all.

Floor 1, its top. Promise (P12): it fails closed. A signal that can't be read binds and says why; a reading that nobody
could make lately binds itself. No lock is held while a signal is read, and no transaction is open while a URL is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.errors import MigratorError, TransientError
from migrator.signals import Signal, is_over
from migrator.state import migrations, signals
from migrator.state.connection import transaction
from migrator.state.migrations import Migration
from migrator.state.signals import Reading, Weighed
from migrator.target.signals import READERS, Look, UnreadableError, table_oid
from migrator.throttle import operator

#: Seconds for one look into the catalogs, or for the operator's SQL: they take milliseconds, and a signal that takes
#: longer adds to what it warns of.
_LOOK_SECONDS = 2.0
#: Seconds for which another's first reading is waited for, and between two looks at whether it came.
_PATIENCE_SECONDS, _POLL_SECONDS = 3.0, 0.1


@dataclass(eq=False)
class Throttled(TransientError):
    """A signal of the database is over its threshold, or can't be read."""

    name: str
    why: str

    runbook = "throttled"
    happened = "{name} is throttled: {why}."
    state = "What was paid for is written, no further request is sent, and it goes on by itself when that is over."
    next = "Run `migrator status {name}`; `migrator limits {name} --throttle KEY=VALUE` moves a threshold."


async def look(engine: AsyncEngine, migration_id: int, known: Reading | None = None) -> Reading:
    """Return the stored reading; reads anew first, when it is due and nobody else is at it.

    Where somebody else is, and what is stored counts for nothing, theirs is waited for a little. What is `known`,
    read a moment ago, is not asked for again.
    """
    if known is not None and not known.is_due:
        return known
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE_SECONDS
    while True:
        async with transaction(engine) as connection:
            found = known or await signals.reading(connection, migration_id)
            turn = await signals.take_turn(connection, migration_id) if found.is_due else None
            if turn is not None:
                # Behind the turn, which whoever changes a threshold takes away.
                migration = await migrations.get_by_id(connection, migration_id)
                break
        known = None
        if not found.is_stale or loop.time() > deadline:
            return found
        await asyncio.sleep(_POLL_SECONDS)
    read = await _read(engine, migration, {each.signal: each.memory for each in found.signals})
    async with transaction(engine) as connection:
        if await signals.record(connection, migration_id, turn, read):
            return Reading(tuple(read), 0.0)
        return await signals.reading(connection, migration_id)


async def require(engine: AsyncEngine, migration: Migration) -> None:
    """Let a request pass, or say what binds.

    Raises: Throttled.
    """
    binding = (await look(engine, migration.id)).binding
    if binding is None:
        return
    async with transaction(engine) as connection:
        await migrations.set_binding(connection, migration.id, binding)
    raise Throttled(migration.name, binding)


async def _read(engine: AsyncEngine, migration: Migration, memories: Mapping[Signal, dict[str, Any]]) -> list[Weighed]:
    wanted = migration.thresholds.wanted
    looks = await _catalogs(engine, migration, [each for each in wanted if each in READERS], memories)
    for signal in (Signal.SQL, Signal.HTTP):
        if signal in wanted:
            looks[signal] = await _operators(engine, migration, signal)
    found = []
    for signal, threshold in wanted.items():
        seen = looks[signal]
        if isinstance(seen, UnreadableError):
            memory = dict(memories.get(signal, {}))
            found.append(Weighed(signal, None, threshold, True, "", str(seen), memory))  # noqa: FBT003 - binds
            continue
        over = seen.value is not None and not seen.excused and is_over(signal, seen.value, threshold)
        found.append(Weighed(signal, seen.value, threshold, over, seen.detail, None, seen.memory))
    return found


async def _catalogs(
    engine: AsyncEngine, migration: Migration, wanted: list[Signal], memories: Mapping[Signal, dict[str, Any]]
) -> dict[Signal, Look | UnreadableError]:
    """Read what the server tells, in one transaction; behind one that can't be read, the rest in another."""
    found: dict[Signal, Look | UnreadableError] = {}
    while left := [each for each in wanted if each not in found]:
        try:
            async with transaction(engine, read_only=True, statement_timeout_seconds=_LOOK_SECONDS) as connection:
                oid = await _oid(connection, migration)
                for signal in left:
                    found[signal] = await READERS[signal](connection, oid, memories.get(signal, {}))
        except (MigratorError, UnreadableError) as error:
            # At COMMIT nothing is left to be read: what was seen counts.
            failed = next((each for each in left if each not in found), None)
            if failed is not None:
                found[failed] = _unreadable(error)
    return found


def _unreadable(error: Exception) -> UnreadableError:
    if isinstance(error, MigratorError):
        return UnreadableError(error.sentences()[0].rstrip("."))
    return UnreadableError(str(error))


async def _operators(engine: AsyncEngine, migration: Migration, signal: Signal) -> Look | UnreadableError:
    """Read the operator's own: SQL in a transaction of its own, and a URL in none."""
    limits = migration.thresholds
    try:
        if signal is Signal.HTTP:
            return await operator.ask_http(limits.http or "")
        async with transaction(engine, read_only=True, statement_timeout_seconds=_LOOK_SECONDS) as connection:
            return await operator.ask_sql(connection, limits.sql or "")
    except (MigratorError, UnreadableError) as error:
        return _unreadable(error)


async def _oid(connection: AsyncConnection, migration: Migration) -> int:
    oid = await table_oid(connection, migration.target_schema, migration.target_table)
    if oid is None:
        raise UnreadableError("the table is gone")
    return oid
