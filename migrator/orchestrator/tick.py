"""The tick: what is to be done now, read from Postgres, handed out as tickets.

Floor 3. Promise (P3): it may run twice at once, late, or not at all for a while, and nothing is lost or done twice: one
transaction a migration under a transaction-scoped advisory lock; it takes back expired leases, writes off what their
requests may have cost, weighs windows, signals and failures, and gives out at most W tickets. Tickets are published
after the commit; whoever loses one makes it good within two minutes. Telling comes after handing out, and what goes
wrong with it is logged and takes nothing back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.backfill import catch_up, suspects
from migrator.backfill.proof import plan_pass
from migrator.errors import MigratorError
from migrator.generation import Side
from migrator.lifecycle import UNATTENDED, MigrationStatus
from migrator.orchestrator import allotment, brakes, history, position, schedule, telling
from migrator.orchestrator.allotment import Standing
from migrator.settings import connections
from migrator.spending import hours
from migrator.state import (
    agenda,
    batches,
    budget,
    dirty,
    leases,
    migrations,
    outbox,
    readers,
    schedules,
    signals,
    strays,
    tallies,
    timeline,
    verdicts,
    workers,
)
from migrator.state.agenda import Agenda
from migrator.state.batches import Trust
from migrator.state.connection import transaction
from migrator.state.leases import TICKET_SECONDS, Duty, Ticket
from migrator.state.migrations import Migration
from migrator.state.schedules import Schedule
from migrator.state.signals import Reading
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
#: Migrations looked after at once: while the database answers for one, another's next statement is made. As many
#: connections as a worker process keeps even where it may have one request under way.
_AT_ONCE = connections(1)
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


@dataclass(slots=True)
class _Turn:
    """A migration's turn: what waits there, what was read of it with others', its share, and what comes of it."""

    migration: Migration
    agenda: Agenda
    limit: int
    schedule: Schedule | None = None
    reading: Reading | None = None
    tickets: list[Ticket] = field(default_factory=list)
    line: str | None = None

    @property
    def priority(self) -> int:
        """Who is offered work first."""
        return 0 if self.schedule is None else self.schedule.priority


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

    Cost: a handful of statements for all of them; ten for each at which nothing happened, and as many again where it
    `tells` how far it is. What there is to tidy up costs a few more.
    """
    made = Tick()
    async with transaction(engine) as connection:
        under_way = await migrations.list_all(connection, UNATTENDED | RESTING)
        slots = sum(row.slots for row in await workers.alive(connection))
        await readers.forget_old(connection)
        found = [each for each in under_way if each.status in UNATTENDED]
        rests = [each for each in under_way if each.status in RESTING]
    agendas = await _read_agendas(engine, [each.id for each in under_way])
    await _tidy(engine, rests, agendas, only)
    # `only` is asked for by somebody who works on it without a broker.
    shift = _Shift(actor, max(FEWEST_TICKETS, PER_SLOT * slots), Trust(ticket_seconds, bool(slots) or only is not None))
    if only is not None:
        # Whoever works on one by name waits for no other; the pace is shared all the same.
        found = [each for each in found if each.name == only]
    turns = await _in_turn(engine, [_Turn(each, agendas[each.id], shift.limit) for each in found], shift)
    room = asyncio.Semaphore(_AT_ONCE)
    await asyncio.gather(*(_take(engine, room, turn, shift, alone=only is not None, tells=tells) for turn in turns))
    for turn in turns:
        made.tickets += turn.tickets
        made.lines += [] if turn.line is None else [turn.line]
    made.tickets += await _tell(engine, shift, only)
    return made


async def _read_agendas(engine: AsyncEngine, migration_ids: Sequence[int]) -> Mapping[int, Agenda]:
    """Read what waits for a tick; where that fails, everything may."""
    try:
        async with transaction(engine) as connection:
            return await agenda.read(connection, migration_ids)
    except Exception as error:  # noqa: BLE001 - it is logged, and looking everywhere is better than nowhere
        _log("what waits for a tick could not be looked at", error)
        return dict.fromkeys(migration_ids, agenda.WHATEVER)


