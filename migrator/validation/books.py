"""Gates `canary` and `budget`: what the tool knows of the provider and of the money, looked at once more before a swap.

Floor 2. Promise: nothing is asked and nothing is spent here. The canary was asked by whoever began the validation.
"""

from __future__ import annotations

import time

from migrator.spending.worker import Worker
from migrator.state import budget, canary, leases
from migrator.state.connection import transaction
from migrator.state.leases import Lease
from migrator.state.migrations import Migration
from migrator.state.verdicts import Verdict

CANARY, BUDGET = "canary", "budget"


async def unchanged(worker: Worker, migration: Migration, lease: Lease, seed: int) -> list[Verdict]:
    """Say whether the canary's texts still come back as they did at the start."""
    del lease
    began = time.monotonic()
    async with transaction(worker.engine, read_only=True) as connection:
        found = await canary.find(connection, migration.id)
    threshold = migration.spec.gates.assignment_min_cosine
    if found is None:
        return [Verdict(CANARY, False, 0.0, threshold, 0, seed, "it was never asked", 0.0)]  # noqa: FBT003
    moved = found.moved_cosine is not None
    figure = found.lowest_cosine if found.moved_cosine is None else found.moved_cosine
    detail = f"lowest cosine of {len(found.probes)} texts in {found.checks} checks since the start"
    return [Verdict(CANARY, not moved, figure, threshold, found.checks, seed, detail, time.monotonic() - began)]


async def reconciled(worker: Worker, migration: Migration, lease: Lease, seed: int) -> list[Verdict]:
    """Say whether what is committed is what was spent, is reserved, or may have been billed."""
    del lease
    began = time.monotonic()
    async with transaction(worker.engine) as connection:
        # As every tick does: what is booked under a lease that ended will never have an outcome.
        for name in await leases.ended(connection, await budget.leases_with_open(connection, migration.id)):
            await budget.write_off(connection, lease=name)
        found = await budget.account(connection, migration.id)
    counted = found.spent_usd + found.reserved_usd + found.possibly_billed_usd
    difference = float(found.committed_usd - counted)
    detail = (
        f"USD committed beside the books: spent {found.spent_usd:.6f}, possibly billed {found.possibly_billed_usd:.6f},"
        f" in hand {found.reserved_usd:.6f}, committed {found.committed_usd:.6f} of {found.max_usd:.2f}"
    )
    return [Verdict(BUDGET, difference == 0, difference, 0.0, 1, seed, detail, time.monotonic() - began)]
