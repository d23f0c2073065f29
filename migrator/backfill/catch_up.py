"""Catch-up: rows written meanwhile get their vectors, whichever side they lack.

Floor 2. Promise (P5): `dirty` is a hint and nothing more. A row is embedded only where its column is NULL now; ten
edits of it are one request; an id is deleted only in the transaction that fills the row, or that finds nothing to fill.
Until then the row is nobody else's: windows pass over it. A row whose text kills its workers is found by asking for
ever fewer rows at once, and quarantined.
The sides: the live column is always kept whole, and the new generation's as long as it is wanted. While the rollback
window is open the old one is kept whole too where the operator pays for it, as work of its own: a model that its
provider withdraws must not keep searched rows from their vectors.
"""

from __future__ import annotations

import asyncio
import contextlib

from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.backfill import batch, suspects
from migrator.backfill.embedding import Progress, embed_and_land
from migrator.backfill.landing import lanes_of
from migrator.generation import Side
from migrator.lifecycle import UNATTENDED, MigrationStatus
from migrator.spending.asking import make_embedder
from migrator.spending.worker import Worker
from migrator.state import batches, dirty, dispositions, flows, leases, migrations
from migrator.state.budget import Purpose
from migrator.state.connection import transaction
from migrator.state.dirty import Hints
from migrator.state.dispositions import Disposition
from migrator.state.leases import Lease
from migrator.state.migrations import Migration
from migrator.target.lanes import Row

#: Hints read at once: a few dozen requests of work.
HINTS = 500
#: Keys above which hints no longer wait for the pass: every window looks them up, so they must stay few.
DEFERRED_KEYS = 10_000
#: Seconds for which a row must be left alone before its new generation is embedded: a form that saves at every key is
#: paid once. The live column's rows are missing from search, and do not wait.
QUIET_SECONDS = 1.0
#: Bits by which one more silent end makes a handful smaller: 500, 125, 31, 7, 1.
_SMALLER_BITS = 2
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


def owes(migration: Migration) -> bool:
    """Say whether the old generation's vectors are to be written now, so that a way back owes nothing."""
    return migration.keep_fresh and migration.status is MigrationStatus.COMPLETED


async def is_deferred(connection: AsyncConnection, migration: Migration) -> bool:
    """Say whether the shadow column's hints wait for the end of the pass: a row edited ten times is then paid once."""
    if not await batches.any_open(connection, migration.id):
        return False
    keys, _ = await dirty.count(connection, migration.id, Side.TO)
    return defers(keys)


def defers(keys: int) -> bool:
    """Say whether so many dirty keys may wait for the end of a pass that is under way."""
    return keys < DEFERRED_KEYS


async def once(
    worker: Worker,
    migration: Migration,
    lease: Lease,
    side: Side,
    purpose: Purpose,
    *,
    allowed: frozenset[MigrationStatus] = UNATTENDED,
    quiet_seconds: float = 0.0,
) -> Progress | None:
    """Work off one handful of hints of rows that were left alone for `quiet_seconds`, and that nobody holds.

    Returns None where there is nothing to do now.

    Raises: LeaseLost, TextTooLong, KeyMissing; other failures come in the progress.
    """
    async with transaction(worker.engine) as connection:
        # Before the column is resolved: hints that a swap overtook would be held against the other one (H4).
        await lanes_of(migration, side).lock_table(connection)
        migration = await migrations.get_by_id(connection, migration.id)
        limit = max(1, HINTS >> _SMALLER_BITS * await leases.deaths(connection, lease))
        hints = await dirty.read(connection, migration.id, side, limit=limit, quiet_seconds=quiet_seconds)
        if not hints:
            return None
        if limit == 1 and await _has_killed(connection, migration, side, hints):
            return Progress(quarantined=1)
        todo, settled = await _to_fill(connection, migration, side, hints)
    if not todo:
        return Progress() if settled else None
    # An operator who stands at the terminal, and searches that miss rows, do not wait for the night.
    urgent = side is migration.live_side or purpose is Purpose.ROLLBACK_DEBT
    embedder = await make_embedder(worker, migration, side, lease, purpose, windows_apply=not urgent, allowed=allowed)
    found = batch.classified(todo, embedder, migration)
    landing = batch.make_landing(migration, side, lease, hints)
    if found.dispositions:
        async with transaction(worker.engine) as connection:
            await landing.dispose(connection, found.dispositions, last=False)
    if not found.work:
        return Progress()
    progress = await embed_and_land(worker, embedder, landing, found.work)
    async with transaction(worker.engine) as connection:
        await flows.count_embedded(connection, migration.id, progress.written)
        if limit == 1:  # we live
            await dispositions.withdraw(connection, migration.id, [found.work[0].row.key] if side is Side.TO else [])
            await dirty.forgive(connection, hints.ids(list(hints.by_key)))
    return progress


