"""What slows or stops the backfill by itself: a provider that fails, and a provider that refuses too many texts.

Floor 3. Promise: a breaker that is open leaves the migration where it is, with one batch at a time to probe with, since
a provider comes back by itself. Too many failed batches or quarantined rows pause it: a wrong text template or a
moderated corpus does not mend itself, and every refusal costs requests. `resume` accepts what was seen, and counting
begins anew.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.generation import Side
from migrator.state import batches, breaker, dispositions, migrations, pace
from migrator.state.migrations import Migration
from migrator.state.tallies import Counts

#: Rows from which on a share means something: with one bad text in a thousand, the chance of eleven among the first
#: thousand is below one in a million. The share is the spec's own, of the gate that would fail at the end (1 %).
QUARANTINE_ROWS = 1000

#: Share of the batches tried lately that may fail, and the number from which on a share means something.
BREAKER_SHARE, BREAKER_BATCHES = 0.5, 50


async def fewer_while_open(connection: AsyncConnection, migration: Migration, limit: int) -> int:
    """Return how many tickets may be out: one while the breaker is open, and then say so."""
    terms = await pace.find(connection, pace.account_of(migration.spec.model_of(Side.TO)))
    since = breaker.words(terms) if terms is not None else None
    if since is None:
        return limit
    await migrations.set_binding(connection, migration.id, since)
    return 1


async def too_many_quarantined(connection: AsyncConnection, migration: Migration, counts: Counts) -> str | None:
    """Return why the migration has to be paused, and remember what was seen; None while all is well."""
    found = await dispositions.counts(connection, migration.id)
    quarantined = sum(count for (kind, _), count in found.items() if kind == dispositions.QUARANTINED)
    settled = counts.rows_done + quarantined
    seen = migration.quarantine_seen or {"settled": 0, "quarantined": 0}
    rows, bad = settled - seen["settled"], quarantined - seen["quarantined"]
    share = migration.spec.gates.max_quarantined_share
    if rows < QUARANTINE_ROWS or bad <= share * rows:
        return None
    await migrations.change(connection, migration.id, quarantine_seen={"settled": settled, "quarantined": quarantined})
    return f"{bad:,} of {rows:,} rows were quarantined, more than {100 * share:g} % (migrator rows {migration.name})"


async def broken(connection: AsyncConnection, migration: Migration, counts: Counts) -> str | None:
    """Say why no further batch should be tried, or None: most tried lately failed, or only failed ones are left.

    Lately, because a million batches that went well yesterday say nothing about what fails now.
    """
    where = f"migrator batches {migration.name} --failed"
    if counts.troubled > BREAKER_SHARE * BREAKER_BATCHES:
        tried, troubled = await batches.lately(connection, migration.id, limit=max(BREAKER_BATCHES, 2 * counts.leased))
        if tried >= BREAKER_BATCHES and troubled > BREAKER_SHARE * tried:
            return f"{troubled} of the last {tried} batches failed ({where})"
    if counts.failed and not counts.pending and not counts.leased:
        return f"{counts.failed} of {counts.done + counts.failed} batches failed ({where})"
    return None
