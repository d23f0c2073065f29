"""A migration's history as the tick writes it down, for the report.

Floor 3. Promise: what is kept is what the tick's line told at that moment, read once for both.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.backfill import catch_up
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import position
from migrator.orchestrator.position import Position
from migrator.state import dirty, dispositions, flows, migrations, samples, strays, tallies
from migrator.state.agenda import Agenda
from migrator.state.connection import transaction
from migrator.state.samples import Sample


async def see(engine: AsyncEngine, migration_id: int, agenda: Agenda) -> Position:
    """Read where a migration is, and keep that, unless it was kept a moment ago.

    Catch-up's backlog too, unless that is to wait for the end of the pass. What was written before the long look is
    committed before it: a transaction that has an id holds back the pruning that the backfill's updates live on (HOT).
    """
    await _fold(engine, migration_id, agenda)
    async with transaction(engine) as connection:
        migration = await migrations.get_by_id(connection, migration_id)
        counts = await tallies.counts(connection, migration_id)
        keys = await dirty.count_sides(connection, migration_id, tuple(Side))
        under_way = migration.status is MigrationStatus.BACKFILLING and bool(counts.pending or counts.leased)
        if not (under_way and catch_up.defers(keys[Side.TO])):
            kept = catch_up.sides(migration, deferred=False)
            await flows.note(connection, migration_id, sum(keys[side] for side in set(kept)))
    async with transaction(engine) as connection:
        found = await position.read(connection, migration, counts=counts, dirty_keys=keys)
        await _note(connection, found)
    return found


async def _fold(engine: AsyncEngine, migration_id: int, agenda: Agenda) -> None:
    """Add up what is done, so that few rows are read when it is counted."""
    if not (agenda.finished or agenda.disposed or agenda.diverted):
        return
    async with transaction(engine) as connection:
        if agenda.finished:
            await tallies.fold(connection, migration_id)
        if agenda.disposed:
            await dispositions.fold(connection, migration_id)
        if agenda.diverted:
            await strays.fold(connection, migration_id)


async def _note(connection: AsyncConnection, found: Position) -> None:
    migration, counts, account = found.migration, found.counts, found.account
    sample = Sample(
        status=migration.status.value,
        rows_settled=counts.rows_done + counts.rows_skipped + counts.rows_quarantined,
        rows_caught_up=await flows.embedded(connection, migration.id),
        tokens=account.spent_tokens,
        spent_usd=account.spent_usd,
        committed_usd=account.committed_usd,
        dirty_to=found.dirty_to,
        dirty_from=found.dirty_from,
        updates=found.counters.get("updates"),
        hot_updates=found.counters.get("hot_updates"),
        dead_rows=found.counters.get("dead_rows"),
        binding=found.binding,
    )
    await samples.note(connection, migration.id, sample, began=migration.started_at or migration.since)