async def _to_fill(
    connection: AsyncConnection, migration: Migration, side: Side, hints: Hints
) -> tuple[list[Row], bool]:
    """Return the rows to be embedded now, and whether hints of others were settled: read and deleted together."""
    keys, lanes = list(hints.by_key), lanes_of(migration, side)
    known = {each.row.key: each for each in await lanes.read_keys(connection, migration.id, keys)}
    # Nothing to fill: the row is gone, has its vector, or is out of scope.
    untrue = [key for key in keys if key not in known or not (known[key].missing and known[key].in_scope)]
    await dirty.park(connection, migration.id, side, [key for key in untrue if key in known and known[key].parks])
    await dirty.settle(connection, hints.ids(untrue))
    await dispositions.withdraw(connection, migration.id, untrue if side is Side.TO else [])
    wanted = [key for key in keys if key not in set(untrue)]
    # What the application holds for long would be paid for again and again. Its hints wait.
    free = await lanes.free_keys(connection, wanted) if wanted else frozenset()
    return [known[key].row for key in wanted if key in free], bool(untrue)


async def _has_killed(connection: AsyncConnection, migration: Migration, side: Side, hints: Hints) -> bool:
    """Give up a lone row that killed its workers; else write down, before it is tried, that it is to blame then."""
    (key,) = hints.by_key
    if side is Side.FROM:
        # Dispositions are the new generation's: here the hint itself counts, and the history says what was given up.
        if await dirty.count_try(connection, hints.ids([key])) < suspects.LAST_DEATHS:
            return False
        told = f"{suspects.WORKER_DIED}: a row was given up that lacks its {migration.generation(side)} vector"
        await migrations.note(connection, migration.id, migration.status, told, "catch-up")
        await dirty.settle(connection, hints.ids([key]))
        return True
    if await dispositions.attempts(connection, migration.id, key, suspects.WORKER_DIED) >= suspects.LAST_DEATHS:
        await dirty.settle(connection, hints.ids([key]))
        return True
    will = Disposition(key, "quarantined", suspects.WORKER_DIED)
    await dispositions.record(connection, migration.id, [will])
    return False


async def _any_left(worker: Worker, migration: Migration, *, deferred: bool) -> bool:
    async with transaction(worker.engine) as connection:
        kept = sides(migration, deferred=deferred)
        return any([await dirty.any_left(connection, migration.id, side) for side in kept])


async def shift(
    worker: Worker, migration: Migration, lease: Lease, *, seconds: float = SHIFT_SECONDS, debt: bool = False
) -> Progress:
    """Keep the sides fresh for a while, looking again as soon as everything is done; or, of the `debt`, the old one.

    A worker that is leaving takes up no further handful.

    Raises: LeaseLost, TextTooLong, KeyMissing; other failures come in the progress.
    """
    loop = asyncio.get_running_loop()
    until, total = loop.time() + seconds, Progress()
    while loop.time() < until and not worker.leaving.is_set():
        async with transaction(worker.engine) as connection:
            migration = await migrations.get_by_id(connection, migration.id)
            deferred = await is_deferred(connection, migration)
        worked = False
        if debt and not owes(migration):
            return total
        for side in [Side.FROM] if debt else dict.fromkeys(sides(migration, deferred=deferred)):
            if worker.leaving.is_set():
                break
            quiet = 0.0 if side is migration.live_side else QUIET_SECONDS
            purpose = Purpose.KEEP_FRESH if debt else Purpose.CATCH_UP
            progress = await once(worker, migration, lease, side, purpose, quiet_seconds=quiet)
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
            if migration.status is MigrationStatus.BACKFILLING and not await _any_left(
                worker, migration, deferred=deferred
            ):
                return total  # the proof waits for us
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(worker.leaving.wait(), IDLE_SECONDS)
    return total
