"""Cleaning up: the shadow column, its index, the triggers. The only step that destroys anything.

Floor 2. Promise: it lists what it drops before it does, refuses while the way back is open or strangers were seen to
write lately (H7), drops the big index without a lock first, and then everything else in one transaction. A second run
goes on where the first one died, and a third finds nothing to do.
"""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.cutover import not_null
from migrator.errors import OperatorError
from migrator.lifecycle import MigrationStatus
from migrator.state import leases, migrations, strays
from migrator.state.connection import fetch, transaction
from migrator.state.migrations import Migration
from migrator.statements import compose
from migrator.target import capture, facts, message, outcome, readers
from migrator.target.capture import Capture
from migrator.target.message import Cancel, OnWait, Timing

_FILE = "cutover/cleaning.sql"
S = MigrationStatus


@dataclass(eq=False)
class WindowOpen(OperatorError):
    """The way back is open, and cleaning up would close it."""

    name: str

    runbook = "cleanup"
    happened = "The rollback window of {name} is open: cleaning up now would close the way back for good."
    state = "Nothing was changed."
    next = "Run `migrator cleanup {name} --close-window` when you are sure, or `migrator rollback {name}`."


@dataclass(eq=False)
class StraysSeen(OperatorError):
    """Writers of the other generation were seen lately; without the fence they would poison the column."""

    name: str
    writers: str
    options: str

    runbook = "diverted-writers"
    happened = "Writers of the other generation were seen in the last 24 hours: {writers}."
    state = "Nothing was changed; their vectors are still being diverted."
    next = "Deploy or stop them, then run `migrator cleanup {name} {options}`."


@dataclass(frozen=True, slots=True)
class Left:
    """What an operator says may stay as it is: a column that was NOT NULL nullable, and rows without a vector."""

    nullable: bool = False
    debt: bool = False


NOTHING_LEFT = Left()


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something of ours on the table. `bytes` is an estimate for a column."""

    kind: str
    name: str
    bytes: int


async def objects(engine: AsyncEngine, migration: Migration) -> list[Leftover]:
    """Return what cleaning up would drop."""
    async with transaction(engine, read_only=True) as connection:
        relation = await facts.relation(connection, migration.target_schema, migration.target_table)
        if relation is None:
            return []
        return [Leftover(**row) for row in await fetch(connection, compose(_FILE, "objects"), {"oid": relation.oid})]


async def refuse_unseen(connection: AsyncConnection, migration: Migration) -> None:
    """Make sure that no writer of the other generation wrote where readers search, and nobody saw it.

    Before the first cutover only where one is known: declared, or seen in the last day. Nor in the middle of cleaning
    up: the fence is on its way out, and whoever took it off has been told.
    Raises: CaptureOff.
    """
    if migration.status is S.CLEANING or migration.capture_off_at is None:
        return
    if migration.epoch or migration.writers or await strays.seen(connection, migration):
        migration.refuse_unseen()


async def refuse_early(engine: AsyncEngine, migration: Migration, *, close_window: bool, strays_gone: bool) -> None:
    """Make sure that cleaning up is wanted.

    Raises: WindowOpen, StraysSeen.
    """
    if migration.status is S.COMPLETED and not close_window:
        raise WindowOpen(migration.name)
    if migration.status is S.CLEANING or strays_gone:
        return
    async with transaction(engine, read_only=True) as connection:
        seen = await strays.seen(connection, migration)
    if seen:
        options = "--close-window --strays-gone" if migration.status is S.COMPLETED else "--strays-gone"
        raise StraysSeen(migration.name, "; ".join(f"{each.who}: {each.writes:,}" for each in seen), options)


async def drop_indexes(engine: AsyncEngine, migration: Migration) -> None:
    """Drop the shadow's indexes without making anybody wait.

    A partitioned index can't be dropped so: it goes with its column.
    """
    if migration.plan.get("partitioned"):
        return
    for each in await objects(engine, migration):
        if each.kind != "index":
            continue
        index = sql.Identifier(migration.target_schema, each.name)
        async with message.unhurried(engine) as raw:
            await raw.execute(compose(_FILE, "drop_index", {"index": index}))


async def drop_the_rest(
    engine: AsyncEngine,
    migration: Migration,
    *,
    actor: str,
    on_wait: OnWait,
    cancel: Cancel | None = None,
    left: Left = NOTHING_LEFT,
) -> Timing:
    """Drop triggers, functions and the shadow column, put NOT NULL back, and be `cleaned`: one transaction.

    Locks: ACCESS EXCLUSIVE on the table, a few milliseconds, one deadline per try.
    Raises: LockNotObtained, TooDirty, MovedMeanwhile, Undone, OutcomeUnknown.
    """
    prepared = await prepare(engine, migration, actor=actor, left=left)
    if prepared is None:
        async with transaction(engine) as connection:
            await migrations.move(connection, migration, S.CLEANED, actor=actor, reason="the table is gone")
        return Timing(())
    oid, framed = prepared
    timing = await outcome.insist(
        engine,
        oid,
        message.whole(framed),
        migration,
        verb="cleanup",
        done=lambda found: found.status is S.CLEANED,
        on_wait=on_wait,
        cancel=cancel,
    )
    async with transaction(engine) as connection:
        await leases.void(connection, migration.id)
    return timing


async def prepare(
    engine: AsyncEngine, migration: Migration, *, actor: str, left: Left = NOTHING_LEFT
) -> tuple[int, list[sql.Composable]] | None:
    """Return the table's oid and the whole transaction, statement by statement; None where the table is gone."""
    made = Capture.of(migration)
    async with transaction(engine, read_only=True) as connection:
        relation = await facts.relation(connection, migration.target_schema, migration.target_table)
        version = (await facts.server(connection))["version"]
    if relation is None:
        return None
    parts = {
        "table": made.target.table_id,
        "shadow": sql.Identifier(made.target.shadow),
        "migration_id": sql.Literal(migration.id),
        "side": sql.Literal(migration.live_side.value),
    }
    body = [
        *([] if left.debt else [compose(_FILE, "check", parts)]),
        *capture.removal(made),
        compose(_FILE, "drop_column", parts),
        *not_null.statements(migration, version, leave_nullable=left.nullable),
        compose(_FILE, "forget", parts),
        compose(_FILE, "forget_parked", parts),
        compose(_FILE, "forget_written", parts),
        compose(_FILE, "forget_suspects", parts),
        compose(_FILE, "forget_looks", parts),
        compose(_FILE, "forget_look_rows", parts),
        compose(_FILE, "forget_readers", parts),
        compose(_FILE, "forget_writers", parts),
        migrations.move_in_message(migration, S.CLEANED, actor=actor),
    ]
    locks = [message.lock_table(made.target.table_id)]
    before = [readers.functions_lock()]  # `unblock` may be replacing them
    table = made.target.table_id
    return relation.oid, message.frame(table, body, lock_statements=locks, server_version=version, before=before)
