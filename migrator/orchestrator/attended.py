"""Attended steps: validate again, cut over, roll back, clean up, in somebody's terminal under the migration's lease.

Floor 3. Promise: one of them at a time per migration; each tells what it waits for; each ends with the migration where
it says, whatever was interrupted. They use the same catch-up as the workers, so they also work when no worker is alive.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from migrator.backfill import catch_up
from migrator.canary import watch
from migrator.cutover import cleaning, not_null, readiness, swapping
from migrator.cutover.cleaning import NOTHING_LEFT, Left, Leftover
from migrator.cutover.readiness import OldSnapshots
from migrator.cutover.swapping import CUTOVER, ROLLBACK, Direction
from migrator.errors import MigratorError, StatusConflict
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import blocking, suspicious, telling, trust
from migrator.orchestrator.attendance import (
    Attended,
    NotConverging,
    Tell,
    attending,
    dirty_rows,
    fresh,
    on_wait,
    settle,
    until_embedded,
)
from migrator.spending.renewal import renewed
from migrator.spending.worker import Worker
from migrator.state import forgetting, leases, looks, migrations, verdicts
from migrator.state.connection import TooDirty, transaction
from migrator.state.leases import Duty, Lease
from migrator.state.migrations import Migration
from migrator.state.verdicts import Verdict
from migrator.target.message import Cancel, OnWait, Timing
from migrator.target.swap import Bounds
from migrator.validation import recent
from migrator.validation import validate as validation

S = MigrationStatus
#: Rows that may be without a vector at the swap, and for how long the oldest of them: absent from search for about a
#: second, never wrong (design of the swap: the provider can't be asked under the lock).
MAX_DIRTY_ROWS, MAX_DIRTY_SECONDS = 100, 5.0
#: Seconds for which old snapshots are waited for.
SNAPSHOT_PATIENCE_SECONDS = 60.0
#: No bound: the operator said so.
_WHATEVER_IS_OWED = Bounds(2**62, 1e12)
#: Swaps that found too many rows under the lock, although there were few enough a moment before.
_DIRTY_TRIES = 5


@dataclass(frozen=True, slots=True)
class Swapped:
    """What a swap did: how long the lock was held, rows without a vector then, and seconds until the last had one."""

    timing: Timing
    absent_rows: int
    absent_seconds: float | None


@dataclass(frozen=True, slots=True)
class _How:
    """Who does a step, who is told of it, and what cancels those in its way."""

    actor: str
    tell: Tell
    cancel: Cancel | None

    async def swap(self, worker: Worker, migration: Migration, direction: Direction, bounds: Bounds) -> Timing:
        return await swapping.swap(
            worker.engine,
            migration,
            direction,
            bounds=bounds,
            actor=self.actor,
            on_wait=on_wait(self.tell),
            cancel=self.cancel,
        )


async def swappable(worker: Worker, name: str, direction: Direction) -> Migration:
    """Return a migration that may be swapped that way.

    Raises: MigrationUnknown, StatusConflict.
    """
    migration = await _get(worker, name)
    needed = S.READY if direction is CUTOVER else S.COMPLETED
    # The way back stays open through a pause.
    found = {migration.status, migration.paused_from} if direction is ROLLBACK else {migration.status}
    if needed not in found:
        raise StatusConflict(name, direction.verb, needed, migration.status, f"migrator status {name}")
    migration.refuse_unseen()
    return migration


async def cut_over(
    worker: Worker,
    name: str,
    *,
    max_dirty_rows: int,
    actor: str,
    tell: Tell,
    keep_fresh: bool | None = None,
    cancel_blockers: bool = False,
) -> Swapped:
    """Make the new generation live; with `keep_fresh` the old column is kept whole from then on, and paid for.

    With `cancel_blockers` what others run on the table is cancelled behind the first try.

    Raises: StatusConflict, Attended, CanaryMoved, GateFailed, NotSwappable, OldSnapshots, NotConverging,
    LockNotObtained.
    """
    migration = await swappable(worker, name, CUTOVER)
    async with telling.cutting_over(worker.engine, migration), attending(worker, migration, "cutover"):
        async with transaction(worker.engine) as connection:
            await trust.refuse_moved(connection, migration)
        await recent.look(worker, migration)
        await readiness.gates(worker.engine, migration)
        await suspicious.refuse(worker, migration, CUTOVER)
        await readiness.look(worker.engine, migration, verb="cutover")
        await _old_snapshots_gone(worker, migration, tell)
        if keep_fresh is not None:
            async with transaction(worker.engine) as connection:
                await migrations.change(connection, migration.id, keep_fresh=keep_fresh)
        how = _How(
            actor, tell, blocking.canceller(worker.engine, migration, "cutover", actor, tell, asked=cancel_blockers)
        )
        return await _swap(worker, migration, CUTOVER, how, max_dirty_rows)


async def rehearse(worker: Worker, name: str, *, max_dirty_rows: int, actor: str) -> tuple[Timing, str]:
    """Do the whole cutover and roll it back; returns how long each step held the lock, and the SQL.

    Where too many rows lack their vector at that moment it waits for catch-up, and is tried again as a cutover is.
    Raises: StatusConflict, NotSwappable, LockBusy, TooDirty.
    """
    migration = await swappable(worker, name, CUTOVER)
    bounds = Bounds(max_dirty_rows, MAX_DIRTY_SECONDS if max_dirty_rows else 0.0)
    for _ in range(_DIRTY_TRIES - 1):
        # Looked at before as well: each try holds the lock.
        if await dirty_rows(worker, migration, CUTOVER.side) <= max_dirty_rows:
            with contextlib.suppress(TooDirty):
                return await swapping.rehearse(worker.engine, migration, CUTOVER, bounds=bounds, actor=actor)
        await asyncio.sleep(catch_up.QUIET_SECONDS)
    return await swapping.rehearse(worker.engine, migration, CUTOVER, bounds=bounds, actor=actor)


async def roll_back(
    worker: Worker,
    name: str,
    *,
    max_dirty_rows: int,
    actor: str,
    tell: Tell,
    leave_debt: bool = False,
    cancel_blockers: bool = False,
) -> Swapped:
    """Make the old generation live again, after settling what it lacks.

    With `leave_debt` nothing is asked of the old model before the swap: the rows that lack its vector are absent from
    search until somebody embeds them. It is the way back when that model can't be asked, or not paid.

    Raises: StatusConflict, Attended, SuspectsWritten, NotSwappable, NotConverging, CapReached, LockNotObtained.
    """
    migration = await swappable(worker, name, ROLLBACK)
    async with attending(worker, migration, "rollback"):
        await suspicious.refuse(worker, migration, ROLLBACK)
        how = _How(
            actor, tell, blocking.canceller(worker.engine, migration, "rollback", actor, tell, asked=cancel_blockers)
        )
        if leave_debt:
            return await _swap_owing(worker, migration, how)
        return await _swap(worker, migration, ROLLBACK, how, max_dirty_rows)


async def validate(
    worker: Worker, name: str, *, actor: str, tell_verdict: Callable[[Verdict], None] = lambda _: None
) -> list[Verdict]:
    """Measure the gates again; the migration is `ready` afterwards, or paused; `validating` if cut short.

    Every verdict is taken back first, unless a validation is under way: then only what is left of it is measured.

    Raises: StatusConflict, Attended, GateFailed, and what provider and purse raise.
    """
    async with transaction(worker.engine) as connection:
        migration = await migrations.get(connection, name)
        if migration.status is S.READY or migration.paused_from is S.VALIDATING:
            await migrations.move(connection, migration, S.VALIDATING, actor=actor)
            await verdicts.retire(connection, migration.id)
            await looks.forget(connection, migration.id)
        elif migration.status is not S.VALIDATING:
            raise StatusConflict(name, "validate", "ready, or paused by a gate", migration.status)
        migration = await migrations.get(connection, name)
        lease = await leases.take(
            connection, migration.id, Duty.VALIDATE, holder=worker.holder, seconds=worker.lease_seconds
        )
        if lease is None:
            raise Attended(name, "validate")  # and the move is rolled back
    try:
        async with renewed(worker, lease):
            await watch.keep(worker, migration, must=True)
            return await validation.run(worker, migration, lease, tell=tell_verdict)
    except MigratorError:
        # Still `validating`: a worker goes on with it, and pauses it if it fares no better.
        async with transaction(worker.engine) as connection:
            await leases.give_back(connection, lease, counts_as_attempt=False)
        raise


async def what_is_left(worker: Worker, name: str, *, close_window: bool, strays_gone: bool) -> list[Leftover]:
    """Return what `clean_up` would drop.

    Raises: MigrationUnknown, WindowOpen, StraysSeen.
    """
    migration = await _get(worker, name)
    await cleaning.refuse_early(worker.engine, migration, close_window=close_window, strays_gone=strays_gone)
    return await cleaning.objects(worker.engine, migration)


async def clean_up(
    worker: Worker,
    name: str,
    *,
    close_window: bool,
    strays_gone: bool,
    actor: str,
    tell: Tell,
    left: Left = NOTHING_LEFT,
    cancel_blockers: bool = False,
) -> list[Leftover]:
    """Drop what is no longer needed, and put back what was taken off meanwhile; returns what was dropped.

    Raises: CaptureOff, StatusConflict, Attended, WindowOpen, StraysSeen, RowsWithoutVector, NotNullUnproved,
    NotConverging, LockNotObtained.
    """
    migration = await _get(worker, name)
    if migration.status is S.CLEANED:
        await not_null.finish(worker.engine, migration, on_wait=on_wait(tell))
        return []
    allowed = {S.COMPLETED, S.ROLLED_BACK, S.CANCELLED, S.CLEANING}
    if migration.status not in allowed:
        raise StatusConflict(name, "cleanup", "cancelled, rolled back or completed", migration.status)
    async with transaction(worker.engine, read_only=True) as connection:
        await cleaning.refuse_unseen(connection, migration)
    await cleaning.refuse_early(worker.engine, migration, close_window=close_window, strays_gone=strays_gone)
    async with attending(worker, migration, "cleanup") as lease:
        if migration.status is not S.CLEANING and not left.debt:
            # While it can still go elsewhere: what can't be embedded keeps nobody in the middle of cleaning up.
            await fresh(worker, migration, migration.live_side, Bounds(0, 0), "cleanup", tell)
        if not left.nullable:
            await not_null.refuse(worker.engine, migration, debt_is_left=left.debt)
        if migration.status is not S.CLEANING:
            async with transaction(worker.engine) as connection:
                # Looked at once more where `unblock` can't come between: catching up took its time.
                await cleaning.refuse_unseen(connection, await migrations.hold(connection, name))
                await migrations.move(connection, migration, S.CLEANING, actor=actor)
        dropped = await cleaning.objects(worker.engine, migration)
        await cleaning.drop_indexes(worker.engine, migration)
        cancel = blocking.canceller(worker.engine, migration, "cleanup", actor, tell, asked=cancel_blockers)
        await _drop_the_rest(worker, await _get(worker, name), lease, left, actor, on_wait(tell), cancel)
        return dropped


async def _drop_the_rest(
    worker: Worker, migration: Migration, lease: Lease, left: Left, actor: str, told: OnWait, cancel: Cancel | None
) -> None:
    for _ in range(_DIRTY_TRIES):
        if not left.debt:
            await settle(worker, migration, lease, migration.live_side, frozenset({S.CLEANING}))
        try:
            await cleaning.drop_the_rest(worker.engine, migration, actor=actor, on_wait=told, cancel=cancel, left=left)
        except TooDirty:
            continue
        await not_null.finish(worker.engine, migration, on_wait=told)
        return
    raise NotConverging(migration.name, "cleanup", await dirty_rows(worker, migration, migration.live_side))


async def forget_state(worker: Worker, name: str) -> int:
    """Forget what was there for the work of a migration that is cleaned up; returns how many rows.

    Raises: MigrationUnknown, StatusConflict.
    """
    migration = await _get(worker, name)
    if migration.status is not S.CLEANED:
        raise StatusConflict(name, "cleanup --forget-state", S.CLEANED, migration.status)
    async with transaction(worker.engine) as connection:
        return await forgetting.forget_work(connection, migration.id)


async def _swap(worker: Worker, migration: Migration, direction: Direction, how: _How, max_dirty_rows: int) -> Swapped:
    bounds = Bounds(max_dirty_rows, MAX_DIRTY_SECONDS if max_dirty_rows else 0.0)
    for _ in range(_DIRTY_TRIES):
        await fresh(worker, migration, direction.side, bounds, direction.verb, how.tell)
        try:
            timing = await how.swap(worker, migration, direction, bounds)
        except TooDirty:
            continue
        return Swapped(timing, timing.dirty_rows, await until_embedded(worker, migration, direction.side))
    raise NotConverging(migration.name, direction.verb, await dirty_rows(worker, migration, direction.side))


async def _swap_owing(worker: Worker, migration: Migration, how: _How) -> Swapped:
    rows = await dirty_rows(worker, migration, Side.FROM)
    how.tell(f"{rows:,} rows lack their {migration.from_generation} vector and will be absent from search")
    timing = await how.swap(worker, migration, ROLLBACK, _WHATEVER_IS_OWED)
    return Swapped(timing, rows if timing.lost else timing.dirty_rows, None)


async def _old_snapshots_gone(worker: Worker, migration: Migration, tell: Tell) -> None:
    loop = asyncio.get_running_loop()
    until, told = loop.time() + SNAPSHOT_PATIENCE_SECONDS, False
    while True:
        holders = await readiness.old_snapshots(worker.engine, migration)
        if not holders:
            return
        if loop.time() > until:
            raise OldSnapshots(migration.name, "cutover", holders)
        if not told:
            tell("waiting for transactions from before the last vectors: " + "; ".join(map(str, holders)))
            told = True
        await asyncio.sleep(0.5)


async def _get(worker: Worker, name: str) -> Migration:
    async with transaction(worker.engine) as connection:
        return await migrations.get(connection, name)
