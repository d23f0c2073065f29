"""The proof: one statement over the table, and what follows from it.

Floor 2. Promise (H19): no row in scope with text lacks a vector, and none without text has one. Only this moves a
migration on to its index. A pass over the windows is no proof, since rows move between pages; if the proof finds a row,
another pass follows. Passes that find rows and write none do not go on for ever: then something keeps vectors from
landing, and somebody has to look.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.backfill.landing import lanes_of
from migrator.errors import Defect, MigratorError
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.spending.worker import Worker
from migrator.state import batches, leases, migrations
from migrator.state.batches import Heap
from migrator.state.connection import transaction
from migrator.state.leases import Lease
from migrator.state.migrations import Migration
from migrator.target import facts, pages

#: Passes in a row without a single row written before the migration is paused: one may be an unlucky lock.
MAX_IDLE_PASSES = 3


@dataclass(eq=False)
class RowsLeft(MigratorError):
    """Rows in scope stay without a vector, pass after pass."""

    name: str
    rows: int

    exit_code = 1
    runbook = "rows-left"
    happened = "{rows} rows of {name} are still without a vector after {name} went over the table again and again."
    state = "It is paused; everything embedded so far is kept."
    next = "Look for long transactions that hold them (pg_stat_activity), then run `migrator resume {name}`."


@dataclass(eq=False)
class VectorsWithoutText(MigratorError):
    """Somebody else wrote vectors of the new generation for rows that have no text."""

    name: str
    rows: int
    column: str

    exit_code = 1
    runbook = "rows-left"
    happened = "{rows} rows of {name} have no text, and a vector in {column} all the same: a search would find them."
    state = "It is paused; everything embedded so far is kept, and these vectors were not touched."
    next = "Set {column} to NULL where there is no text, then run `migrator resume {name}`."


async def run(worker: Worker, migration: Migration, lease: Lease) -> str:
    """Prove, then move on or plan another pass; returns what was found, for the task's line.

    Raises: LeaseLost, RowsLeft, VectorsWithoutText.
    """
    async with transaction(worker.engine) as connection:
        migration = await migrations.get_by_id(connection, migration.id)
        if migration.status is not MigrationStatus.BACKFILLING:
            await leases.finish(connection, lease)
            return f"{migration.name} is {migration.status}: nothing to prove"
    async with transaction(worker.engine) as connection:
        proof = await lanes_of(migration, Side.TO).prove(connection, migration.id, Side.TO)
        await leases.hold(connection, lease)
        if proof.wordless:
            raise VectorsWithoutText(migration.name, proof.wordless, migration.column_of(Side.TO))
        if proof.missing == 0:
            await leases.finish(connection, lease)
            values = {
                "proved_rows": proof.rows,
                "proved_embedded": proof.embedded,
                "proved_filtered": proof.filtered,
                "proved_at": func.clock_timestamp(),
                "idle_passes": 0,
            }
            await migrations.move(connection, migration, MigrationStatus.INDEXING, actor=worker.holder, values=values)
            return f"{migration.name} proved: {proof.embedded} of {proof.rows} rows have their vector"
        idle = await _plan_again(connection, migration)
        await leases.finish(connection, lease)
    if idle >= MAX_IDLE_PASSES:
        raise RowsLeft(migration.name, proof.missing)
    return f"{migration.name}: {proof.missing} rows are left, pass {migration.pass_number + 1} follows"


async def _plan_again(connection: AsyncConnection, migration: Migration) -> int:
    """Cut the table as it stands now into another pass; returns how many passes in a row wrote nothing."""
    written = await batches.written_in_pass(connection, migration.id, migration.pass_number)
    idle = 0 if written else migration.idle_passes + 1
    await plan_pass(connection, migration, idle_passes=idle)
    return idle


async def plan_pass(connection: AsyncConnection, migration: Migration, *, idle_passes: int = 0) -> int:
    """Cut the table as it stands now into the next pass's windows; returns how many."""
    relation = await facts.relation(connection, migration.target_schema, migration.target_table)
    if relation is None:
        raise Defect(f"{migration.target} is gone")
    rows = max(relation.estimated_rows, migration.plan["rows"], 1)
    width, made = pages.width(relation.pages, rows), 0
    for each in await facts.heaps(connection, relation.oid):
        if each.file is not None and each.pages:
            made += await batches.plan_pass(connection, migration, Heap(each.oid, each.file, each.pages), width)
    number = migration.pass_number + 1
    await migrations.change(connection, migration.id, pass_number=number, idle_passes=idle_passes)
    return made