async def _take(
    engine: AsyncEngine, room: asyncio.Semaphore, turn: _Turn, shift: _Shift, *, alone: bool, tells: bool
) -> None:
    async with room:
        try:
            turn.tickets += await _look_after(engine, turn, shift)
        except Exception as error:
            # What one of them makes fail is no trouble of the others; whoever works on this one alone is told.
            if alone:
                raise
            turn.line = f"{turn.migration.name}: {type(error).__name__}"
            _log(f"{turn.migration.name} was not looked after", error)
            return
        if tells:
            turn.line = await _how_far(engine, turn)


async def _in_turn(engine: AsyncEngine, found: list[_Turn], shift: _Shift) -> list[_Turn]:
    """Return turns by priority, each with how many batches may be under way where several share an account."""
    if not found:
        return []
    ids = [each.migration.id for each in found]
    try:
        async with transaction(engine) as connection:
            planned = await schedules.find_all(connection, ids)
            read = await signals.readings(connection, ids)
            standing = [
                Standing(each.migration, planned.get(each.migration.id, Schedule()), read[each.migration.id])
                for each in found
            ]
            allotted = await allotment.allot(connection, standing, shift.limit, shift.trust)
    except Exception as error:  # noqa: BLE001 - it is logged, and work that is out of turn is better than none
        _log("schedules, signals and priorities could not be looked at", error)
        return found
    for turn, seen in zip(found, standing, strict=True):
        turn.limit = allotted.get(seen.migration.id, shift.limit)
        turn.schedule, turn.reading = seen.schedule, seen.reading
    return sorted(found, key=lambda each: (-each.priority, each.migration.id))


async def _look_after(engine: AsyncEngine, turn: _Turn, shift: _Shift) -> list[Ticket]:
    """Hand out what is to be done for one migration, unless somebody else is at it."""
    migration_id = turn.migration.id
    binding = (await weigh.look(engine, migration_id, turn.reading)).binding
    async with transaction(engine) as connection:
        alone, timeline_now = await _alone(connection, migration_id)
        if not alone:
            return []
        fresh = await migrations.get_by_id(connection, migration_id)
        if fresh.status not in UNATTENDED or fresh.capture_off_at is not None:
            return []
        if await _moved_on_another_timeline(connection, fresh, timeline_now, shift.actor):
            return []
        return await _hand_out(connection, fresh, turn, shift, throttled=binding)


async def _how_far(engine: AsyncEngine, turn: _Turn) -> str | None:
    """Look how far it is, for the line, the history and hooks; its tickets are given out, whatever fails here."""
    line, migration = None, turn.migration
    try:
        seen = await history.see(engine, migration.id, turn.agenda)
        line = position.line(seen)
        if migration.spec.hooks is not None:
            async with transaction(engine) as connection:
                await telling.notice(connection, seen)
    except Exception as error:  # noqa: BLE001 - it is logged, and the next tick looks again
        _log(f"how far {migration.name} is could not be told", error)
    return line


async def _tidy(
    engine: AsyncEngine, rests: Sequence[Migration], agendas: Mapping[int, Agenda], only: str | None
) -> None:
    """Take back what nobody holds any more of migrations at rest, add up what their fences diverted, and wake them."""
    if not rests:
        return
    try:
        for each in rests:
            if agendas[each.id].untidy:
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


async def _alone(connection: AsyncConnection, migration_id: int) -> tuple[bool, int]:
    """Say whether nobody else is at it, until this transaction ends; and on which timeline the server is."""
    query = select(func.pg_try_advisory_xact_lock(_LOCK_CLASS, migration_id), timeline.now)
    taken, now = (await connection.execute(query)).one()
    return bool(taken), int(now)


