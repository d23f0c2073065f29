"""Batches: windows of heap pages, planned by arithmetic, handed out as tickets, counted when done.

Floor 1. Promise: every page of the table as it stood when a pass was planned lies in exactly one batch of that
pass; what arrives or moves later is the business of `dirty`, the next pass and the proof.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import BigInteger, Row, Table, and_, bindparam, case, exists, func, insert, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import ColumnElement

from migrator.state import tallies
from migrator.state.leases import TICKET_SECONDS, Duty, Kind, Ticket
from migrator.state.migrations import Migration
from migrator.state.tables import batches, duties

QUEUE_BACKFILL, QUEUE_LIVE, QUEUE_INDEX, QUEUE_CONTROL = "backfill", "live", "index", "control"


@dataclass(frozen=True, slots=True)
class Heap:
    """A heap to be cut into windows; `file` changes when it is rewritten."""

    oid: int
    file: int
    pages: int


#: Windows made by one statement: a few seconds of it, also on a busy server.
_PLANNED_AT_ONCE = 100_000


async def plan_pass(connection: AsyncConnection, migration: Migration, heap: Heap, width: int) -> int:
    """Store the next pass's windows of `width` pages as pending batches; returns how many. Made in the database."""
    before = await last_number(connection, migration.id)
    step = width * _PLANNED_AT_ONCE
    for start in range(0, heap.pages, step):
        last = min(start + step, heap.pages) - 1
        page = func.generate_series(start, last, width, type_=BigInteger).table_valued("page").render_derived(name="w")
        names = ["migration_id", "number", "pass_number", "relation_oid", "relation_file", "first_page", "last_page"]
        made = select(
            literal(migration.id),
            literal(before + 1) + page.c.page / width,
            literal(migration.pass_number + 1),
            literal(heap.oid, BigInteger),
            literal(heap.file, BigInteger),
            page.c.page,
            func.least(page.c.page + width, heap.pages) - 1,
        ).select_from(page)
        await connection.execute(insert(batches).from_select(names, made))
    count = math.ceil(heap.pages / width)
    await tallies.planned(connection, migration.id, count)
    return count


async def last_number(connection: AsyncConnection, migration_id: int) -> int:
    """Return the highest number that a batch of this migration has."""
    query = select(func.coalesce(func.max(batches.c.number), 0)).where(batches.c.migration_id == migration_id)
    return int((await connection.execute(query)).scalar_one())


@dataclass(frozen=True, slots=True)
class Trust:
    """How long a ticket is trusted to be under way, and whether one whose time is over is given again.

    It is not while nobody takes any: the broker keeps every message, and a weekend without workers would fill it.
    """

    seconds: float = TICKET_SECONDS
    give_again: bool = True

    def is_free(self, table: Table) -> ColumnElement[bool]:
        """Return the condition that a pending row may be given out."""
        now, until = func.clock_timestamp(), table.c.ticket_until
        untrusted = or_(until.is_(None), until <= now) if self.give_again else until.is_(None)
        return and_(untrusted, or_(table.c.not_before.is_(None), table.c.not_before <= now))

    def until(self) -> ColumnElement[Any]:
        """Return when a ticket that is given out now is no longer trusted."""
        return func.clock_timestamp() + timedelta(seconds=self.seconds)


async def offer(
    connection: AsyncConnection, migration: Migration, limit: int, trust: Trust | None = None
) -> list[Ticket]:
    """Give out tickets for pending batches so that at most `limit` are under way, and remember that they were."""
    trust = trust or Trust()
    # A statement of its own: with a limit that is not known beforehand, all that is pending would be read and sorted.
    room = limit - (await connection.execute(select(_under_way(migration.id, trust)))).scalar_one()
    if room <= 0:
        return []
    free = (
        select(batches.c.id)
        .where(batches.c.migration_id == migration.id, batches.c.status == "pending", trust.is_free(batches))
        .order_by(batches.c.id)
        .limit(room)
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(batches)
        .where(batches.c.id.in_(free.scalar_subquery()))
        .values(ticket_until=trust.until())
        .returning(batches)
    )
    rows = sorted((await connection.execute(statement)).all(), key=lambda row: row.id)
    return [_batch_ticket(migration, row) for row in rows]


