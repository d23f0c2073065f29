"""Suspects: batches that wear out their attempts are halved until what is bad in them is alone.

Floor 2. Promise: one row that kills whoever works on it costs at most 5 * log2 n attempts of a batch of n rows, and
then it is quarantined; every other row of its batch is embedded. A batch that fails with an error is halved by pages
and fails for good at one page, since its reason is outside the rows; only silence, the end of a worker that could not
say why, counts against a row.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.backfill.landing import lanes_of
from migrator.generation import Side
from migrator.state import dispositions, splits
from migrator.state.dispositions import Disposition
from migrator.state.migrations import Migration
from migrator.state.splits import MAX_ATTEMPTS, Place
from migrator.target import facts

#: Silent ends of a batch of one row after which that row is quarantined. Three: a machine that is restarted twice in a
#: row is no reason to take a row out of search.
LAST_DEATHS = 3
#: The disposition's reason.
WORKER_DIED = "worker_died"


async def divide(connection: AsyncConnection, migration: Migration) -> None:
    """Halve what wore out, quarantine a row that is alone, fail a page that is alone."""
    for row in await splits.worn(connection, migration.id):
        if row.attempts >= MAX_ATTEMPTS and row.deaths < splits.MAX_DEATHS:
            await _by_pages(connection, migration, row)
        else:
            await _by_rows(connection, migration, row)


async def _by_pages(connection: AsyncConnection, migration: Migration, row: Row[Any]) -> None:
    if row.first_page == row.last_page:
        await splits.fail(connection, row)
    else:
        await splits.split_at(connection, migration, row, None)


async def _by_rows(connection: AsyncConnection, migration: Migration, row: Row[Any]) -> None:
    names = (migration.target_schema, migration.target_table)
    heap = await facts.heap(connection, *names, row.relation_oid, row.relation_file)
    if heap is None:
        await splits.calm(connection, row)  # the heap was rewritten: its next attempt only ends it
        return
    first, last = (row.first_page, row.first_item), (row.last_page, row.last_item)
    found = await lanes_of(migration, Side.TO, heap).read_places(connection, migration.id, first, last)
    if not found:
        await splits.calm(connection, row)
    elif len(found) > 1:
        page, item, _ = found[(len(found) - 1) // 2]
        await splits.split_at(connection, migration, row, Place(page, item))
    elif row.deaths >= LAST_DEATHS:
        gone = Disposition(found[0][2], "quarantined", WORKER_DIED)
        await dispositions.record(connection, migration.id, [gone])
        await splits.close(connection, row, quarantined=1)