async def _hand_out(
    connection: AsyncConnection, migration: Migration, turn: _Turn, shift: _Shift, *, throttled: str | None
) -> list[Ticket]:
    await _rescue(connection, migration, turn.agenda)
    binding = await hours.binding(connection, migration, turn.schedule) or throttled
    resting = binding is not None
    if binding is not None:
        await migrations.set_binding(connection, migration.id, binding)
    tickets = await _catch_up(connection, migration, shift, resting=resting)
    # It asks nobody and pays nothing, so no window and no throttle keeps it: readers may be searching those vectors.
    if turn.agenda.written:
        tickets += await _offer(connection, migration, Duty.WATCH, shift)
    if resting:
        return tickets
    if migration.status is S.BACKFILLING:
        return tickets + await _backfill(connection, migration, turn, shift)
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


async def _rescue(connection: AsyncConnection, migration: Migration, what: Agenda = agenda.WHATEVER) -> None:
    """Take back leases that ran out; what their requests may have cost stays counted."""
    if what.silent:
        for lease in await leases.rescue(connection, migration.id):
            await budget.write_off(connection, lease=str(lease))
    if not (what.silent or what.booked):
        return
    # However a lease ended: what is booked under it and has no outcome will never have one.
    for name in await leases.ended(connection, await budget.leases_with_open(connection, migration.id)):
        await budget.write_off(connection, lease=name)


async def _moved_on_another_timeline(connection: AsyncConnection, migration: Migration, found: int, actor: str) -> bool:
    """Pause a migration whose server is a promoted standby: what it remembers may be older than what was paid (H27)."""
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


async def _backfill(connection: AsyncConnection, migration: Migration, turn: _Turn, shift: _Shift) -> list[Ticket]:
    if migration.pass_number == 0:
        await plan_pass(connection, migration)
    if turn.agenda.worn or turn.agenda.silent:
        await suspects.divide(connection, migration)
    counts = await tallies.counts(connection, migration.id)
    reason = await brakes.too_many_quarantined(connection, migration, counts)
    reason = reason or await brakes.broken(connection, migration, counts)
    if reason is not None:
        await migrations.pause(connection, migration.id, reason=reason, actor=shift.actor)
        return []
    if not turn.limit:
        await migrations.set_binding(connection, migration.id, "priority: others of its provider account go first")
    limit = min(turn.limit, await brakes.fewer_while_open(connection, migration, turn.limit))
    tickets = await batches.offer(connection, migration, limit, shift.trust)
    if tickets or counts.pending or counts.leased:
        return tickets
    # Rows that are dirty are no obstacle: the proof knows of them, and under steady edits there are always some (H19).
    return tickets + await _offer(connection, migration, Duty.PROVE, shift)


async def _catch_up(connection: AsyncConnection, migration: Migration, shift: _Shift, *, resting: bool) -> list[Ticket]:
    """Offer catch-up: always where rows missing from search wait for it, else when there is something to do."""
    # Not what a rollback would owe, which may be a whole table.
    keys = await dirty.count_sides(connection, migration.id, tuple({migration.live_side, Side.TO}))
    standing = migration.status in {S.READY, S.COMPLETED} and not resting
    wanted = standing or keys[migration.live_side]
    if not wanted and keys[Side.TO] and migration.status is not S.ROLLED_BACK and not resting:
        wanted = not await catch_up.is_deferred(connection, migration)
    tickets = await _offer(connection, migration, Duty.CATCH_UP, shift) if wanted else []
    if catch_up.owes(migration) and not resting and await dirty.any_left(connection, migration.id, Side.FROM):
        tickets += await _offer(connection, migration, Duty.SETTLE, shift)
    return tickets


async def _offer(connection: AsyncConnection, migration: Migration, duty: Duty, shift: _Shift) -> list[Ticket]:
    await leases.offer_duty(connection, migration.id, duty)
    return await batches.offer_duty(connection, migration, duty, shift.trust)
