"""The tick: what is to be done now, read from Postgres, handed out as tickets.

Floor 3. Promise (P3): it may run twice at once, late, or not at all for a while, and nothing is lost or done twice: one
transaction a migration under a transaction-scoped advisory lock; it takes back expired leases, writes off what their
requests may have cost, weighs windows, signals and failures, and gives out at most W tickets. Tickets are published
after the commit; whoever loses one makes it good within two minutes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.backfill import catch_up
from migrator.backfill.proof import plan_pass
from migrator.generation import Side
from migrator.lifecycle import UNATTENDED, MigrationStatus
from migrator.orchestrator import progress
from migrator.state import batches, budget, dirty, leases, migrations, workers
from migrator.state.connection import transaction
from migrator.state.leases import Duty, Ticket
from migrator.state.migrations import Migration
from migrator.throttle import weigh
from migrator.windows import Window, is_open

S = MigrationStatus
#: Any fixed number: with a migration's id it makes the key of the tick's advisory lock.
_LOCK_CLASS = 0x6D67
#: Batches under way per worker slot: one being done and one waiting, so that no slot is idle between two ticks.
PER_SLOT = 2
#: With no worker to be seen: enough for the one that is about to come.
FEWEST_TICKETS = 4
#: Share of batches that may fail, and the number from which on a share means something.
BREAKER_SHARE, BREAKER_BATCHES = 0.5, 50

#: Nobody carries these on, but a worker may have died with something of theirs in hand: a pause ends with its lease.
RESTING = frozenset({S.PAUSED, S.CANCELLED})
#: What each status has to be done by one holder at a time, beside its batches.
_DUTIES = {
    S.INDEXING: Duty.INDEX,
    S.VALIDATING: Duty.VALIDATE,
}


@dataclass(slots=True)
class Tick:
    """What one tick hands out, and a line per migration: its progress bar."""

    tickets: list[Ticket] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return " || ".join(self.lines) or "nothing to do"


async def tick(engine: AsyncEngine, *, actor: str, only: str | None = None) -> Tick:
    """Look at every migration that workers carry on (or at `only` one) and hand out what is to be done."""
    made = Tick()
    async with transaction(engine) as connection:
        found = await migrations.list_all(connection, UNATTENDED)
        slots = sum(row.slots for row in await workers.alive(connection))
        for resting in await migrations.list_all(connection, RESTING):
            await _rescue(connection, resting)
    limit = max(FEWEST_TICKETS, PER_SLOT * slots)
    for migration in found:
        if only is not None and migration.name != only:
            continue
        binding = (await weigh.look(engine, migration.id)).binding
        async with transaction(engine) as connection:
            if not await _alone(connection, migration.id):
                continue
            fresh = await migrations.get_by_id(connection, migration.id)
            if fresh.status not in UNATTENDED:
                continue
            made.tickets += await _hand_out(connection, fresh, limit, actor, throttled=binding)
        async with transaction(engine) as connection:
            now = await migrations.get_by_id(connection, migration.id)
            made.lines.append(progress.line(await progress.read(connection, now)))
    return made


async def _alone(connection: AsyncConnection, migration_id: int) -> bool:
    query = text("SELECT pg_try_advisory_xact_lock(:lock_class, :id)")
    taken = await connection.execute(query, {"lock_class": _LOCK_CLASS, "id": migration_id})
    return bool(taken.scalar_one())


async def _hand_out(
    connection: AsyncConnection, migration: Migration, limit: int, actor: str, *, throttled: str | None
) -> list[Ticket]:
    await _rescue(connection, migration)
    windows = [Window.parse(each) for each in migration.windows]
    binding = throttled if is_open(windows, await migrations.database_now(connection)) else "window"
    resting = binding is not None
    if binding is not None:
        await migrations.set_binding(connection, migration.id, binding)
    tickets = await _catch_up(connection, migration, resting=resting)
    if resting:
        return tickets
    if migration.status is S.BACKFILLING:
        return tickets + await _backfill(connection, migration, limit, actor)
    duty = _DUTIES.get(migration.status)
    if duty is not None:
        tickets += await _offer(connection, migration, duty)
    return tickets


async def _rescue(connection: AsyncConnection, migration: Migration) -> None:
    """Take back leases that ran out; what their requests may have cost stays counted."""
    for lease in await leases.rescue(connection, migration.id):
        await budget.write_off(connection, lease=str(lease))


async def _backfill(connection: AsyncConnection, migration: Migration, limit: int, actor: str) -> list[Ticket]:
    if migration.pass_number == 0:
        await plan_pass(connection, migration)
    await batches.split_exhausted(connection, migration)
    counts = await batches.counts(connection, migration.id)
    tried = counts.done + counts.failed
    broken = tried >= BREAKER_BATCHES and counts.failed > BREAKER_SHARE * tried
    if broken or (counts.failed and not counts.pending and not counts.leased):
        reason = f"{counts.failed} of {tried} batches failed (migrator batches {migration.name} --failed)"
        await migrations.pause(connection, migration.id, reason=reason, actor=actor)
        return []
    tickets = await batches.offer(connection, migration, limit)
    if tickets or counts.pending or counts.leased:
        return tickets
    # Rows that are dirty are no obstacle: the proof knows of them, and under steady edits there are always some (H19).
    return tickets + await _offer(connection, migration, Duty.PROVE)


async def _catch_up(connection: AsyncConnection, migration: Migration, *, resting: bool) -> list[Ticket]:
    """Offer catch-up: always where rows missing from search wait for it, else when there is something to do."""
    live, _ = await dirty.count(connection, migration.id, migration.live_side)
    standing = migration.status in {S.READY, S.COMPLETED} and not resting
    shadow = 0
    if migration.live_side is Side.FROM and migration.status is not S.ROLLED_BACK and not resting:
        deferred = await catch_up.is_deferred(connection, migration)
        shadow = 0 if deferred else (await dirty.count(connection, migration.id, Side.TO))[0]
    if not (standing or live or shadow):
        return []
    return await _offer(connection, migration, Duty.CATCH_UP)


async def _offer(connection: AsyncConnection, migration: Migration, duty: Duty) -> list[Ticket]:
    await leases.offer_duty(connection, migration.id, duty)
    return await batches.offer_duty(connection, migration, duty)
