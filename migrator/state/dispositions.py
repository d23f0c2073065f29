"""Dispositions: why a row has no vector of the new generation, or a vector of shortened text.

Floor 1. Promise (P6): every row in scope has a vector or a line here. A line goes when the row's text changes and the
row is embedded after all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Row, Text, cast, delete, func, select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.tables import dispositions

SKIPPED, QUARANTINED, TRUNCATED = "skipped", "quarantined", "truncated"


@dataclass(frozen=True, slots=True)
class Disposition:
    """What became of a row, and why (reasons: null, empty, whitespace; too_long, content, rejected, server_error)."""

    key: tuple[str, ...]
    kind: Literal["skipped", "quarantined", "truncated"]
    reason: str


async def record(connection: AsyncConnection, migration_id: int, found: Sequence[Disposition]) -> None:
    """Write dispositions down, over earlier ones of the same rows."""
    if not found:
        return
    statement = insert(dispositions)
    statement = statement.on_conflict_do_update(
        index_elements=["migration_id", "key"],
        set_={
            "kind": statement.excluded.kind,
            "reason": statement.excluded.reason,
            "attempts": dispositions.c.attempts + 1,
            "at": func.now(),
        },
    )
    rows = [
        {"migration_id": migration_id, "key": list(each.key), "kind": each.kind, "reason": each.reason}
        for each in sorted(found, key=lambda each: each.key)
    ]
    await connection.execute(statement, rows)


async def withdraw(connection: AsyncConnection, migration_id: int, keys: Sequence[tuple[str, ...]]) -> None:
    """Delete the dispositions of rows that now have a vector, or are gone."""
    if keys:
        matching = dispositions.c.key.in_([cast(list(key), ARRAY(Text)) for key in keys])
        await connection.execute(delete(dispositions).where(dispositions.c.migration_id == migration_id, matching))


async def counts(connection: AsyncConnection, migration_id: int) -> dict[tuple[str, str], int]:
    """Count dispositions by (kind, reason)."""
    query = (
        select(dispositions.c.kind, dispositions.c.reason, func.count())
        .where(dispositions.c.migration_id == migration_id)
        .group_by(dispositions.c.kind, dispositions.c.reason)
    )
    return {(kind, reason): int(count) for kind, reason, count in await connection.execute(query)}


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
    statement = (
        delete(dispositions)
        .where(dispositions.c.migration_id == migration_id, dispositions.c.kind == QUARANTINED)
        .returning(dispositions.c.key)
    )
    return [tuple(row.key) for row in await connection.execute(statement)]
