"""Leases: a worker's time-limited, renewable right to a batch or a duty, with a fencing token.

Floor 1. Promise: at most one holder's writes count. Every claim raises the fence by one, and whatever a worker
commits is guarded by the fence it claimed with; a worker that slept past its lease finds its fence outdated and
its transaction rolled back. Time is the database's alone. A claim with a stale ticket costs one index look-up.
The server's timeline belongs to the fence: a failover rolls fences back, and they grow again for others (H27).

Batches (windows of pages) and duties (work for the whole migration that one holder does at a time) have the same
lease columns, so there is one way to claim, renew, give back and rescue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import cache
from typing import Any

from psycopg import sql
from sqlalchemy import Integer, Interval, Table, bindparam, func, literal, or_, select, true, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import ColumnElement

from migrator.errors import TransientError
from migrator.state import tables, timeline
from migrator.state.connection import Statement, run_together

#: For how many leases a ticket handed to the broker is trusted to be under way; then `tick` gives it again. Long enough
#: for a queue of two batches per slot, short enough that a flushed broker is made good in two minutes.
TICKET_LEASES = 4
#: The same in seconds, with the default lease.
TICKET_SECONDS = 120.0
#: The failure of an attempt whose holder never said how it ended.
FELL_SILENT = "the worker fell silent"


class Duty(StrEnum):
    """Work that one holder at a time does for a whole migration."""

    CATCH_UP = "catch-up"  #: Fill the vectors of rows written meanwhile.
    PROVE = "prove"  #: One statement over the table: is any row left?
    INDEX = "index"  #: Build the shadow column's indexes.
    VALIDATE = "validate"  #: Measure the gates.
    WATCH = "watch"  #: Look at the vectors that writers brought.
    RECENT = "recent"  #: Look at what was written since the look at every vector.
    SETTLE = "settle"  #: Fill the old generation's vectors: before a rollback, or as rows come.
    CANARY = "canary"  #: Ask the canary's texts again, beside the work that waits for it.
    PROVENANCE = "provenance"  #: Embed stored rows again with the old model, in somebody's terminal.
    PILOT = "pilot"  #: Embed a sample with both models before anything begins, in somebody's terminal.
    HOOKS = "hooks"  #: Tell hooks what is in the outbox.
    COMPARE = "compare"  #: Ask both models the same queries, in somebody's terminal.
    ATTEND = "attend"  #: An attended step (start, cutover, rollback, cleanup) in somebody's terminal.


class Kind(StrEnum):
    """What a lease is for; the first word of a ticket."""

    BATCH = "batch"
    DUTY = "duty"

    @property
    def table(self) -> Table:
        """The table whose rows are leased."""
        return {Kind.BATCH: tables.batches, Kind.DUTY: tables.duties}[self]


@dataclass(frozen=True, slots=True)
class Ticket:
    """A hint for whoever is free: this row, if its fence is still that. All that ever goes through a broker."""

    migration_id: int
    kind: Kind
    row_id: int
    fence: int
    #: For people: what Flower shows as task id and arguments.
    label: str
    arguments: str
    queue: str


@dataclass(frozen=True, slots=True)
class Lease:
    """A held right. `str()` is what reservations are booked under."""

    kind: Kind
    row_id: int
    fence: int
    holder: str
    seconds: float
    #: The server's timeline when it was claimed; 0 where that is not known, and then it is not compared.
    timeline: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.row_id}#{self.fence}"


@dataclass(eq=False)
class LeaseLost(TransientError):
    """The lease ran out or was taken by somebody else; what was being done must not be committed."""

    lease: str

    runbook = "worker-died"
    happened = "The lease {lease} was lost: it ran out, or somebody else took it."
    state = "The transaction was rolled back; whoever holds the lease now does the work again."
    next = "Nothing needs to be done; `migrator batches NAME` shows who has what."


def _until(seconds: float) -> ColumnElement[Any]:
    return func.clock_timestamp() + timedelta(seconds=seconds)


async def claim(connection: AsyncConnection, ticket: Ticket, *, holder: str, seconds: float) -> Lease | None:
    """Take the right to a pending row whose fence is the ticket's; None for a stale ticket."""
    table = ticket.kind.table
    statement = (
        update(table)
        .where(
            table.c.id == ticket.row_id,
            table.c.fence == ticket.fence,
            table.c.status == "pending",
            or_(table.c.not_before.is_(None), table.c.not_before <= func.clock_timestamp()),
        )
        .values(
            status="leased",
            holder=holder,
            leased_at=func.clock_timestamp(),
            lease_until=_until(seconds),
            fence=table.c.fence + 1,
            attempts=table.c.attempts + 1,
            ticket_until=None,
            not_before=None,
        )
        .returning(table.c.fence, timeline.now.label("timeline"))
    )
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else Lease(ticket.kind, ticket.row_id, row.fence, holder, seconds, row.timeline)


