"""Tallies: how far the batches are, told from one row and what is in hand, whatever their number.

Floor 1. Promise: exact, and as cheap with a million batches as with ten. A batch that is done never changes any more,
so its counts are folded into the migration's row once; what was touched and is not folded has an index of its own; the
rest was never touched, and its number is a difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Select, bindparam, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.tables import batches, tallies

#: Batches folded by one tick: 30 ms of work, and more than workers finish in ten seconds.
FOLD_BATCHES = 5_000
_SUMS = ("rows_written", "rows_skipped", "rows_quarantined", "tokens")


@dataclass(frozen=True, slots=True)
class Counts:
    """How far the batches are. `rows_done` counts rows written by batches over all passes.

    `troubled` are those whose last attempt failed and those that failed for good.
    """

    total: int
    done: int
    leased: int
    pending: int
    failed: int
    troubled: int
    rows_done: int
    rows_skipped: int
    rows_quarantined: int
    tokens: int


async def planned(connection: AsyncConnection, migration_id: int, count: int) -> None:
    """Count batches that were made in this transaction."""
    statement = upsert(tallies).values(migration_id=migration_id, total=count)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["migration_id"], set_={"total": tallies.c.total + statement.excluded.total}
        )
    )


async def fold(connection: AsyncConnection, migration_id: int) -> int:
    """Add what is done to the migration's row; returns how many batches that were."""
    ready = (
        select(batches.c.id)
        .where(batches.c.migration_id == migration_id, batches.c.status == "done", _touched())
        .limit(FOLD_BATCHES)
        .with_for_update(skip_locked=True)
    )
    folding = (
        update(batches)
        .where(batches.c.id.in_(ready.scalar_subquery()))
        .values(folded=True)
        .returning(*(batches.c[name] for name in _SUMS))
        .cte("folding")
    )
    sums = [func.coalesce(func.sum(folding.c[name]), 0).label(name) for name in _SUMS]
    found = (await connection.execute(select(func.count().label("done"), *sums).select_from(folding))).one()
    if not found.done:
        return 0
    added = {name: tallies.c[name] + value for name, value in found._mapping.items()}  # noqa: SLF001 - its public name
    await connection.execute(update(tallies).where(tallies.c.migration_id == migration_id).values(**added))
    return int(found.done)


def _touched() -> Any:
    """Return the condition of the index that counting reads; the planner takes it only where it is written out."""
    return ~batches.c.folded & or_(batches.c.status != "pending", batches.c.fence > 0)


@cache
def _counting() -> Select[Any]:
    """Return the statement that counts, made once: every tick and every status asks it."""
    trouble = or_(
        batches.c.status == "failed",
        (batches.c.status == "pending") & batches.c.failure.is_not(None) & (batches.c.attempts > 0),
    )
    statuses = [func.count().filter(batches.c.status == each).label(each) for each in _STATUSES]
    sums = [func.coalesce(func.sum(batches.c[name]), 0).label(name) for name in _SUMS]
    touched = select(func.count().label("touched"), func.count().filter(trouble).label("troubled"), *statuses, *sums)
    hand = touched.where(batches.c.migration_id == bindparam("migration_id"), _touched()).subquery("hand")
    kept = [func.coalesce(tallies.c[name], 0).label(f"kept_{name}") for name in ("total", "done", *_SUMS)]
    # One statement: between two, a batch could be folded and be counted twice, or not at all.
    joined = hand.outerjoin(tallies, tallies.c.migration_id == bindparam("migration_id"))
    return select(hand, *kept).select_from(joined)


async def counts(connection: AsyncConnection, migration_id: int) -> Counts:
    """Count a migration's batches; never a scan of them all, let alone of the table."""
    row = (await connection.execute(_counting(), {"migration_id": migration_id})).one()
    return Counts(
        total=row.kept_total,
        done=row.kept_done + row.done,
        leased=row.leased,
        pending=row.kept_total - row.kept_done - row.touched + row.pending,
        failed=row.failed,
        troubled=row.troubled,
        rows_done=row.kept_rows_written + int(row.rows_written),
        rows_skipped=row.kept_rows_skipped + int(row.rows_skipped),
        rows_quarantined=row.kept_rows_quarantined + int(row.rows_quarantined),
        tokens=row.kept_tokens + int(row.tokens),
    )


_STATUSES = ("done", "leased", "pending", "failed")
