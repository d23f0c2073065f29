"""The tick: what is to be done now, read from Postgres, handed out as tickets.

Floor 3. Promise (P3): it may run twice at once, late, or not at all for a while, and nothing is lost or done twice: one
transaction a migration under a transaction-scoped advisory lock; it takes back expired leases, writes off what their
requests may have cost, weighs windows, signals and failures, and gives out at most W tickets. Tickets are published
after the commit; whoever loses one makes it good within two minutes. Telling comes after handing out, and what goes
wrong with it is logged and takes nothing back.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.backfill import catch_up, suspects
from migrator.backfill.proof import plan_pass
from migrator.errors import MigratorError
from migrator.generation import Side
from migrator.lifecycle import UNATTENDED, MigrationStatus
from migrator.orchestrator import allotment, brakes, history, progress, schedule, telling
from migrator.spending import hours
from migrator.state import (
    batches,
    budget,
    dirty,
    dispositions,
    flows,
    leases,
    migrations,
    outbox,
    readers,
    restless,
    schedules,
    strays,
    tallies,
    timeline,
    verdicts,
    workers,
    written,
)
from migrator.state.batches import Trust
from migrator.state.connection import transaction
from migrator.state.leases import TICKET_SECONDS, Duty, Ticket
from migrator.state.migrations import Migration
from migrator.state.tallies import Counts
from migrator.target import watermark
from migrator.throttle import weigh
from migrator.validation import recent

logger = logging.getLogger(__name__)

S = MigrationStatus
#: Any fixed number: with a migration's id it makes the key of the tick's advisory lock.
_LOCK_CLASS = 0x6D67
#: Batches under way per worker slot: one being done and one waiting, so that no slot is idle between two ticks.
PER_SLOT = 2
#: With no worker to be seen: enough for the one that is about to come.
FEWEST_TICKETS = 4
#: Share of the batches tried lately that may fail, and the number from which on a share means something.
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


@dataclass(frozen=True, slots=True)
class _Shift:
    """Who ticks, how many tickets may be under way, and how long they are trusted."""

    actor: str
    limit: int
    trust: Trust


async def tick(
    engine: AsyncEngine,
    *,
    actor: str,
    only: str | None = None,
    ticket_seconds: float = TICKET_SECONDS,
    tells: bool = True,
) -> Tick:
    """Look at every migration that workers carry on (or at `only` one) and hand out what is to be done.

    What fails for one of them is logged, and the others' tickets are given out; with `only` it is raised.

    Cost: some 25 statements a migration, and as many again where it `tells` how far they are.
    """
    made = Tick()
    async with transaction(engine) as connection:
        under_way = await migrations.list_all(connection, UNATTENDED | RESTING)
        slots = sum(row.slots for row in await workers.alive(connection))
        await readers.forget_old(connection)
        found = [each for each in under_way if each.status in UNATTENDED]
        rests = [each for each in under_way if each.status in RESTING]
    await _tidy(engine, rests, only)
    # `only` is asked for by somebody who works on it without a broker.
    shift = _Shift(actor, max(FEWEST_TICKETS, PER_SLOT * slots), Trust(ticket_seconds, bool(slots) or only is not None))
    allotted: dict[int, int] = {}
    if only is not None:
        # Whoever works on one by name waits for no other; the pace is shared all the same.
        found = [each for each in found if each.name == only]
    elif len(found) > 1:
        found, allotted = await _in_turn(engine, found, shift)
    for migration in found:
        try:
            mine = replace(shift, limit=allotted.get(migration.id, shift.limit))
            made.tickets += await _look_after(engine, migration, mine)
        except Exception as error:
            # What one of them makes fail is no trouble of the others; whoever works on this one alone is told.
            if only is not None:
                raise
            made.lines.append(f"{migration.name}: {type(error).__name__}")
            _log(f"{migration.name} was not looked after", error)
            continue
        if tells and (told := await _how_far(engine, migration)) is not None:
            made.lines.append(told)
    made.tickets += await _tell(engine, shift, only)
    return made


async def _in_turn(
    engine: AsyncEngine, found: list[Migration], shift: _Shift
) -> tuple[list[Migration], dict[int, int]]:
    """Return migrations by their priority, and how many batches each that shares its account may have under way."""
    try:
        async with transaction(engine) as connection:
            known = await schedules.find_all(connection, [each.id for each in found])
            priorities = {migration_id: each.priority for migration_id, each in known.items()}
            ordered = sorted(found, key=lambda each: (-priorities.get(each.id, 0), each.id))
            return ordered, await allotment.allot(connection, ordered, priorities, shift.limit, shift.trust)
    except Exception as error:  # noqa: BLE001 - it is logged, and work that is out of turn is better than none
        _log("priorities could not be looked at", error)
        return found, {}


async def _look_after(engine: AsyncEngine, migration: Migration, shift: _Shift) -> list[Ticket]:
    """Hand out what is to be done for one migration, unless somebody else is at it."""
    binding = (await weigh.look(engine, migration.id)).binding
    async with transaction(engine) as connection:
        if not await _alone(connection, migration.id):
            return []
        fresh = await migrations.get_by_id(connection, migration.id)
        if fresh.status not in UNATTENDED or fresh.capture_off_at is not None:
            return []
        return await _hand_out(connection, fresh, shift, throttled=binding)


async def _how_far(engine: AsyncEngine, migration: Migration) -> str | None:
    """Look how far it is, for the line, the history and hooks; its tickets are given out, whatever fails here."""
    line = None
    try:
        async with transaction(engine) as connection:
            await tallies.fold(connection, migration.id)
            await dispositions.fold(connection, migration.id)
            await strays.fold(connection, migration.id)
            now = await migrations.get_by_id(connection, migration.id)
            await _note_flow(connection, now)
            seen = await progress.read(connection, now)
            await history.note(connection, seen)
        line = progress.line(seen)
        if now.spec.hooks is not None:
            async with transaction(engine) as connection:
                await telling.notice(connection, seen)
    except Exception as error:  # noqa: BLE001 - it is logged, and the next tick looks again
        _log(f"how far {migration.name} is could not be told", error)
    return line


async def _tidy(engine: AsyncEngine, rests: Sequence[Migration], only: str | None) -> None:
    """Take back what nobody holds any more of migrations at rest, add up what their fences diverted, and wake them."""
    if not rests:
        return
    try:
        async with transaction(engine) as connection:
            to_tidy = await restless.among(connection, [each.id for each in rests])
        for each in rests:
            if each.id in to_tidy:
                async with transaction(engine) as connection:
                    await _rescue(connection, each)
                    # The fence stands through a pause, and what it diverts must not pile up.
                    await strays.fold(connection, each.id)
        await schedule.wake(engine, [each for each in rests if only in {None, each.name}])
    except Exception as error:
        # The others' work does not wait for those that rest.
        if only is not None:
            raise
        _log("migrations at rest were not looked after", error)


async def _tell(engine: AsyncEngine, shift: _Shift, only: str | None) -> list[Ticket]:
    """Offer to tell hooks what is due, also of migrations that nobody carries on: a pause is told, and the end."""
    tickets: list[Ticket] = []
    try:
        async with transaction(engine) as connection:
            due = [await migrations.get_by_id(connection, each) for each in await outbox.with_due(connection)]
        for migration in due:
            if only in {None, migration.name}:
                async with transaction(engine) as connection:
                    await _rescue(connection, migration)
                    offered = await _offer(connection, migration, Duty.HOOKS, shift)
                tickets += offered
    except Exception as error:  # noqa: BLE001 - it is logged, and the next tick offers them again
        _log("hooks were not offered to be told", error)
    return tickets


def _log(what: str, error: Exception) -> None:
    """Log what this tick goes on without; where it is no error of ours, with where it came from."""
    logger.warning("%s: %s: %s", what, type(error).__name__, error, exc_info=not isinstance(error, MigratorError))


async def _alone(connection: AsyncConnection, migration_id: int) -> bool:
    query = text("SELECT pg_try_advisory_xact_lock(:lock_class, :id)")
    taken = await connection.execute(query, {"lock_class": _LOCK_CLASS, "id": migration_id})
    return bool(taken.scalar_one())


async def _hand_out(
    connection: AsyncConnection, migration: Migration, shift: _Shift, *, throttled: str | None
) -> list[Ticket]:
    if await _moved_on_another_timeline(connection, migration, shift.actor):
        return []
    await _rescue(connection, migration)
    binding = await hours.binding(connection, migration) or throttled
    resting = binding is not None
    if binding is not None:
        await migrations.set_binding(connection, migration.id, binding)
    tickets = await _catch_up(connection, migration, shift, resting=resting)
    # It asks nobody and pays nothing, so no window and no throttle keeps it: readers may be searching those vectors.
    if await written.any_to_do(connection, migration.id):
        tickets += await _offer(connection, migration, Duty.WATCH, shift)
    if resting:
        return tickets
    if migration.status is S.BACKFILLING:
        return tickets + await _backfill(connection, migration, shift)
    if migration.status is not S.READY and migration.status not in _DUTIES:
        return tickets
    duty = _DUTIES.get(migration.status, Duty.VALIDATE)
    # Whoever does it may be done this moment: with its row locked it is done, and seen here, or not.
    await leases.lock_duty(connection, migration.id, duty)
    if (await migrations.get_by_id(connection, migration.id)).status is not migration.status:
        return tickets
    if migration.status in _DUTIES or await _verdicts_fade(connection, migration):
        tickets += await _offer(connection, migration, duty, shift)
    elif await recent.is_due(connection, migration):
        tickets += await _offer(connection, migration, Duty.RECENT, shift)
    return tickets


async def _verdicts_fade(connection: AsyncConnection, migration: Migration) -> bool:
    """Say whether a migration that is `ready` has verdicts that are, or soon will be, no licence to cut over."""
    newest = await verdicts.newest(connection, migration.id)
    now = await watermark.read(connection, migration)
    missing = set(verdicts.GATES) - {row.gate for row in newest}
    share = verdicts.RENEW_AT
    return bool(missing) or any(verdicts.why_stale(row, migration, now, share=share) for row in newest)


async def _rescue(connection: AsyncConnection, migration: Migration) -> None:
    """Take back leases that ran out; what their requests may have cost stays counted."""
    for lease in await leases.rescue(connection, migration.id):
        await budget.write_off(connection, lease=str(lease))
    # However a lease ended: what is booked under it and has no outcome will never have one.
    for name in await leases.ended(connection, await budget.leases_with_open(connection, migration.id)):
        await budget.write_off(connection, lease=name)


async def _moved_on_another_timeline(connection: AsyncConnection, migration: Migration, actor: str) -> bool:
    """Pause a migration whose server is a promoted standby: what it remembers may be older than what was paid (H27)."""
    found = await timeline.read(connection)
    if migration.timeline is None and found:
        await migrations.change(connection, migration.id, timeline=found)
    if not found or migration.timeline in {None, found}:
        return False
    await migrations.change(connection, migration.id, timeline=None)
    reason = (
        f"the server's timeline changed from {migration.timeline} to {found}: after a failover what was spent may be"
        f" more than `migrator status {migration.name}` says. Compare it with the provider's bill, lower the cap by"
        f" what is missing (migrator limits {migration.name} --max-cost X), then resume"
    )
    await migrations.pause(connection, migration.id, reason=reason, actor=actor)
    return True


async def _backfill(connection: AsyncConnection, migration: Migration, shift: _Shift) -> list[Ticket]:
    if migration.pass_number == 0:
        await plan_pass(connection, migration)
    await suspects.divide(connection, migration)
    counts = await tallies.counts(connection, migration.id)
    reason = await brakes.too_many_quarantined(connection, migration, counts)
    reason = reason or await broken(connection, migration, counts)
    if reason is not None:
        await migrations.pause(connection, migration.id, reason=reason, actor=shift.actor)
        return []
    if not shift.limit:
        await migrations.set_binding(connection, migration.id, "priority: others of its provider account go first")
    limit = min(shift.limit, await brakes.fewer_while_open(connection, migration, shift.limit))
    tickets = await batches.offer(connection, migration, limit, shift.trust)
    if tickets or counts.pending or counts.leased:
        return tickets
    # Rows that are dirty are no obstacle: the proof knows of them, and under steady edits there are always some (H19).
    return tickets + await _offer(connection, migration, Duty.PROVE, shift)


async def broken(connection: AsyncConnection, migration: Migration, counts: Counts) -> str | None:
    """Say why no further batch should be tried, or None: most tried lately failed, or only failed ones are left.

    Lately, because a million batches that went well yesterday say nothing about what fails now.
    """
    where = f"migrator batches {migration.name} --failed"
    if counts.troubled > BREAKER_SHARE * BREAKER_BATCHES:
        tried, troubled = await batches.lately(connection, migration.id, limit=max(BREAKER_BATCHES, 2 * counts.leased))
        if tried >= BREAKER_BATCHES and troubled > BREAKER_SHARE * tried:
            return f"{troubled} of the last {tried} batches failed ({where})"
    if counts.failed and not counts.pending and not counts.leased:
        return f"{counts.failed} of {counts.done + counts.failed} batches failed ({where})"
    return None


async def _catch_up(connection: AsyncConnection, migration: Migration, shift: _Shift, *, resting: bool) -> list[Ticket]:
    """Offer catch-up: always where rows missing from search wait for it, else when there is something to do."""
    live, _ = await dirty.count(connection, migration.id, migration.live_side)
    standing = migration.status in {S.READY, S.COMPLETED} and not resting
    shadow = 0
    if migration.live_side is Side.FROM and migration.status is not S.ROLLED_BACK and not resting:
        deferred = await catch_up.is_deferred(connection, migration)
        shadow = 0 if deferred else (await dirty.count(connection, migration.id, Side.TO))[0]
    tickets = await _offer(connection, migration, Duty.CATCH_UP, shift) if standing or live or shadow else []
    if catch_up.owes(migration) and not resting and await dirty.any_left(connection, migration.id, Side.FROM):
        tickets += await _offer(connection, migration, Duty.SETTLE, shift)
    return tickets


async def _note_flow(connection: AsyncConnection, migration: Migration) -> None:
    """Take a sample of catch-up's backlog, unless that is meant to wait for the end of the pass."""
    if migration.status is S.BACKFILLING and await catch_up.is_deferred(connection, migration):
        return
    kept = catch_up.sides(migration, deferred=False)
    backlog = sum([(await dirty.count(connection, migration.id, side))[0] for side in dict.fromkeys(kept)])
    await flows.note(connection, migration.id, backlog)


async def _offer(connection: AsyncConnection, migration: Migration, duty: Duty, shift: _Shift) -> list[Ticket]:
    await leases.offer_duty(connection, migration.id, duty)
    return await batches.offer_duty(connection, migration, duty, shift.trust)
