"""Indexing: every index of the live column, once more over the shadow, then on to the gates.

Floor 2. Promise: nobody is kept from reading or writing; whoever takes over a build that died finds it, waits for it or
begins it anew.
"""

from __future__ import annotations

from migrator.errors import Defect, TransientError
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.spending import hours
from migrator.spending.worker import Worker
from migrator.state import leases, migrations
from migrator.state.connection import transaction
from migrator.state.leases import Lease
from migrator.state.migrations import Migration
from migrator.target import column_types, dependents, facts, index, message, restating
from migrator.target.build import Build
from migrator.target.dependents import LiveIndex
from migrator.target.relation import SUFFIX, Target


async def live_indexes(worker: Worker, migration: Migration) -> tuple[int, list[LiveIndex]]:
    """Return the table's oid and the indexes over its live column, also those of single partitions."""
    async with transaction(worker.engine, read_only=True) as connection:
        relation = await facts.relation(connection, migration.target_schema, migration.target_table)
        if relation is None:
            raise Defect(f"{migration.target} is gone")
        found = await dependents.every_index(connection, relation.oid, migration.target_column)
    return relation.oid, [each for each in found if not each.name.endswith(SUFFIX)]


async def run(worker: Worker, migration: Migration, lease: Lease) -> str:
    """Build what is missing, then move to `validating`; returns what was done, for the task's line.

    Raises: LeaseLost, BuildUnwanted, IndexNeedsMemory, StartsLater, OutsideWindow.
    """
    _, wanted = await live_indexes(worker, migration)
    memory = int(migration.plan["index_build"]["memory_bytes"])

    async def still() -> bool:
        try:
            async with transaction(worker.engine, read_only=True) as connection:
                found = await migrations.get_by_id(connection, migration.id)
        except TransientError:
            return True  # the database is away: whoever comes back finds the build
        # A pause lets the build finish: hours of work are not thrown away, and nothing is asked of the provider.
        return MigrationStatus.INDEXING in {found.status, found.paused_from}

    async def may_begin() -> None:
        async with transaction(worker.engine, read_only=True) as connection:
            await hours.require(connection, await migrations.get_by_id(connection, migration.id))

    build = Build(worker.engine, migration.name, memory, still, may_begin)
    for each in wanted:
        await index.ensure(build, Target.of(migration), each, column_types.of(migration, Side.TO))
    await _look_at_checks(worker, migration)
    async with transaction(worker.engine) as connection:
        await leases.finish(connection, lease)
        found = await migrations.get_by_id(connection, migration.id)
        for note in build.notes:
            await migrations.note(connection, migration.id, found.status, note, worker.holder)
        if found.status is MigrationStatus.INDEXING:
            await migrations.move(connection, found, MigrationStatus.VALIDATING, actor=worker.holder)
    return "; ".join([f"{migration.name}: {len(wanted)} indexes stand valid", *build.notes])


async def _look_at_checks(worker: Worker, migration: Migration) -> None:
    """Have PostgreSQL look whether every row passes the shadow's CHECKs, as every row passes the live column's.

    Locks: SHARE UPDATE EXCLUSIVE on the table while it is read: nobody who reads or writes waits.
    Raises: ConstraintRefuses.
    """
    target = Target.of(migration)
    async with transaction(worker.engine, read_only=True) as connection:
        relation = await facts.relation(connection, target.schema, target.table)
        if relation is None:
            raise Defect(f"{migration.target} is gone")
        columns = await facts.columns(connection, relation.oid)
        live, shadow = [
            await restating.checks(connection, relation.oid, columns[name]) for name in (target.column, target.shadow)
        ]
    for statement in restating.validations(target, live, shadow):
        async with message.unhurried(worker.engine) as raw:
            await raw.execute(statement)
