"""Catch-up: rows written meanwhile get their vectors, whichever side they lack.

Floor 2. Promise (P5): `dirty` is a hint and nothing more. A row is embedded only where its column is NULL now; ten
edits of it are one request; an id is deleted only in the transaction that fills the row, or that finds nothing to fill.
Until then the row is nobody else's: windows pass over it.
The sides: the live column is always kept whole, and the new generation's as long as it is wanted.
"""

from __future__ import annotations

import asyncio

from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.backfill import batch
from migrator.backfill.classify import classify
from migrator.backfill.embedding import Progress, embed_and_land
from migrator.backfill.landing import lanes_of
from migrator.generation import Side
from migrator.lifecycle import UNATTENDED, MigrationStatus
from migrator.spending.asking import make_embedder
from migrator.spending.worker import Worker
from migrator.state import batches, dirty, dispositions, migrations
from migrator.state.budget import Purpose
from migrator.state.connection import transaction
from migrator.state.leases import Lease
from migrator.state.migrations import Migration

#: Hints read at once: a few dozen requests of work.
HINTS = 500
#: Keys above which hints no longer wait for the pass: every window looks them up, so they must stay few.
DEFERRED_KEYS = 10_000
#: Seconds between two looks at an empty `dirty`, and how long one holder keeps looking before `tick` offers the duty
#: anew: rows that a forgotten writer left without a vector are absent from search for about the first, and a worker
#: that is asked to stop does so within the second.
IDLE_SECONDS, SHIFT_SECONDS = 0.5, 10.0


def sides(migration: Migration, *, deferred: bool) -> list[Side]:
    """Return the sides to keep fresh now; the shadow column's may be deferred."""
    live = migration.live_side
    if migration.status in {MigrationStatus.COMPLETED, MigrationStatus.ROLLED_BACK}:
        return [live]
    return [live] if deferred else [live, Side.TO]


async def is_deferred(connection: AsyncConnection, migration: Migration) -> bool:
    """Say whether the shadow column's hints wait for the end of the pass: a row edited ten times is then paid once."""
    if not await batches.any_open(connection, migration.id):
        return False
    keys, _ = await dirty.count(connection, migration.id, Side.TO)
    return keys < DEFERRED_KEYS


async def once(
    worker: Worker,
    migration: Migration,
    lease: Lease,
    side: Side,
    purpose: Purpose,
    *,
    allowed: frozenset[MigrationStatus] = UNATTENDED,
) -> Progress | None:
    """Work off one handful of hints; None when there were none.

    Raises: LeaseLost, TextTooLong, KeyMissing; other failures come in the progress.
    """
    async with transaction(worker.engine) as connection:
        migration = await migrations.get_by_id(connection, migration.id)
        hints = await dirty.read(connection, migration.id, side, limit=HINTS)
        if not hints:
            return None
        keys = list(hints.by_key)
        known = {each.row.key: each for each in await lanes_of(migration, side).read_keys(connection, keys)}
        untrue = [key for key in keys if key not in known or not (known[key].missing and known[key].in_scope)]
        # Nothing to fill: the row is gone, has its vector, or is out of scope. Read and deleted in one transaction.
        await dirty.settle(connection, hints.ids(untrue))
        await dispositions.withdraw(connection, migration.id, untrue if side is Side.TO else [])
    todo = [known[key].row for key in keys if key not in set(untrue)]
    if not todo:
        return Progress()
    # An operator who stands at the terminal, and searches that miss rows, do not wait for the night.
    urgent = side is migration.live_side or purpose is Purpose.ROLLBACK_DEBT
    embedder = await make_embedder(worker, migration, side, lease, purpose, windows_apply=not urgent, allowed=allowed)
    found = classify(todo, limit_tokens=embedder.profile.max_text_tokens, too_long=migration.spec.limits.too_long)
    landing = batch.make_landing(migration, side, lease, hints)
    if found.dispositions:
        async with transaction(worker.engine) as connection:
            await landing.dispose(connection, found.dispositions, last=False)
    return await embed_and_land(worker, embedder, landing, found.work) if found.work else Progress()


async def shift(worker: Worker, migration: Migration, lease: Lease, *, seconds: float = SHIFT_SECONDS) -> Progress:
    """Keep the sides fresh for a while, looking again as soon as everything is done.

    Raises: LeaseLost, TextTooLong, KeyMissing; other failures come in the progress.
    """
    loop = asyncio.get_running_loop()
    until, total = loop.time() + seconds, Progress()
    while loop.time() < until:
        async with transaction(worker.engine) as connection:
            migration = await migrations.get_by_id(connection, migration.id)
            deferred = await is_deferred(connection, migration)
        worked = False
        for side in dict.fromkeys(sides(migration, deferred=deferred)):
            progress = await once(worker, migration, lease, side, Purpose.CATCH_UP)
            if progress is None:
                continue
            worked = True
            total.written += progress.written
            total.tokens += progress.tokens
            total.quarantined += progress.quarantined
            if progress.failure is not None:
                total.failure = progress.failure
                return total
        if not worked:
            if migration.status is MigrationStatus.BACKFILLING:
                return total  # the proof waits for us
            await asyncio.sleep(IDLE_SECONDS)
    return total
