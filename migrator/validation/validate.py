"""Validation: every gate measured, its verdict stored at once, and the migration moved by what they say.

Floor 2. Promise: `ready` means that every gate's newest verdict passed or was waived with a name and a reason. Each is
stored in a short transaction of its own as soon as it is known, so whoever takes over a validation that died measures
only what has no fresh one. Rows found without a vector send the migration back to be embedded and proved again; any
other failure pauses it. While it is `ready`, what grew stale is measured again where it stands: it stays `ready`, and
cutover goes by what was found.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sqlalchemy import Row

from migrator.errors import GateFailed
from migrator.events import Event
from migrator.lifecycle import TRANSITIONS, MigrationStatus
from migrator.spending.purse import WorkStopped
from migrator.spending.worker import Worker
from migrator.state import leases, looks, migrations, outbox, verdicts
from migrator.state.connection import transaction
from migrator.state.leases import Lease
from migrator.state.migrations import Migration
from migrator.state.verdicts import Verdict, Watermark
from migrator.target import dependents, facts, watermark
from migrator.target.capture import Capture
from migrator.throttle import weigh
from migrator.validation import ann_recall, books, churn, gates, latency, quality, sentinel, structure

S = MigrationStatus
Measure = Callable[[Worker, Migration, Lease, int], Awaitable[list[Verdict]]]
Tell = Callable[[Verdict], None]
_SEEDS = 2**31


async def _every_row(worker: Worker, migration: Migration, lease: Lease, seed: int) -> list[Verdict]:
    """Look at every row and every vector, once for three gates."""
    return (await structure.measure(worker, migration, seed=seed, lease=lease)).verdicts


#: In the order in which they are measured: what is wrong with single rows first, what costs money late. Each names the
#: verdicts that it gives, and takes (worker, migration, lease, seed).
GATES: tuple[tuple[tuple[str, ...], Measure], ...] = (
    ((structure.STRUCTURE, structure.QUARANTINED, sentinel.SENTINEL), _every_row),
    ((gates.ASSIGNMENT,), gates.assigned),
    ((ann_recall.ANN_RECALL,), ann_recall.measure),
    ((churn.CHURN,), churn.measure),
    ((latency.LATENCY,), latency.measure),
    ((quality.QUALITY,), quality.measure),
    ((books.CANARY,), books.unchanged),
    ((books.BUDGET,), books.reconciled),
)


def _silently(_: Verdict) -> None:
    return None


async def run(worker: Worker, migration: Migration, lease: Lease, *, tell: Tell = _silently) -> list[Verdict]:
    """Measure what has no fresh verdict, and move a migration that is `validating` on; returns what was measured.

    Raises: GateFailed (the migration is paused then), WorkStopped, LeaseLost, Throttled, and what provider and purse
    raise.
    """
    measured: list[Verdict] = []
    settled = await _settled(worker, migration)
    for names, measure in GATES:
        if settled.issuperset(names):
            continue
        await weigh.require(worker.engine, migration)
        async with transaction(worker.engine, read_only=True) as connection:
            before = await watermark.read(connection, migration)
        found = await measure(worker, migration, lease, secrets.randbelow(_SEEDS))
        await _store(worker, migration, lease, found, before)
        if all(each.passed for each in found if each.gate == structure.STRUCTURE):
            await _recognise(worker, migration)
        measured += found
        for verdict in found:
            tell(verdict)
        failed = [verdict for verdict in measured if not verdict.passed]
        if failed and all(verdict.mendable for verdict in failed) and migration.status is S.VALIDATING:
            await _send_back(worker, migration, lease)
            return measured
    await _conclude(worker, migration, lease)
    return measured


async def is_due(worker: Worker, migration: Migration) -> bool:
    """Say whether there is anything to measure: a ticket may come late, when somebody else has measured it all."""
    settled = await _settled(worker, migration)
    return any(not settled.issuperset(names) for names, _ in GATES)


async def _settled(worker: Worker, migration: Migration) -> set[str]:
    """Return the gates whose verdict stands: fresh, and where the migration is not `ready` also passed or waived.

    While it is `ready`, a gate that failed is not paid for again and again: cutover says so until somebody looks.
    """
    renewing = migration.status is S.READY
    async with transaction(worker.engine, read_only=True) as connection:
        newest = await verdicts.newest(connection, migration.id)
        now = await watermark.read(connection, migration)
    share = verdicts.RENEW_AT if renewing else 1.0
    return {
        row.gate
        for row in newest
        if verdicts.why_stale(row, migration, now, share=share) is None and (renewing or verdicts.is_settled(row))
    }


async def _store(
    worker: Worker, migration: Migration, lease: Lease, found: list[Verdict], before: Watermark | None
) -> None:
    """Keep what was measured, unless the columns changed places meanwhile.

    Raises: LeaseLost; WorkStopped, after what was paid for is kept.
    """
    async with transaction(worker.engine) as connection:
        await leases.hold(connection, lease)
        fresh = await migrations.get_by_id(connection, migration.id)
        if fresh.epoch == migration.epoch:
            for verdict in found:
                await verdicts.record(connection, migration.id, migration.epoch, verdict, before)
            if any(verdict.gate == structure.STRUCTURE for verdict in found):
                await looks.forget(connection, migration.id)
    if fresh.epoch != migration.epoch or fresh.status not in {S.VALIDATING, S.READY}:
        raise WorkStopped(fresh.name, fresh.status)


async def _recognise(worker: Worker, migration: Migration) -> None:
    """Take the table for the planned one under another number, as a restored dump has it: every row was looked at.

    Only with all of our triggers on it: without them it was written to unseen.
    """
    async with transaction(worker.engine) as connection:
        relation = await facts.relation(connection, migration.target_schema, migration.target_table)
        if relation is None:
            return
        found = await dependents.fingerprint(connection, relation.oid, migration.target_column)
        ours = {name for _, name in await facts.leftovers(connection, relation.oid)}
        planned, part = migration.fingerprint, dependents.TABLE
        if found[part] != planned[part] and ours.issuperset(Capture.of(migration).triggers.values()):
            await migrations.change(connection, migration.id, fingerprint={**planned, part: found[part]})


async def _send_back(worker: Worker, migration: Migration, lease: Lease) -> None:
    """Let the backfill embed rows that were found without a vector."""
    reason = "the structure gate found rows without a vector; they are embedded and proved again"
    async with transaction(worker.engine) as connection:
        await leases.finish(connection, lease)
        fresh = await migrations.get_by_id(connection, migration.id)
        if fresh.status is S.VALIDATING:
            await migrations.move(connection, fresh, S.BACKFILLING, actor=worker.holder, reason=reason)


async def _conclude(worker: Worker, migration: Migration, lease: Lease) -> None:
    """Move the migration by the newest verdicts of all gates.

    Raises: GateFailed, LeaseLost.
    """
    async with transaction(worker.engine) as connection:
        await leases.finish(connection, lease)
        fresh = await migrations.get_by_id(connection, migration.id)
        if fresh.status is not S.VALIDATING:
            return
        failed = failures(await verdicts.newest(connection, migration.id))
        reason = f"a gate failed: {failed}" if failed else TRANSITIONS[S.VALIDATING][S.READY]
        hooks = fresh.spec.hooks
        await outbox.write(connection, fresh.id, hooks, Event.VALIDATED, status=fresh.status, reason=reason)
        if not failed:
            await migrations.move(connection, fresh, S.READY, actor=worker.holder)
            return
        await migrations.move(connection, fresh, S.PAUSED, actor=worker.holder, reason=reason)
    raise GateFailed(migration.name, failed)


def failures(newest: Sequence[Row[Any]]) -> str:
    """Return the gates that neither passed nor were waived in one line, with figure, threshold and what was counted."""
    return "; ".join(
        f"{row.gate} is {row.figure:.6g} against {row.threshold:.6g} ({row.detail})"
        for row in newest
        if not verdicts.is_settled(row)
    )
