"""Expand: the shadow column, the capture triggers and the state, in one short transaction.

Floor 2. Promise (P8): application statements wait for it no longer than one try's deadline, and none fails because of
it; its commit is the move to `backfilling`, so there is no half-expanded table. No row that it writes survives: behind
the new column the application's own writes are rehearsed, and what would break them is refused (H16).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.cutover import rehearsal
from migrator.cutover.rehearsal import Found, Rehearsal, WritesWouldFail
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.state import migrations
from migrator.state.connection import transaction
from migrator.state.migrations import Migration
from migrator.statements import compose
from migrator.target import capture, column_types, facts, lanes, message, outcome, readers, restating
from migrator.target.capture import Capture
from migrator.target.message import Cancel, OnWait, Timing
from migrator.target.restating import Check

_FILE = "cutover/expand.sql"


@dataclass(frozen=True, slots=True)
class Prepared:
    """One try's transaction, statement by statement, and what of the application's writes it rehearses."""

    oid: int
    framed: list[sql.Composable]
    rehearsed: Found


async def run(
    engine: AsyncEngine,
    migration: Migration,
    *,
    actor: str,
    on_wait: OnWait,
    tell: Callable[[str], None] | None = None,
    cancel: Cancel | None = None,
) -> Timing:
    """Expand a planned migration's table; returns how long the lock was held. Tells what could not be rehearsed.

    Locks: ACCESS EXCLUSIVE on the table for a few milliseconds, with one deadline per try.
    Raises: LockNotObtained, MovedMeanwhile, PrivilegeMissing, WritesWouldFail, Undone, OutcomeUnknown.
    """
    prepared: Prepared | None = None
    async with transaction(engine, read_only=True) as connection:
        relation = await facts.relation(connection, migration.target_schema, migration.target_table)
        assert relation is not None  # noqa: S101 - `start` has just compared the fingerprint

    refused = rehearsal.refusal(WritesWouldFail, migration.name)

    async def attempt() -> Timing:
        nonlocal prepared
        prepared = await prepare(engine, migration, actor=actor)
        return await outcome.send(
            engine, message.whole(prepared.framed), migration, verb="start", done=_expanded, read=refused
        )

    timing = await message.until_locked(
        engine, relation.oid, attempt, name=migration.name, verb="start", on_wait=on_wait, cancel=cancel
    )
    async with transaction(engine) as connection:
        # Read behind the rehearsal, whose rows count as written although none is there.
        baseline = await lanes.write_counters(connection, migration.target_schema, migration.target_table)
        await migrations.change(connection, migration.id, write_baseline=baseline)
        if prepared is not None:
            told = str(prepared.rehearsed)
            await migrations.note(connection, migration.id, MigrationStatus.BACKFILLING, told, actor)
    if prepared is not None and prepared.rehearsed.left_out and tell is not None:
        tell(str(prepared.rehearsed))
    return timing


def _expanded(found: Migration) -> bool:
    # Nothing but expand leads from `planned` to a status that is not final.
    return found.status not in {MigrationStatus.PLANNED, MigrationStatus.CLEANED}


async def prepare(engine: AsyncEngine, migration: Migration, *, actor: str) -> Prepared:
    """Return the table's oid and the whole transaction."""
    async with transaction(engine, read_only=True) as connection:
        relation = await facts.relation(connection, migration.target_schema, migration.target_table)
        assert relation is not None  # noqa: S101 - `start` has just compared the fingerprint
        columns = await facts.columns(connection, relation.oid)
        checks = await restating.checks(connection, relation.oid, columns[migration.target_column])
        version = (await facts.server(connection))["version"]
    made = Capture.of(migration)
    table = made.target.table_id
    writes = Rehearsal(made.target, list(columns.values()))
    async with message.raw_connection(engine) as raw:
        found = await writes.find(raw)
    framed = message.frame(
        table,
        [
            *_columns(migration, made, restating.alike(relation.oid, made.target), checks),
            *statements(migration, made, frozenset(columns), actor, writes.statements(found)),
        ],
        lock_statements=[message.lock_table(table)],
        server_version=version,
        before=[readers.functions_lock()],
    )
    return Prepared(relation.oid, framed, found)


def _columns(migration: Migration, made: Capture, alike: sql.Composable, checks: list[Check]) -> list[sql.Composable]:
    """Return what adds the shadow column, and sets for it what is set for the live one."""
    target, plan = made.target, migration.plan
    parts = {
        "table": target.table_id,
        "shadow": sql.Identifier(target.shadow),
        "type": facts.vector_type(plan["vector_schema"], column_types.of(migration, Side.TO), plan["shadow_dims"]),
    }
    added = compose(_FILE, "add_column", parts)
    return [added, alike, *restating.twin_checks(target, checks, made.vector_schema), message.moment("column")]


def statements(
    migration: Migration, made: Capture, columns: frozenset[str], actor: str, writes: list[sql.Composable]
) -> list[sql.Composable]:
    """Return what expand runs once the column is there; `writes` are the application's, as they are rehearsed."""
    names = (migration.target_schema, migration.target_table, migration.target_column)
    parts = {
        "target_schema": sql.Literal(names[0]),
        "target_table": sql.Literal(names[1]),
        "target_column": sql.Literal(names[2]),
        "generation": sql.Literal(str(migration.from_generation)),
        "migration_id": sql.Literal(migration.id),
    }
    return [
        *capture.installation(made, columns),
        message.moment("triggers"),
        *writes,
        readers.constant(*names, Side.FROM, migration.from_generation),
        compose(_FILE, "live", parts),
        migrations.move_in_message(migration, MigrationStatus.BACKFILLING, actor=actor),
    ]