async def wanted(connection: AsyncConnection, migration_id: int, limit: int, trust: Trust) -> int:
    """Return how many batches are under way, or could be if they were given out; up to `limit`."""
    mine = and_(batches.c.migration_id == migration_id, batches.c.status == "pending")
    free = select(literal(1)).where(mine, trust.is_free(batches)).limit(limit).subquery()
    count = select(func.count()).select_from(free).scalar_subquery()
    found = (await connection.execute(select(count + _under_way(migration_id, trust)))).scalar_one()
    return min(limit, int(found))


def _under_way(migration_id: int, trust: Trust) -> ColumnElement[int]:
    """Count batches that are leased or whose ticket is trusted: two small indexes, whatever is planned."""
    mine = select(func.count()).select_from(batches).where(batches.c.migration_id == migration_id)
    leased = mine.where(batches.c.status == "leased")
    ticketed = mine.where(batches.c.status == "pending", batches.c.ticket_until.is_not(None))
    if trust.give_again:
        ticketed = ticketed.where(batches.c.ticket_until > func.clock_timestamp())
    return leased.scalar_subquery() + ticketed.scalar_subquery()


def _batch_ticket(migration: Migration, row: Row[Any]) -> Ticket:
    return Ticket(
        migration_id=migration.id,
        kind=Kind.BATCH,
        row_id=row.id,
        fence=row.fence,
        label=f"{migration.name}.b{row.number:06d}.a{row.attempts + 1}",
        arguments=f"{migration.name} pages {row.first_page}..{row.last_page}",
        queue=QUEUE_BACKFILL,
    )


async def offer_duty(
    connection: AsyncConnection, migration: Migration, duty: Duty, trust: Trust | None = None
) -> list[Ticket]:
    """Give out a ticket for a pending duty, unless one is under way."""
    trust = trust or Trust()
    mine = and_(duties.c.migration_id == migration.id, duties.c.duty == duty, duties.c.status == "pending")
    statement = update(duties).where(mine, trust.is_free(duties)).values(ticket_until=trust.until()).returning(duties)
    queue = QUEUE_LIVE if duty in {Duty.CATCH_UP, Duty.WATCH, Duty.HOOKS} else QUEUE_INDEX
    return [
        Ticket(
            migration_id=migration.id,
            kind=Kind.DUTY,
            row_id=row.id,
            fence=row.fence,
            label=f"{migration.name}.{duty}.f{row.fence + 1}",
            arguments=f"{migration.name} {duty}",
            queue=queue,
        )
        for row in await connection.execute(statement)
    ]


async def get(connection: AsyncConnection, batch_id: int) -> Row[Any]:
    """Return one batch's row."""
    return (await connection.execute(select(batches).where(batches.c.id == batch_id))).one()


#: Made once: every landing makes it.
_COUNT = (
    update(batches)
    .where(batches.c.id == bindparam("batch"))
    .values(
        rows_written=batches.c.rows_written + bindparam("written"),
        rows_skipped=batches.c.rows_skipped + bindparam("skipped"),
        rows_quarantined=batches.c.rows_quarantined + bindparam("quarantined"),
        tokens=batches.c.tokens + bindparam("billed"),
    )
)


async def count_written(
    connection: AsyncConnection,
    batch_id: int,
    *,
    written: int = 0,
    skipped: int = 0,
    quarantined: int = 0,
    tokens: int = 0,
) -> None:
    """Add to a batch's counts, in the transaction that wrote what is counted."""
    added = {"written": written, "skipped": skipped, "quarantined": quarantined, "billed": tokens}
    await connection.execute(_COUNT, {"batch": batch_id, **added})


async def any_open(connection: AsyncConnection, migration_id: int) -> bool:
    """Say whether a batch is neither done nor failed."""
    query = select(
        *(
            exists().where(batches.c.migration_id == migration_id, batches.c.status == status)
            for status in ("pending", "leased")
        )
    )
    return any((await connection.execute(query)).one())


