"""Recent rows: what was written since the look at every vector, looked at by itself while the migration waits (ready).

Floor 2. Promise: no row has to wait for its verdict to grow stale. Rows are known by the transactions that wrote them,
wherever they lie, and no other vector is taken out of TOAST for it. What is sound changes nothing, since it is only a
part of the table; a fault is a failed verdict, so cutover refuses by name until somebody looked.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.lifecycle import MigrationStatus
from migrator.spending.worker import Worker
from migrator.state import discriminants, leases, migrations, verdicts
from migrator.state.connection import transaction
from migrator.state.leases import Duty, Lease
from migrator.state.migrations import Migration
from migrator.state.verdicts import Verdict, Watermark
from migrator.target import watermark
from migrator.throttle import weigh
from migrator.validation import every_vector, structure
from migrator.validation.sentinel import SENTINEL, Learnt, Suspects
from migrator.validation.structure import STRUCTURE, Faults

#: Seconds between two looks: reading the heap without its TOAST takes a second for a million rows.
EVERY_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Recent:
    """What was looked at, and the verdicts that failed."""

    rows: int
    failed: list[Verdict]


async def since(connection: AsyncConnection, migration: Migration) -> tuple[str, float] | None:
    """Return from which transaction on rows were not looked at, and how many the whole look would let be accused.

    None where nothing was written, or nothing holds: only a whole look that passed, under this epoch, is gone on from.
    """
    newest = {row.gate: row for row in await verdicts.newest(connection, migration.id)}
    now = await watermark.read(connection, migration)
    row = newest.get(STRUCTURE)
    if row is None or now is None or SENTINEL not in newest:
        return None
    then = Watermark.restore(row.watermark)
    settled = all(newest[gate].passed and not newest[gate].retired for gate in (STRUCTURE, SENTINEL))
    if then is None or then.xid is None or not settled or row.epoch != migration.epoch:
        return None
    return (then.xid, float(newest[SENTINEL].threshold)) if now.written_since(then) else None


async def is_due(connection: AsyncConnection, migration: Migration) -> bool:
    """Say whether something was written that nobody looked at for a while."""
    if migration.status is not MigrationStatus.READY or await since(connection, migration) is None:
        return False
    seconds = await leases.seconds_since_taken(connection, migration.id, Duty.RECENT)
    return seconds is None or seconds > EVERY_SECONDS


async def run(worker: Worker, migration: Migration, lease: Lease) -> str:
    """Look, and tell.

    Raises: Throttled, LeaseLost.
    """
    found = await look(worker, migration, heeds=True)
    async with transaction(worker.engine) as connection:
        await leases.finish(connection, lease)
    return f"{migration.name}: {found.rows} rows written since, {len(found.failed)} gates failed"


async def look(worker: Worker, migration: Migration, *, heeds: bool = False) -> Recent:
    """Look at what was written since, and store what fails.

    Raises: Throttled, where it `heeds` the database's signals; an operator who stands at the terminal does not wait.
    """
    began = time.monotonic()
    async with transaction(worker.engine, read_only=True) as connection:
        before = await watermark.read(connection, migration)
        begun = await since(connection, migration)
        rule = await discriminants.read(connection, migration.id)
    if begun is None:
        return Recent(0, [])

    async def heed(_: int) -> None:
        if heeds:
            await weigh.require(worker.engine, migration)

    frame = await every_vector.frame(worker, migration)
    xid, allowed = begun
    spans = [replace(span, since=xid) for span in frame.spans]
    dims = migration.to_generation.dims
    direction = rule.discriminant.direction if rule is not None else every_vector.by_chance(dims, 0)
    faults, suspects = Faults(), Suspects(Learnt(rule, None, 0, 0, 0.0))
    # Without a frame's last window, which would read the whole table at once: what moves meanwhile is the next look's.
    await every_vector.look(worker, migration, spans[:-1], direction, [faults, suspects], between=heed)
    took = time.monotonic() - began
    failed = [
        each
        for each in (structure.of_part(faults, suspects.rows, took), suspects.of_part(migration, allowed, took))
        if each
    ]
    async with transaction(worker.engine) as connection:
        # After a swap the names mean the other columns: what was looked at then says nothing.
        if (await migrations.get_by_id(connection, migration.id)).epoch != migration.epoch:
            return Recent(suspects.rows, [])
        for verdict in failed:
            await verdicts.record(connection, migration.id, migration.epoch, verdict, before)
    return Recent(suspects.rows, failed)
