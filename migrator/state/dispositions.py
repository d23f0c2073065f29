"""Dispositions: why a row has no vector of the new generation, or a vector of shortened text.

Floor 1. Promise (P6): every row in scope has a vector or a line here. A line goes when the row's text changes and the
row is embedded after all. How many there are is known exactly without reading them: a trigger writes down what each
statement added and took away, and nobody waits for anybody.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from sqlalchemy import Row, Select, Text, bindparam, cast, delete, func, select, text, union_all
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import ColumnElement

from migrator.state.count_tables import disposition_changes, disposition_sums
from migrator.state.tables import dispositions

SKIPPED, QUARANTINED, TRUNCATED = "skipped", "quarantined", "truncated"


@dataclass(frozen=True, slots=True)
class Disposition:
    """What became of a row, and why (reasons: null, empty, whitespace; too_long, content, rejected, server_error)."""

    key: tuple[str, ...]
    kind: Literal["skipped", "quarantined", "truncated"]
    reason: str


#: One statement for all of them: each is a line of `disposition_changes`. In the keys' order, as they are deleted.
_RECORD = """
INSERT INTO migrator.dispositions AS d (migration_id, key, kind, reason)
SELECT :migration_id, r.key, r.kind, r.reason
  FROM jsonb_to_recordset(CAST(:found AS jsonb)) AS r (key text[], kind text, reason text) ORDER BY r.key
    ON CONFLICT (migration_id, key) DO UPDATE
   SET kind = excluded.kind, reason = excluded.reason, attempts = d.attempts + 1, at = now()
"""


async def record(connection: AsyncConnection, migration_id: int, found: Sequence[Disposition]) -> None:
    """Write dispositions down, over earlier ones of the same rows."""
    if not found:
        return
    rows = {each.key: {"key": list(each.key), "kind": each.kind, "reason": each.reason} for each in found}
    await connection.execute(text(_RECORD), {"migration_id": migration_id, "found": json.dumps(list(rows.values()))})


async def withdraw(connection: AsyncConnection, migration_id: int, keys: Sequence[tuple[str, ...]]) -> None:
    """Delete the dispositions of rows that now have a vector, or are gone."""
    if keys:
        matching = dispositions.c.key.in_([cast(list(key), ARRAY(Text)) for key in keys])
        await _delete(connection, migration_id, matching)


@cache
def _counting() -> Select[Any]:
    """Return the statement that counts, made once: every tick and every status asks it."""
    parts = [
        select(table.c.kind, table.c.reason, table.c.rows).where(table.c.migration_id == bindparam("migration_id"))
        for table in (disposition_sums, disposition_changes)
    ]
    # One statement, one snapshot: what is folded meanwhile is seen in one of the two.
    both = union_all(*parts).subquery()
    total = func.sum(both.c.rows)
    return select(both.c.kind, both.c.reason, total).group_by(both.c.kind, both.c.reason).having(total != 0)


async def counts(connection: AsyncConnection, migration_id: int) -> dict[tuple[str, str], int]:
    """Return how many dispositions there are by (kind, reason): exact, without reading them."""
    found = await connection.execute(_counting(), {"migration_id": migration_id})
    return {(kind, reason): int(rows) for kind, reason, rows in found}


async def fold(connection: AsyncConnection, migration_id: int) -> None:
    """Add what came and went to the sums, so that few lines are read when they are counted."""
    gone = delete(disposition_changes).where(disposition_changes.c.migration_id == migration_id)
    taken = gone.returning(disposition_changes).cte("taken")
    added = select(taken.c.migration_id, taken.c.kind, taken.c.reason, func.sum(taken.c.rows).label("rows"))
    # In one order: two who fold at once wait for each other, and never both.
    added = added.group_by(taken.c.migration_id, taken.c.kind, taken.c.reason).order_by(taken.c.kind, taken.c.reason)
    statement = insert(disposition_sums).from_select(["migration_id", "kind", "reason", "rows"], added)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["migration_id", "kind", "reason"],
            set_={"rows": disposition_sums.c.rows + statement.excluded.rows},
        )
    )


async def listed(
    connection: AsyncConnection, migration_id: int, *, reason: str | None, limit: int
) -> Sequence[Row[Any]]:
    """Return dispositions for `migrator rows`."""
    query = select(dispositions).where(dispositions.c.migration_id == migration_id)
    if reason is not None:
        query = query.where(dispositions.c.reason == reason)
    return (await connection.execute(query.order_by(dispositions.c.key).limit(limit))).all()


async def attempts(connection: AsyncConnection, migration_id: int, key: tuple[str, ...], reason: str) -> int:
    """Return how often a row was written down for this reason."""
    query = select(dispositions.c.attempts).where(
        dispositions.c.migration_id == migration_id,
        dispositions.c.key == cast(list(key), ARRAY(Text)),
        dispositions.c.reason == reason,
    )
    return (await connection.execute(query)).scalar_one_or_none() or 0


async def take_quarantined(connection: AsyncConnection, migration_id: int) -> list[tuple[str, ...]]:
    """Delete the quarantined ones and return their keys, to be tried again."""
    return await _delete(connection, migration_id, dispositions.c.kind == QUARANTINED)


async def _delete(connection: AsyncConnection, migration_id: int, which: ColumnElement[bool]) -> list[tuple[str, ...]]:
    """Delete some of a migration's lines; returns their keys. They are locked in the order in which they are written.

    Two statements that touch the same rows in two orders would wait for each other.
    """
    mine = dispositions.c.migration_id == migration_id
    locked = select(dispositions.c.key).where(mine, which).order_by(dispositions.c.key).with_for_update().cte("locked")
    statement = delete(dispositions).where(mine, dispositions.c.key == locked.c.key).returning(dispositions.c.key)
    return [tuple(row.key) for row in await connection.execute(statement)]
