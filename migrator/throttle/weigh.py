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


async def look(engine: AsyncEngine, migration_id: int) -> Reading:
    """Return the stored reading; reads anew first, when it is due and nobody else is at it.

    Where somebody else is, and what is stored counts for nothing, theirs is waited for a little.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE_SECONDS
    while True:
        async with transaction(engine) as connection:
            found = await signals.reading(connection, migration_id)
            turn = await signals.take_turn(connection, migration_id) if found.is_due else None
            if turn is not None:
                migration = await migrations.get_by_id(connection, migration_id)
                break
        if not found.is_stale or loop.time() > deadline:
            return found
        await asyncio.sleep(_POLL_SECONDS)
    read = await _read(engine, migration, {each.signal: each.memory for each in found.signals})
    async with transaction(engine) as connection:
        await signals.record(connection, migration_id, turn, read)
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
    found = []
    for signal, threshold in migration.thresholds.wanted.items():
        memory = memories.get(signal, {})
        try:
            seen = await _one(engine, migration, signal, memory)
        except UnreadableError as error:
            found.append(Weighed(signal, None, threshold, True, "", str(error), dict(memory)))  # noqa: FBT003 - binds
            continue
        over = seen.value is not None and not seen.excused and is_over(signal, seen.value, threshold)
        found.append(Weighed(signal, seen.value, threshold, over, seen.detail, None, seen.memory))
    return found


async def _one(engine: AsyncEngine, migration: Migration, signal: Signal, memory: Mapping[str, Any]) -> Look:
    limits = migration.thresholds
    if signal is Signal.HTTP:
        return await operator.ask_http(limits.http or "")
    try:
        async with transaction(engine, read_only=True, statement_timeout_seconds=_LOOK_SECONDS) as connection:
            if signal is Signal.SQL:
                return await operator.ask_sql(connection, limits.sql or "")
            return await READERS[signal](connection, await _oid(connection, migration), memory)
    except MigratorError as error:
        raise UnreadableError(error.sentences()[0].rstrip(".")) from None


async def _oid(connection: AsyncConnection, migration: Migration) -> int:
    oid = await table_oid(connection, migration.target_schema, migration.target_table)
    if oid is None:
        raise UnreadableError("the table is gone")
    return oid
