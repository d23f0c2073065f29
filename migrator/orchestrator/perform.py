"""Performing a ticket: claim it, do the work under a lease that is renewed, and put it where it belongs when it fails.

Floor 3. Promise (P3): a ticket that is stale, late or delivered twice does nothing. A shutdown, a busy provider, a
throttle, a window or a pause are no attempts; what can only be mended by somebody pauses the migration with the
reason; everything else counts as an attempt and is tried again later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from structlog.contextvars import bound_contextvars

from migrator.backfill import batch, catch_up, proof
from migrator.backfill.classify import TextTooLong
from migrator.backfill.proof import RowsLeft, VectorsWithoutText
from migrator.canary import watch
from migrator.errors import AtRest, Defect, GateFailed, MigratorError, OperatorError, TransientError
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import telling
from migrator.provider.giving_up import ProviderBusy
from migrator.spending import hours
from migrator.spending.hours import OutOfHours, WindowCloses
from migrator.spending.purse import BreakerOpen, PaceWait, WorkStopped
from migrator.spending.renewal import renewed
from migrator.spending.worker import Worker
from migrator.state import dirty, leases, migrations
from migrator.state.budget import CapReached
from migrator.state.canary import CanaryMoved, OldModelAnswered
from migrator.state.connection import transaction
from migrator.state.leases import Duty, Kind, Lease, LeaseLost, Ticket
from migrator.state.migrations import Migration
from migrator.throttle.weigh import Throttled
from migrator.tracing import span
from migrator.validation import indexing, recent, validate, written

logger = logging.getLogger(__name__)

#: Seconds before work that failed is offered again: doubled with each attempt, up to two minutes.
_BACKOFF_SECONDS, _LONGEST_BACKOFF_SECONDS = 2.0, 120.0
#: Seconds after which verdicts that could not be renewed, or a debt that could not be settled, are tried again.
_RENEWAL_SECONDS = 600.0
#: Seconds for which the provider is left alone after one batch's patience with it was over.
_BUSY_SECONDS = 10.0
#: Duties that one call does from its lease to its line.
_WHOLE: dict[Duty | None, Callable[[Worker, Migration, Lease], Awaitable[str]]] = {
    Duty.PROVE: proof.run,
    Duty.INDEX: indexing.run,
    Duty.RECENT: recent.run,
    Duty.HOOKS: telling.run,
}
#: Work that is bulk from its first request on; the others look themselves, or must not wait.
_IN_HOURS: frozenset[Duty | None] = frozenset({None, Duty.VALIDATE, Duty.SETTLE})


async def perform(worker: Worker, ticket: Ticket) -> str:
    """Do what a ticket says, if it is still to be done; returns a line about it for Flower and the log.

    Raises: Defect, after the work was given back.
    """
    claiming = asyncio.create_task(_claim(worker, ticket))
    try:
        claimed = await asyncio.shield(claiming)
    except asyncio.CancelledError:
        # The claim may be committed already, and a lease that nobody knows of holds everybody up until it runs out.
        # Whatever becomes of that, the shutdown goes on.
        with contextlib.suppress(MigratorError):
            claimed = await claiming
            if claimed is not None:
                await asyncio.shield(_give_back(worker, claimed[1], failure="shut down", counts=False))
        raise
    if claimed is None:
        return "stale ticket"
    migration, lease, duty = claimed
    work, _, turn = ticket.label.removeprefix(f"{migration.name}.").rpartition(".")
    about: dict[str, str | int] = {"migration": migration.name, "batch": work, "attempt": int(turn[1:])}
    with bound_contextvars(**about), span("migrator.work", {f"migrator.{name}": told for name, told in about.items()}):
        return await perform_leased(worker, migration, lease, duty)


async def _claim(worker: Worker, ticket: Ticket) -> tuple[Migration, Lease, Duty | None] | None:
    """Claim a ticket's row; None where the ticket is stale."""
    async with transaction(worker.engine) as connection:
        lease = await leases.claim(connection, ticket, holder=worker.holder, seconds=worker.lease_seconds)
        if lease is None:
            return None
        migration = await migrations.get_by_id(connection, ticket.migration_id)
        duty = None if lease.kind is Kind.BATCH else await leases.duty_of(connection, lease)
        return migration, lease, duty


async def perform_leased(worker: Worker, migration: Migration, lease: Lease, duty: Duty | None) -> str:
    """Do the work of a lease that is held."""
    try:
        async with renewed(worker, lease):
            return await _work(worker, migration, lease, duty)
    except LeaseLost as error:
        # Whoever has it now is counted as the next attempt: without this line the log would begin with that.
        logger.warning("%s: %s", lease, error)
        return str(error)
    except asyncio.CancelledError:
        await asyncio.shield(_give_back(worker, lease, failure="shut down", counts=False))
        raise
    except MigratorError as error:
        if isinstance(error, CapReached) and error.is_own:
            await telling.cap_reached(worker.engine, migration)
        if await _can_wait(worker, migration, lease, duty, error):
            return f"{type(error).__name__}: {error.sentences()[0]}"
        return await _failed(worker, migration, lease, error)
    except Exception as error:
        logger.exception("unexpected %s in %s", type(error).__name__, lease)
        defect = Defect(f"{type(error).__name__} while working on {lease}")
        await _give_back(worker, lease, failure=type(error).__name__, counts=True, attempts=True)
        raise defect from None


