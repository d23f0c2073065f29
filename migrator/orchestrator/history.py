"""A migration's history as the tick writes it down, for the report.

Floor 3. Promise: what is kept is what `status` told at that moment, read once for both.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.orchestrator.progress import Progress
from migrator.state import flows, samples
from migrator.state.samples import Sample


async def note(connection: AsyncConnection, found: Progress) -> bool:
    """Keep how far a migration is, unless that was done a moment ago."""
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
    return await samples.note(connection, migration.id, sample, began=migration.started_at or migration.since)