async def is_held(connection: AsyncConnection, lease: Lease) -> bool:
    """Say whether the lease still stands."""
    table = lease.kind.table
    query = select(table.c.id).where(
        table.c.id == lease.row_id,
        table.c.fence == lease.fence,
        table.c.status == "leased",
        table.c.lease_until > func.clock_timestamp(),
        or_(literal(lease.timeline == 0), timeline.now == lease.timeline),
    )
    return (await connection.execute(query)).one_or_none() is not None


@cache
def _holding(kind: Kind) -> Any:
    """Return the statement that renews, made once: every landing begins with it."""
    table, migrations = kind.table, tables.migrations
    epoch = select(migrations.c.epoch).where(migrations.c.id == table.c.migration_id).scalar_subquery()
    until = func.clock_timestamp() + bindparam("longer", type_=Interval)
    return _held(table).values(lease_until=until).returning(epoch)


@cache
def _holding_text(kind: Kind) -> tuple[sql.SQL, Mapping[str, Any]]:
    compiled = _holding(kind).compile(dialect=PGDialect_psycopg())  # type: ignore[no-untyped-call]
    text: Any = str(compiled)
    return sql.SQL(text), compiled.params


async def hold(connection: AsyncConnection, lease: Lease) -> int:
    """Renew a lease; the first thing that every writing transaction does, and what fences it.

    Returns the epoch that its migration is in, as this statement sees it: each swap raises it.
    Raises: LeaseLost.
    """
    return await hold_after(connection, lease, [])


async def hold_after(connection: AsyncConnection, lease: Lease, before: Sequence[Statement]) -> int:
    """Do as `hold` does in one round trip with statements that go before it, and see what those waited for.

    Raises: LeaseLost.
    """
    holding, fixed = _holding_text(lease.kind)
    values = {**fixed, **_of(lease), "longer": timedelta(seconds=lease.seconds)}
    found = await run_together(connection, [*before, (holding, values)])
    if not found:
        raise LeaseLost(str(lease))
    (epoch,) = found[0]
    return int(epoch)


async def finish(connection: AsyncConnection, lease: Lease, **values: Any) -> None:
    """Mark the work done, in the transaction that commits its last piece.

    Raises: LeaseLost.
    """
    table = lease.kind.table
    done = {"status": "done", "holder": None, "lease_until": None, "failure": None, "deaths": 0, **values}
    if (await connection.execute(_held(table).values(**done), _of(lease))).rowcount != 1:
        raise LeaseLost(str(lease))


async def give_back(
    connection: AsyncConnection,
    lease: Lease,
    *,
    after_seconds: float = 0,
    failure: str | None = None,
    counts_as_attempt: bool = True,
) -> bool:
    """Put the work back for anybody, not before `after_seconds`; False when the lease was lost meanwhile."""
    table = lease.kind.table
    statement = _held(table).values(
        status="pending",
        holder=None,
        lease_until=None,
        not_before=_until(after_seconds) if after_seconds else None,
        failure=failure,
        attempts=table.c.attempts - (0 if counts_as_attempt else 1),
    )
    return (await connection.execute(statement, _of(lease))).rowcount == 1


def _held(table: Table) -> Any:
    """Return an UPDATE of the row of a lease that still stands; `_of` gives it the lease."""
    of = bindparam("on_timeline", type_=Integer)
    mine = (table.c.id == bindparam("row"), table.c.fence == bindparam("held_fence"), table.c.status == "leased")
    return update(table).where(*mine, or_(of == 0, timeline.now == of))


def _of(lease: Lease) -> dict[str, Any]:
    return {"row": lease.row_id, "held_fence": lease.fence, "on_timeline": lease.timeline}


async def rescue(connection: AsyncConnection, migration_id: int) -> list[Lease]:
    """Take back every lease of a migration that ran out; returns them, so that their money can be written off."""
    rescued = []
    for kind in Kind:
        table = kind.table
        statement = (
            update(table)
            .where(
                table.c.migration_id == migration_id,
                table.c.status == "leased",
                table.c.lease_until < func.clock_timestamp(),
            )
            .values(status="pending", holder=None, lease_until=None, failure=FELL_SILENT, deaths=table.c.deaths + 1)
            .returning(table.c.id, table.c.fence)
        )
        rescued += [Lease(kind, row.id, row.fence, "", 0) for row in await connection.execute(statement)]
    return rescued


async def count_alive(connection: AsyncConnection, migration_id: int) -> int:
    """Count the batches and duties of a migration that somebody holds: a dead worker's count until they run out.

    Not the telling of hooks: a pause is not waiting for whoever hears of it.
    """
    found = 0
    for kind in Kind:
        table = kind.table
        query = select(func.count()).where(
            table.c.migration_id == migration_id,
            true() if kind is Kind.BATCH else table.c.duty != Duty.HOOKS,
            table.c.status == "leased",
            table.c.lease_until > func.clock_timestamp(),
        )
        found += int((await connection.execute(query)).scalar_one())
    return found


