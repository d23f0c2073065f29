"""Taking the capture off, at once: for the night when our own triggers are what hurts the application.

Floor 2. Promise (H30): the first transaction takes no lock on the table, so that nobody and nothing can keep it from
coming through: the functions do nothing any more, the migration is paused, and it is remembered from which transaction
on nobody saw what was written. The triggers themselves are dropped behind it, as every lock here is taken. Whoever
puts the capture on at the same time is overtaken, or overtakes: never both.
"""

from __future__ import annotations

from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.errors import StatusConflict
from migrator.lifecycle import OPEN, PAUSABLE
from migrator.state import canary, migrations
from migrator.state.connection import MovedMeanwhile, fetch, run, transaction
from migrator.state.migrations import Migration
from migrator.statements import compose
from migrator.target import capture, facts, message, outcome, readers
from migrator.target.capture import Capture
from migrator.target.message import OnWait, Timing

_FILE = "cutover/capture_off.sql"


async def silence(engine: AsyncEngine, name: str, *, actor: str) -> Migration:
    """Have the triggers do nothing from now on, and pause the migration; returns it as it is then.

    Locks: none on the table; the swap's functions and the migration's row, for a moment.
    Raises: MigrationUnknown, StatusConflict.
    """
    async with transaction(engine) as connection:
        await run(connection, readers.functions_lock())
        found = await _at_rest(connection, await migrations.hold(connection, name), actor)
        # Taken before anything is off: whatever is written unseen has no earlier transaction.
        horizon = await canary.horizon(connection)
        for each in capture.blank(Capture.of(found)):
            await run(connection, each)
        values = {"capture_turn": found.capture_turn + 1}
        if found.capture_off_at is None:
            now = await migrations.database_now(connection)
            await migrations.change(connection, found.id, capture_off_at=now, capture_off_xid=horizon)
            await migrations.note(connection, found.id, found.status, "capture is off (unblock)", actor)
        await migrations.change(connection, found.id, **values)
        return await migrations.get(connection, name)


async def _at_rest(connection: AsyncConnection, found: Migration, actor: str) -> Migration:
    if found.status not in OPEN:  # while it is being cleaned up, the triggers are still there
        following = f"migrator status {found.name}"
        raise StatusConflict(found.name, "unblock", "started, and not cleaned up", found.status, following)
    if found.status not in PAUSABLE:
        return found
    reason = f"capture is off, by the operator: `migrator resume {found.name}` puts it on again"
    await migrations.pause(connection, found.id, reason=reason, actor=actor)
    return await migrations.get_by_id(connection, found.id)


async def drop(engine: AsyncEngine, migration: Migration, *, on_wait: OnWait) -> Timing:
    """Drop the triggers; where the table is gone there is nothing to do.

    Locks: ACCESS EXCLUSIVE on the table, a few milliseconds, one deadline per try.
    Raises: LockNotObtained, MovedMeanwhile (somebody put the capture on again), Undone, OutcomeUnknown.
    """
    prepared = await prepare(engine, migration)
    if prepared is None:
        return Timing(())
    oid, framed = prepared
    whole, done = message.whole(framed), another_turn(migration)
    timing = await outcome.insist(engine, oid, whole, migration, verb="unblock", done=done, on_wait=on_wait)
    if timing.lost and await acts(engine, migration):
        raise MovedMeanwhile  # the turn is another's, who put it on again
    return timing


async def prepare(engine: AsyncEngine, migration: Migration) -> tuple[int, list[sql.Composable]] | None:
    """Return the table's oid and the whole transaction, statement by statement; None where the table is gone."""
    async with transaction(engine, read_only=True) as connection:
        relation = await facts.relation(connection, migration.target_schema, migration.target_table)
        version = (await facts.server(connection))["version"]
    if relation is None:
        return None
    made = Capture.of(migration)
    table = made.target.table_id
    body = [turn(migration), *capture.triggers_off(made)]
    locks = [message.lock_table(table)]
    return relation.oid, message.frame(table, body, lock_statements=locks, server_version=version)


def another_turn(migration: Migration) -> outcome.Done:
    """Return what says that the capture was put on or taken off since `migration` was read."""
    return lambda found: found.capture_turn != migration.capture_turn


async def acts(engine: AsyncEngine, migration: Migration) -> bool:
    """Say whether a trigger of ours does anything: one that was silenced runs a function without our rights."""
    async with transaction(engine, read_only=True) as connection:
        relation = await facts.relation(connection, migration.target_schema, migration.target_table)
        if relation is None:
            return False
        return bool((await fetch(connection, compose(_FILE, "acts"), {"oid": relation.oid}))[0]["acts"])


def turn(migration: Migration) -> sql.Composed:
    """Return what makes sure, under the lock, that nobody came between, and that whoever comes later knows."""
    parts = {
        "migration_id": sql.Literal(migration.id),
        "turn": sql.Literal(migration.capture_turn),
        "epoch": sql.Literal(migration.epoch),
        "status": sql.Literal(migration.status.value),
    }
    return compose(_FILE, "turn", parts)
