"""Validation: every gate measured, its verdict stored, and the migration moved by what they say.

Floor 2. Promise: `ready` means that every gate's newest verdict passed or was waived with a name and a reason. Rows
found without a vector send the migration back to be embedded and proved again; any other failure pauses it.
"""

from __future__ import annotations

import secrets

from migrator.errors import GateFailed
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.spending.asking import make_embedder
from migrator.spending.worker import Worker
from migrator.state import leases, migrations, verdicts
from migrator.state.budget import Purpose
from migrator.state.connection import transaction
from migrator.state.leases import Lease
from migrator.state.migrations import Migration
from migrator.state.verdicts import Verdict
from migrator.validation import gates, structure
from migrator.validation.structure import Structure

_SEEDS = 2**31


async def run(worker: Worker, migration: Migration, lease: Lease) -> list[Verdict]:
    """Measure every gate of a migration that is `validating`, and move it on; returns the verdicts.

    Raises: GateFailed (the migration is paused then), LeaseLost, and what provider and purse raise.
    """
    looked, measured = await measure(worker, migration, lease)
    async with transaction(worker.engine) as connection:
        await leases.hold(connection, lease)
        found = await migrations.get_by_id(connection, migration.id)
        for verdict in measured:
            await verdicts.record(connection, migration.id, found.epoch, verdict)
        await leases.finish(connection, lease)
        if found.status is not MigrationStatus.VALIDATING:
            return measured
        failed = gates.failures(measured)
        if not failed:
            await migrations.move(connection, found, MigrationStatus.READY, actor=worker.holder)
            return measured
        if _only_uncovered(measured, looked):
            reason = "the structure gate found rows without a vector; they are embedded and proved again"
            await migrations.move(connection, found, MigrationStatus.BACKFILLING, actor=worker.holder, reason=reason)
            return measured
        await migrations.move(
            connection, found, MigrationStatus.PAUSED, actor=worker.holder, reason=f"a gate failed: {failed}"
        )
    raise GateFailed(migration.name, failed)


async def measure(worker: Worker, migration: Migration, lease: Lease) -> tuple[Structure, list[Verdict]]:
    """Measure the gates; no transaction is open while the provider is asked."""
    seed = secrets.randbelow(_SEEDS)
    found = await structure.measure(worker, migration, seed=seed)
    async with transaction(worker.engine, read_only=True) as connection:
        sampled = await gates.sample(connection, migration, rows=found.embedded, seed=seed)
    embedder = await make_embedder(worker, migration, Side.TO, lease, Purpose.VALIDATION)
    assigned = await gates.assignment(embedder, migration, sampled, embedded=found.embedded, seed=seed)
    return found, [*found.verdicts, assigned]


def _only_uncovered(measured: list[Verdict], looked: Structure) -> bool:
    failed = [verdict.gate for verdict in measured if not verdict.passed]
    return failed == [structure.STRUCTURE] and looked.bad == looked.uncovered