async def ended(connection: AsyncConnection, names: Sequence[str]) -> list[str]:
    """Return which of these leases, by their `str()`, nobody holds any more."""
    held: set[str] = set()
    for kind in Kind:
        table = kind.table
        ids = [int(name.partition(":")[2].partition("#")[0]) for name in names if name.startswith(f"{kind}:")]
        query = select(table.c.id, table.c.fence).where(table.c.id.in_(ids), table.c.status == "leased")
        held |= {f"{kind}:{row.id}#{row.fence}" for row in (await connection.execute(query) if ids else ())}
    return [name for name in names if name not in held]


async def offer_duty(connection: AsyncConnection, migration_id: int, duty: Duty) -> int:
    """Make a duty pending unless somebody holds it; returns its row's id."""
    statement = upsert(tables.duties).values(migration_id=migration_id, duty=duty)
    statement = statement.on_conflict_do_update(
        index_elements=["migration_id", "duty"],
        set_={"status": "pending", "attempts": 0},
        where=tables.duties.c.status.in_(["done", "failed"]),
    )
    await connection.execute(statement)
    query = select(tables.duties.c.id).where(tables.duties.c.migration_id == migration_id, tables.duties.c.duty == duty)
    return int((await connection.execute(query)).scalar_one())


async def lock_duty(connection: AsyncConnection, migration_id: int, duty: Duty) -> None:
    """Let nobody take, renew or end a duty until this transaction ends."""
    query = select(tables.duties.c.id).where(tables.duties.c.migration_id == migration_id, tables.duties.c.duty == duty)
    await connection.execute(query.with_for_update())


async def take(
    connection: AsyncConnection, migration_id: int, duty: Duty, *, holder: str, seconds: float
) -> Lease | None:
    """Take a duty without a ticket, for a step in somebody's terminal; None when somebody else has it."""
    await connection.execute(
        upsert(tables.duties).values(migration_id=migration_id, duty=duty).on_conflict_do_nothing()
    )
    table = tables.duties
    statement = (
        update(table)
        .where(
            table.c.migration_id == migration_id,
            table.c.duty == duty,
            or_(table.c.status != "leased", table.c.lease_until < func.clock_timestamp()),
        )
        .values(
            status="leased",
            holder=holder,
            leased_at=func.clock_timestamp(),
            lease_until=_until(seconds),
            ticket_until=None,
            not_before=None,
            fence=table.c.fence + 1,
            attempts=1,
        )
        .returning(table.c.id, table.c.fence, timeline.now.label("timeline"))
    )
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else Lease(Kind.DUTY, row.id, row.fence, holder, seconds, row.timeline)


async def duty_row(connection: AsyncConnection, migration_id: int, duty: Duty) -> Any:
    """Return a duty's row, or None where it was never offered."""
    query = select(tables.duties).where(tables.duties.c.migration_id == migration_id, tables.duties.c.duty == duty)
    return (await connection.execute(query)).one_or_none()


async def seconds_since_taken(connection: AsyncConnection, migration_id: int, duty: Duty) -> float | None:
    """Return how long ago somebody took a duty last, or None where nobody ever did."""
    age = func.extract("epoch", func.clock_timestamp() - tables.duties.c.leased_at)
    query = select(age).where(tables.duties.c.migration_id == migration_id, tables.duties.c.duty == duty)
    found = (await connection.execute(query)).scalar_one_or_none()
    return None if found is None else float(found)


async def duty_of(connection: AsyncConnection, lease: Lease) -> Duty:
    """Return which duty a lease is for."""
    query = select(tables.duties.c.duty).where(tables.duties.c.id == lease.row_id)
    return Duty((await connection.execute(query)).scalar_one())


async def attempts(connection: AsyncConnection, lease: Lease) -> int:
    """Return how often the leased work was tried."""
    table = lease.kind.table
    query = select(table.c.attempts).where(table.c.id == lease.row_id)
    return int((await connection.execute(query)).scalar_one())


async def deaths(connection: AsyncConnection, lease: Lease) -> int:
    """Return how many holders in a row fell silent at the leased work."""
    table = lease.kind.table
    return int((await connection.execute(select(table.c.deaths).where(table.c.id == lease.row_id))).scalar_one())


async def void(connection: AsyncConnection, migration_id: int) -> None:
    """End every lease and every ticket of a migration: fences rise, so nothing under way can be committed.

    But the attended step's own: it is whose step this is, and it may have more to do. And hooks': they touch no row.
    """
    for kind in Kind:
        table = kind.table
        others = true() if kind is Kind.BATCH else table.c.duty.not_in([Duty.ATTEND, Duty.HOOKS])
        await connection.execute(
            update(table)
            .where(table.c.migration_id == migration_id, table.c.status.in_(["leased", "pending"]), others)
            .values(status="failed", holder=None, lease_until=None, ticket_until=None, fence=table.c.fence + 1)
        )