async def heaps(connection: AsyncConnection, migration_id: int) -> frozenset[int]:
    """Return the heaps that windows were ever cut from."""
    query = select(batches.c.relation_oid).distinct().where(batches.c.migration_id == migration_id)
    return frozenset((await connection.execute(query)).scalars())


async def written_in_pass(connection: AsyncConnection, migration_id: int, pass_number: int) -> int:
    """Return how many rows a pass wrote or disposed of."""
    total = batches.c.rows_written + batches.c.rows_skipped + batches.c.rows_quarantined
    query = select(func.coalesce(func.sum(total), 0)).where(
        batches.c.migration_id == migration_id, batches.c.pass_number == pass_number
    )
    return int((await connection.execute(query)).scalar_one())


async def recent(connection: AsyncConnection, migration_id: int, *, seconds: float) -> tuple[int, int, float]:
    """Return (rows, tokens, seconds) of the batches that are in hand or were finished lately, to tell a rate from."""
    now = func.clock_timestamp()
    query = select(
        func.coalesce(func.sum(batches.c.rows_written), 0),
        func.coalesce(func.sum(batches.c.tokens), 0),
        func.coalesce(func.extract("epoch", now - func.min(batches.c.leased_at)), 0),
    ).where(
        batches.c.migration_id == migration_id,
        or_(
            batches.c.status == "leased",
            and_(batches.c.status == "done", batches.c.finished_at > now - timedelta(seconds=seconds)),
        ),
    )
    rows, tokens, span = (await connection.execute(query)).one()
    return int(rows), int(tokens), float(span)


async def lately(connection: AsyncConnection, migration_id: int, *, limit: int) -> tuple[int, int]:
    """Return (tried, in trouble) of the batches whose last attempt ended most recently.

    Those in trouble are all read, since there are few or the breaker opens; of those done, the newest.
    """
    mine = batches.c.migration_id == migration_id
    open_ones = select(literal(1).label("bad"), batches.c.leased_at.label("at")).where(
        mine,
        ~batches.c.folded,
        or_(
            batches.c.status == "failed",
            and_(batches.c.status == "pending", batches.c.fence > 0, batches.c.attempts > 0),
        ),
        batches.c.failure.is_not(None),
    )
    done = (
        select(literal(0).label("bad"), batches.c.leased_at.label("at"))
        .where(mine, batches.c.status == "done")
        .order_by(batches.c.finished_at.desc())
        .limit(limit)
    )
    both = open_ones.union_all(select(done.subquery())).subquery()
    newest = select(both).order_by(both.c.at.desc()).limit(limit).subquery()
    query = select(func.count(), func.coalesce(func.sum(newest.c.bad), 0))
    tried, bad = (await connection.execute(query.select_from(newest))).one()
    return int(tried), int(bad)


async def troubled(connection: AsyncConnection, migration_id: int) -> dict[str, int]:
    """Return how many batches' last attempt failed, by the class of the error."""
    query = select(batches.c.failure, func.count()).where(
        batches.c.migration_id == migration_id,
        ~batches.c.folded,
        or_(batches.c.status != "pending", batches.c.fence > 0),  # the index of what was touched
        batches.c.status != "done",
        batches.c.failure.is_not(None),
    )
    return {str(kind): int(count) for kind, count in await connection.execute(query.group_by(batches.c.failure))}


async def retry_failed(connection: AsyncConnection, migration_id: int) -> int:
    """Put failed batches back; returns how many."""
    statement = (
        update(batches)
        .where(batches.c.migration_id == migration_id, batches.c.status == "failed")
        .values(status="pending", attempts=0, deaths=0, not_before=None, failure=None)
    )
    return (await connection.execute(statement)).rowcount


async def listed(
    connection: AsyncConnection, migration_id: int, *, failed_only: bool, limit: int
) -> Sequence[Row[Any]]:
    """Return batches for `migrator batches`, those that need a look first."""
    query = select(batches).where(batches.c.migration_id == migration_id)
    if failed_only:
        query = query.where(or_(batches.c.status == "failed", batches.c.failure.is_not(None)))
    order = case({"failed": 0, "leased": 1, "pending": 2}, value=batches.c.status, else_=3)
    return (await connection.execute(query.order_by(order, batches.c.id).limit(limit))).all()
