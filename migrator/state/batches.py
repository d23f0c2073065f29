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

from sqlalchemy import BigInteger, Row, and_, case, func, insert, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.leases import TICKET_SECONDS, Duty, Kind, Ticket
from migrator.state.migrations import Migration
from migrator.state.tables import batches, duties

#: Attempts after which a batch is split at its middle, so that one bad page can't hold up the others; a batch of
#: one page fails instead. GitLab's batched migrations split after 3; two more forgive a passing outage.
MAX_ATTEMPTS = 5

QUEUE_BACKFILL, QUEUE_LIVE, QUEUE_INDEX, QUEUE_CONTROL = "backfill", "live", "index", "control"


@dataclass(frozen=True, slots=True)
class Heap:
    """A heap to be cut into windows; `file` changes when it is rewritten."""

    oid: int
    file: int
    pages: int


async def plan_pass(connection: AsyncConnection, migration: Migration, heap: Heap, width: int) -> int:
    """Store the next pass's windows of `width` pages as pending batches; returns how many. Made in the database."""
    first = func.generate_series(0, heap.pages - 1, width).table_valued("page").render_derived(name="w")
    number = func.row_number().over(order_by=first.c.page) + await _last_number(connection, migration.id)
    names = ["migration_id", "number", "pass_number", "relation_oid", "relation_file", "first_page", "last_page"]
    made = select(
        literal(migration.id),
        number,
        literal(migration.pass_number + 1),
        literal(heap.oid, BigInteger),
        literal(heap.file, BigInteger),
        first.c.page,
        func.least(first.c.page + width, heap.pages) - 1,
    ).select_from(first)
    await connection.execute(insert(batches).from_select(names, made))
    return math.ceil(heap.pages / width)


async def _last_number(connection: AsyncConnection, migration_id: int) -> int:
    query = select(func.coalesce(func.max(batches.c.number), 0)).where(batches.c.migration_id == migration_id)
    return int((await connection.execute(query)).scalar_one())


async def offer(connection: AsyncConnection, migration: Migration, limit: int) -> list[Ticket]:
    """Give out tickets for pending batches so that at most `limit` are under way, and remember that they were."""
    now = func.clock_timestamp()
    under_way = await connection.execute(
        select(func.count())
        .select_from(batches)
        .where(
            batches.c.migration_id == migration.id,
            or_(
                batches.c.status == "leased",
                and_(batches.c.status == "pending", batches.c.ticket_until > now),
            ),
        )
    )
    room = limit - under_way.scalar_one()
    if room <= 0:
        return []
    free = (
        select(batches.c.id)
        .where(
            batches.c.migration_id == migration.id,
            batches.c.status == "pending",
            or_(batches.c.ticket_until.is_(None), batches.c.ticket_until <= now),
            or_(batches.c.not_before.is_(None), batches.c.not_before <= now),
        )
        .order_by(batches.c.id)
        .limit(room)
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(batches)
        .where(batches.c.id.in_(free.scalar_subquery()))
        .values(ticket_until=now + timedelta(seconds=TICKET_SECONDS))
        .returning(batches)
    )
    rows = sorted((await connection.execute(statement)).all(), key=lambda row: row.id)
    return [_batch_ticket(migration, row) for row in rows]


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


async def offer_duty(connection: AsyncConnection, migration: Migration, duty: Duty) -> list[Ticket]:
    """Give out a ticket for a pending duty, unless one is under way."""
    now = func.clock_timestamp()
    statement = (
        update(duties)
        .where(
            duties.c.migration_id == migration.id,
            duties.c.duty == duty,
            duties.c.status == "pending",
            or_(duties.c.ticket_until.is_(None), duties.c.ticket_until <= now),
            or_(duties.c.not_before.is_(None), duties.c.not_before <= now),
        )
        .values(ticket_until=now + timedelta(seconds=TICKET_SECONDS))
        .returning(duties)
    )
    queue = QUEUE_LIVE if duty is Duty.CATCH_UP else QUEUE_INDEX
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
    await connection.execute(
        update(batches)
        .where(batches.c.id == batch_id)
        .values(
            rows_written=batches.c.rows_written + written,
            rows_skipped=batches.c.rows_skipped + skipped,
            rows_quarantined=batches.c.rows_quarantined + quarantined,
            tokens=batches.c.tokens + tokens,
        )
    )


@dataclass(frozen=True, slots=True)
class Counts:
    """How far the batches are. `rows_done` counts rows written by batches over all passes."""

    total: int
    done: int
    leased: int
    pending: int
    failed: int
    rows_done: int
    rows_skipped: int
    rows_quarantined: int
    tokens: int


async def counts(connection: AsyncConnection, migration_id: int) -> Counts:
    """Count a migration's batches: a scan of its batches, never of the table."""

    def how_many(status: str) -> Any:
        return func.count().filter(batches.c.status == status)

    def sum_of(column: Any) -> Any:
        return func.coalesce(func.sum(column), 0)

    row = (
        await connection.execute(
            select(
                func.count().label("total"),
                how_many("done").label("done"),
                how_many("leased").label("leased"),
                how_many("pending").label("pending"),
                how_many("failed").label("failed"),
                sum_of(batches.c.rows_written).label("rows_done"),
                sum_of(batches.c.rows_skipped).label("rows_skipped"),
                sum_of(batches.c.rows_quarantined).label("rows_quarantined"),
                sum_of(batches.c.tokens).label("tokens"),
            ).where(batches.c.migration_id == migration_id)
        )
    ).one()
    return Counts(**{name: int(value) for name, value in row._mapping.items()})  # noqa: SLF001 - its public name


async def open_count(connection: AsyncConnection, migration_id: int) -> int:
    """Count batches that are neither done nor failed."""
    query = select(func.count()).where(
        batches.c.migration_id == migration_id, batches.c.status.in_(["pending", "leased"])
    )
    return int((await connection.execute(query)).scalar_one())


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


async def split_exhausted(connection: AsyncConnection, migration: Migration) -> tuple[int, int]:
    """Split batches that used up their attempts; returns (split, failed): a single page can't be split and fails."""
    exhausted = and_(
        batches.c.migration_id == migration.id, batches.c.status == "pending", batches.c.attempts >= MAX_ATTEMPTS
    )
    one_page = batches.c.first_page == batches.c.last_page
    failed = (await connection.execute(update(batches).where(exhausted, one_page).values(status="failed"))).rowcount
    rows = (await connection.execute(select(batches).where(exhausted).with_for_update(skip_locked=True))).all()
    for row in rows:
        half = (row.first_page + row.last_page) // 2
        await connection.execute(
            insert(batches).values(
                migration_id=migration.id,
                number=await _last_number(connection, migration.id) + 1,
                pass_number=row.pass_number,
                relation_oid=row.relation_oid,
                relation_file=row.relation_file,
                first_page=half + 1,
                last_page=row.last_page,
            )
        )
        await connection.execute(
            update(batches)
            .where(batches.c.id == row.id)
            .values(last_page=half, attempts=0, fence=batches.c.fence + 1, ticket_until=None)
        )
    return len(rows), failed


async def retry_failed(connection: AsyncConnection, migration_id: int) -> int:
    """Put failed batches back; returns how many."""
    statement = (
        update(batches)
        .where(batches.c.migration_id == migration_id, batches.c.status == "failed")
        .values(status="pending", attempts=0, not_before=None, failure=None)
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
