"""Putting the capture on again, and taking back what was written while it was off.

Floor 2. Promise (H30, P5, P1): no vector survives that nobody saw being written: before the cutover the shadow's of
each row that was touched meanwhile, after it the live one's too. Such a row is embedded again. Killed anywhere, it is
begun again: what it took back is NULL, and until the end it is remembered since when the capture was off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.cutover import rehearsal
from migrator.cutover.rehearsal import Rehearsal
from migrator.errors import OperatorError
from migrator.generation import Side
from migrator.state import canary, migrations
from migrator.state.connection import fetch, run, transaction
from migrator.state.migrations import Migration
from migrator.statements import compose
from migrator.target import capture, facts, message, swap, taking_back
from migrator.target.capture import Capture
from migrator.target.declaration import declare
from migrator.target.message import Blocker, OnWait, Timing

_FILE = "cutover/recapture.sql"
#: Heap pages per transaction, each with one row at most: a few hundred updates are a few tens of milliseconds.
_WINDOW_PAGES = 512


@dataclass(eq=False)
class TriggersWouldFail(OperatorError):
    """With our triggers on the table, the application's own statements fail."""

    name: str
    operation: str
    kind: str
    sqlstate: str
    function: str

    runbook = "unblock"
    happened = "With the triggers on the table of {name}, every {operation} fails in {function}: {kind} ({sqlstate})."
    state = "That was a rehearsal, and it was rolled back with the triggers: capture of {name} is off, as it was."
    next = "Mend what is named, then run `migrator resume {name}` again; or `migrator cancel {name}`."


async def install(engine: AsyncEngine, migration: Migration, *, on_wait: OnWait) -> Timing:
    """Put functions and triggers on again; behind them, the application's writes are rehearsed.

    Locks: ACCESS EXCLUSIVE on the table, a few milliseconds, one deadline per try.
    Raises: LockNotObtained, TriggersWouldFail.
    """
    async with transaction(engine, read_only=True) as connection:
        relation = await facts.relation(connection, migration.target_schema, migration.target_table)
        assert relation is not None  # noqa: S101 - `resume` has just read its columns
        columns = await facts.columns(connection, relation.oid)
        version = (await facts.server(connection))["version"]
    made = Capture.of(migration)
    table = made.target.table_id
    writes = Rehearsal(made.target, [each for each in columns.values() if each.name != made.target.shadow])
    async with message.raw_connection(engine) as raw:
        found = await writes.find(raw)
    body = [
        *capture.removal(made),
        *capture.installation(made, frozenset(columns), migration.live_side),
        *writes.statements(found),
    ]
    framed = message.frame(
        table,
        body,
        lock_statements=[message.lock_table(table)],
        server_version=version,
        before=[swap.functions_lock()],
    )

    async def attempt() -> Timing:
        async with message.raw_connection(engine) as raw:
            try:
                return await message.send(raw, message.whole(framed))
            except psycopg.Error as error:
                if error.sqlstate != rehearsal.FAILED:
                    raise
                raise _refusal(migration.name, error) from None

    async def blockers() -> list[Blocker]:
        async with transaction(engine) as connection:
            return await message.find_blockers(connection, [relation.oid])

    return await message.climb(attempt, blockers=blockers, name=migration.name, verb="resume", on_wait=on_wait)


def _refusal(name: str, error: psycopg.Error) -> TriggersWouldFail:
    failed = rehearsal.read(error)
    return TriggersWouldFail(name, failed.operation, failed.kind, failed.sqlstate, failed.function or "a trigger")


async def take_back(engine: AsyncEngine, migration: Migration) -> int:
    """Take back every vector that may have been written unseen; returns how many rows that were.

    Locks: a row of each page at a time, for milliseconds.
    Raises: RowsHeld.
    """
    assert migration.capture_off_xid is not None  # noqa: S101 - whoever calls has looked
    xid = canary.row_xid(migration.capture_off_xid)
    if migration.live_side is Side.FROM and migration.from_generation.dims == migration.to_generation.dims:
        for values in await _windows(engine, migration, xid):
            async with transaction(engine) as connection:
                await run(connection, compose(_FILE, "note", _parts(migration)), values)
    rows = await taking_back.rounds(
        lambda: _once(engine, migration, xid), lambda: _left(engine, migration, xid), name=migration.name
    )
    if migration.live_side is Side.TO:
        for values in await _windows(engine, migration, xid):
            async with transaction(engine) as connection:
                await run(connection, compose(_FILE, "mark", _parts(migration)), values)
    return rows


async def _once(engine: AsyncEngine, migration: Migration, xid: str) -> int:
    """Go over the table once, window by window, until a window has none that is free."""
    total = 0
    for values in await _windows(engine, migration, xid):
        while True:
            async with transaction(engine) as connection:
                await run(connection, compose("target/lanes.sql", "lock_table", _parts(migration)))
                now = await migrations.get_by_id(connection, migration.id)
                await declare(connection, now, now.live_side)
                taken = await run(connection, compose(_FILE, "take_back", _parts(now)), values)
            total += taken
            if not taken:
                break
    return total


async def _left(engine: AsyncEngine, migration: Migration, xid: str) -> int:
    async with transaction(engine, read_only=True) as connection:
        return int((await fetch(connection, compose(_FILE, "left", _parts(migration)), {"xid": xid}))[0]["rows"])


async def _windows(engine: AsyncEngine, migration: Migration, xid: str) -> list[dict[str, str]]:
    async with transaction(engine, read_only=True) as connection:
        pages = (await fetch(connection, compose(_FILE, "pages", _parts(migration))))[0]["pages"]
    return [
        {"first": f"({first},0)", "beyond": f"({first + _WINDOW_PAGES},0)", "xid": xid}
        for first in range(0, pages, _WINDOW_PAGES)
    ]


def _parts(migration: Migration) -> Mapping[str, sql.Composable]:
    target = Capture.of(migration).target
    doubtful = [target.shadow] if migration.live_side is Side.FROM else [target.column, target.shadow]
    columns = [sql.Identifier(each) for each in doubtful]
    return {
        "table": target.table_id,
        "table_name": sql.Literal(target.table_id.as_string(None)),
        "migration_id": sql.Literal(migration.id),
        "key": target.key_of("t"),
        "live": sql.Identifier(target.column),
        "live_side": sql.Literal(migration.live_side.value),
        "shadow_side": sql.Literal(migration.live_side.other.value),
        "filled": sql.SQL(" OR ").join([sql.SQL("t.{} IS NOT NULL").format(each) for each in columns]),
        "emptied": sql.SQL(", ").join([sql.SQL("{} = NULL").format(each) for each in columns]),
    }
