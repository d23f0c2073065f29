"""Expand: the shadow column, the capture triggers and the state, in one short transaction.

Floor 2. Promise (P8): application statements wait for it no longer than one try's deadline, and none fails because of
it; its commit is the move to `backfilling`, so there is no half-expanded table. It writes no row.
"""

from __future__ import annotations

from collections.abc import Callable

from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.state import migrations
from migrator.state.connection import transaction
from migrator.state.migrations import Migration
from migrator.statements import compose
from migrator.target import capture, facts, lanes, message, readers
from migrator.target.capture import Capture
from migrator.target.message import Blocker, Timing

_FILE = "cutover/expand.sql"

OnWait = Callable[[int, list[Blocker], float], None]


async def run(engine: AsyncEngine, migration: Migration, *, actor: str, on_wait: OnWait) -> Timing:
    """Expand a planned migration's table; returns how long the lock was held.

    Locks: ACCESS EXCLUSIVE on the table for a few milliseconds, with one deadline per try.
    Raises: LockNotObtained, MovedMeanwhile, PrivilegeMissing.
    """
    oid, framed = await prepare(engine, migration, actor=actor)
    async with transaction(engine, read_only=True) as connection:
        baseline = await lanes.write_counters(connection, oid)

    async def attempt() -> Timing:
        async with message.raw_connection(engine) as raw:
            return await message.send(raw, message.whole(framed))

    async def blockers() -> list[Blocker]:
        async with transaction(engine) as connection:
            return await message.find_blockers(connection, [oid])

    timing = await message.climb(attempt, blockers=blockers, name=migration.name, verb="start", on_wait=on_wait)
    async with transaction(engine) as connection:
        await migrations.change(connection, migration.id, write_baseline=baseline)
    return timing


async def prepare(engine: AsyncEngine, migration: Migration, *, actor: str) -> tuple[int, list[sql.Composable]]:
    """Return the table's oid and the whole transaction, statement by statement."""
    async with transaction(engine, read_only=True) as connection:
        relation = await facts.relation(connection, migration.target_schema, migration.target_table)
        assert relation is not None  # noqa: S101 - `start` has just compared the fingerprint
        columns = frozenset(await facts.columns(connection, relation.oid))
        version = (await facts.server(connection))["version"]
    made = Capture.of(migration)
    table = made.target.table_id
    framed = message.frame(
        table,
        statements(migration, made, columns, actor),
        lock_statements=[message.lock_table(table)],
        server_version=version,
    )
    return relation.oid, framed


def statements(migration: Migration, made: Capture, columns: frozenset[str], actor: str) -> list[sql.Composed]:
    """Return what expand runs under the lock."""
    target, plan = made.target, migration.plan
    names = (migration.target_schema, migration.target_table, migration.target_column)
    parts = {
        "table": target.table_id,
        "shadow": sql.Identifier(target.shadow),
        "type": facts.vector_type(plan["vector_schema"], plan["vector_type"], plan["shadow_dims"]),
        "target_schema": sql.Literal(names[0]),
        "target_table": sql.Literal(names[1]),
        "target_column": sql.Literal(names[2]),
        "generation": sql.Literal(str(migration.from_generation)),
        "migration_id": sql.Literal(migration.id),
    }
    return [
        compose(_FILE, "add_column", parts),
        message.moment("column"),
        *capture.installation(made, columns),
        message.moment("triggers"),
        readers.constant(*names, Side.FROM, migration.from_generation),
        compose(_FILE, "live", parts),
        migrations.move_in_message(migration, MigrationStatus.BACKFILLING, actor=actor),
    ]
