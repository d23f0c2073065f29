"""Splits: cutting a batch that uses up its attempts, so that what is bad in it can't hold up the rest.

Floor 1. Promise: no page and no row is lost by a split: the two parts are the whole, in one transaction, under a new
fence. Who decides where to cut, and what becomes of a single bad row, is `backfill.suspects`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, and_, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state import tallies
from migrator.state.batches import last_number
from migrator.state.migrations import Migration
from migrator.state.tables import batches

#: Attempts after which a batch is split at its middle, so that one bad page can't hold up the others; a batch of
#: one page fails instead. GitLab's batched migrations split after 3; two more forgive a passing outage.
MAX_ATTEMPTS = 5
#: Silent ends after which a batch is split by its rows. A split costs nothing, and each one halves what dies with the
#: bad row: two a split and three for the row alone are 2 * ceil(log2 n) + 3 <= 5 * log2 n attempts for n rows.
MAX_DEATHS = 2


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a row lies: heap page and line pointer."""

    page: int
    item: int


async def worn(connection: AsyncConnection, migration_id: int) -> Sequence[Row[Any]]:
    """Return pending batches that used up their attempts or whose workers died, locked."""
    query = select(batches).where(
        batches.c.migration_id == migration_id,
        batches.c.status == "pending",
        ~batches.c.folded,
        batches.c.fence > 0,  # names the index of what was touched: a million untouched ones are not looked at
        or_(batches.c.attempts >= MAX_ATTEMPTS, batches.c.deaths >= MAX_DEATHS),
    )
    return (await connection.execute(query.order_by(batches.c.id).with_for_update(skip_locked=True))).all()


async def split_at(connection: AsyncConnection, migration: Migration, row: Row[Any], last: Place | None) -> None:
    """Cut a batch behind `last`, the last row of its first part; behind its middle page where that is None."""
    half = (row.first_page + row.last_page) // 2 if last is None else last.page
    second = Place(half + 1, 0) if last is None else Place(last.page, last.item + 1)
    await connection.execute(
        insert(batches).values(
            migration_id=migration.id,
            number=await last_number(connection, migration.id) + 1,
            pass_number=row.pass_number,
            relation_oid=row.relation_oid,
            relation_file=row.relation_file,
            first_page=second.page,
            first_item=second.item,
            last_page=row.last_page,
            last_item=row.last_item,
        )
    )
    await tallies.planned(connection, migration.id, 1)
    await _change(connection, row, last_page=half, last_item=None if last is None else last.item, **_FRESH)


_FRESH: dict[str, Any] = {"attempts": 0, "deaths": 0, "not_before": None}


async def calm(connection: AsyncConnection, row: Row[Any]) -> None:
    """Count a batch's attempts anew: what wore it out is no longer in it."""
    await _change(connection, row, **_FRESH)


async def fail(connection: AsyncConnection, row: Row[Any]) -> None:
    """Give a batch up until an operator runs `migrator retry`."""
    await _change(connection, row, status="failed")


async def close(connection: AsyncConnection, row: Row[Any], *, quarantined: int) -> None:
    """Finish a batch whose last row was quarantined, in the transaction that wrote that down."""
    await _change(
        connection,
        row,
        status="done",
        finished_at=func.clock_timestamp(),
        rows_quarantined=batches.c.rows_quarantined + quarantined,
    )


async def _change(connection: AsyncConnection, row: Row[Any], **values: Any) -> None:
    """Change a batch that is locked and pending; its fence grows, so that tickets under way are stale."""
    mine = and_(batches.c.id == row.id, batches.c.status == "pending")
    changed = {"fence": batches.c.fence + 1, "ticket_until": None, **values}
    await connection.execute(update(batches).where(mine).values(**changed))