async def _work(worker: Worker, migration: Migration, lease: Lease, duty: Duty | None) -> str:
    if duty in _IN_HOURS:
        # A ticket may come late, and the canary is asked before the purse looks at the hour.
        async with transaction(worker.engine, read_only=True) as connection:
            await hours.require(connection, migration)
    if duty in _WHOLE:
        return await _WHOLE[duty](worker, migration, lease)
    if duty is Duty.VALIDATE:
        # A late ticket, for which nothing is left to measure, asks only what a resume or the time asks for.
        await watch.keep(worker, migration, must=await validate.is_due(worker, migration))
        measured = await validate.run(worker, migration, lease)
        return f"{migration.name}: {sum(each.passed for each in measured)} of {len(measured)} gates passed"
    if duty is Duty.WATCH:
        looked = await written.shift(worker, migration, lease)
        return f"{looked.vectors} written vectors looked at, {looked.suspects} suspect"
    if duty is Duty.CATCH_UP:
        await _watch_catch_up(worker, migration)
        progress = await catch_up.shift(worker, migration, lease)
    elif duty is Duty.SETTLE:
        progress = await catch_up.shift(worker, migration, lease, debt=True)
    else:
        await watch.keep(worker, migration)
        progress = await batch.run(worker, lease)
    if progress.failure is not None:
        raise progress.failure
    if duty is not None:
        async with transaction(worker.engine) as connection:
            await leases.finish(connection, lease)
    return f"{progress.written} rows, {progress.tokens} tokens, {progress.quarantined} quarantined"


async def _watch_catch_up(worker: Worker, migration: Migration) -> None:
    """Ask the canary before rows get new vectors; where none is to be written, nothing is asked for days."""
    async with transaction(worker.engine) as connection:
        rows, _ = await dirty.count(connection, migration.id, Side.TO)
    if rows:
        await watch.keep(worker, migration)


async def _can_wait(
    worker: Worker, migration: Migration, lease: Lease, duty: Duty | None, error: MigratorError
) -> bool:
    """Put back what nothing need stop for: a renewal of verdicts while `ready`, the debt of a way back, hooks.

    Cutover refuses stale verdicts, and rollback settles what is owed. A canary that moved pauses as everywhere.
    """
    if duty is Duty.HOOKS:
        logger.warning("%s: %s", lease, error)
        await _give_back(worker, lease, failure=type(error).__name__, counts=True, attempts=True)
        return True
    renewal = duty is Duty.VALIDATE and migration.status is MigrationStatus.READY
    if not (renewal or duty is Duty.SETTLE) or isinstance(error, CanaryMoved | OldModelAnswered):
        return False
    if not isinstance(error, AtRest | OperatorError | TextTooLong) or (isinstance(error, BreakerOpen) and not renewal):
        return False
    logger.warning("%s: %s", lease, error)
    stopped = isinstance(error, WorkStopped | OutOfHours)
    seconds = _RENEWAL_SECONDS
    if stopped:
        # Nobody need look again until it is closed.
        seconds = error.seconds if isinstance(error, WindowCloses) else 0.0
    kind = None if stopped else type(error).__name__
    await _give_back(worker, lease, failure=kind, counts=False, after_seconds=seconds)
    if duty is Duty.SETTLE and not stopped:
        async with transaction(worker.engine) as connection:
            told = f"the old column is not kept fresh for the time being: {error.sentences()[0]}"
            await migrations.note(connection, migration.id, migration.status, told, worker.holder)
    return True


async def _failed(worker: Worker, migration: Migration, lease: Lease, error: MigratorError) -> str:
    """Put work that failed where it belongs; returns the line, or raises where somebody must look."""
    kind = type(error).__name__
    logger.warning("%s: %s", lease, error)
    if isinstance(error, GateFailed):
        return f"{kind}: {error}"
    if isinstance(error, WorkStopped | OutOfHours | Throttled):
        # Nobody need look again until it is closed.
        seconds = error.seconds if isinstance(error, WindowCloses) else 0.0
        await _give_back(worker, lease, failure=None, counts=False, after_seconds=seconds)
        if isinstance(error, OutOfHours):
            async with transaction(worker.engine) as connection:
                found = await migrations.get_by_id(connection, migration.id)
                binds = await hours.binding(connection, found) or "window"
                await migrations.set_binding(connection, migration.id, binds)
        return f"{kind}: {error.sentences()[0]}"
    if isinstance(error, PaceWait | BreakerOpen | ProviderBusy):
        seconds = _BUSY_SECONDS if isinstance(error, ProviderBusy) else error.seconds
        await _give_back(worker, lease, failure=kind, counts=False, after_seconds=seconds)
        return f"{kind}: {error.sentences()[0]}"
    if isinstance(error, AtRest | OperatorError | TextTooLong | RowsLeft | VectorsWithoutText):
        reason = f"{kind}: {error.sentences()[0]}"
        async with transaction(worker.engine) as connection:
            rests = await migrations.pause(connection, migration.id, reason=reason, actor=worker.holder)
            if not rests:
                # A status that can't rest (rolled_back): it is tried again, slowly, and what binds is said.
                await migrations.set_binding(connection, migration.id, reason)
        await _give_back(worker, lease, failure=kind, counts=False, after_seconds=0.0 if rests else _BUSY_SECONDS)
        return f"{kind}: {error}"
    await _give_back(worker, lease, failure=kind, counts=True, attempts=True)
    if isinstance(error, TransientError):
        return f"{kind}: {error.sentences()[0]}"
    raise error


async def _give_back(
    worker: Worker,
    lease: Lease,
    *,
    failure: str | None,
    counts: bool,
    attempts: bool = False,
    after_seconds: float = 0.0,
) -> None:
    async with transaction(worker.engine) as connection:
        if attempts:
            tried = await leases.attempts(connection, lease)
            after_seconds = min(_BACKOFF_SECONDS * 2 ** max(tried - 1, 0), _LONGEST_BACKOFF_SECONDS)
        await leases.give_back(
            connection, lease, after_seconds=after_seconds, failure=failure, counts_as_attempt=counts
        )
