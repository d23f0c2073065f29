"""Suspects: vectors written since the canary was good last, counted, and taken back when an operator says so.

Floor 2. Promise: only the shadow column is touched, never one that readers see; one row of a heap page per transaction,
as the backfill writes; a row that the application holds is waited for, not for long. Killed in the middle, it begins
again where it was: what it took back is NULL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.errors import OperatorError
from migrator.generation import Side
from migrator.state import canary, migrations
from migrator.state.connection import fetch, run, transaction
from migrator.state.migrations import Migration
from migrator.statements import compose
from migrator.target import taking_back
from migrator.target.declaration import declare
from migrator.target.relation import Target

_FILE = "canary/suspects.sql"
#: Heap pages per transaction, each with one row at most: a few hundred updates are a few tens of milliseconds.
_WINDOW_PAGES = 512


@dataclass(eq=False)
class SuspectVectors(OperatorError):
    """Vectors were written that another model may have made."""

    name: str
    rows: int
    since: str
    tokens: int
    usd: float

    runbook = "canary"
    happened = "{rows} rows of {name} got their new vector after its canary was right last, at {since}."
    state = "It stays paused; nothing was changed."
    next = (
        "Run `migrator resume {name} --reembed` to take those vectors back and pay for them again (about {tokens} "
        "tokens, {usd:.4f} USD), or `migrator resume {name} --accept-canary REASON` to keep them."
    )


@dataclass(eq=False)
class SuspectsLive(OperatorError):
    """The suspect vectors are in the column that readers use."""

    name: str

    runbook = "canary"
    happened = "{name} was cut over, so its suspect vectors are the ones that readers use."
    state = "Nothing was changed: taking them back would take their rows out of every search."
    next = "Run `migrator rollback {name}`, or `migrator resume {name} --accept-canary REASON`."


def _parts(migration: Migration) -> Mapping[str, sql.Composable]:
    target = Target.of(migration)
    return {
        "table": target.table_id,
        "column": sql.Identifier(migration.column_of(Side.TO)),
        "table_name": sql.Literal(target.table_id.as_string(None)),
    }


async def count(engine: AsyncEngine, migration: Migration, horizon: int) -> int:
    """Count the rows written at or after a transaction id: one pass over the table."""
    async with transaction(engine, read_only=True) as connection:
        rows = await fetch(connection, compose(_FILE, "count", _parts(migration)), {"xid": canary.row_xid(horizon)})
    return int(rows[0]["rows"])


async def forget(engine: AsyncEngine, migration: Migration, horizon: int) -> int:
    """Take back every vector written at or after a transaction id; returns how many.

    Locks: a row of each page at a time, for milliseconds.
    Raises: SuspectsLive, RowsHeld.
    """
    return await taking_back.rounds(
        lambda: _once(engine, migration, horizon),
        lambda: count(engine, migration, horizon),
        name=migration.name,
    )


async def _once(engine: AsyncEngine, migration: Migration, horizon: int) -> int:
    """Go over the table once, window by window, until a window has none that is free."""
    async with transaction(engine, read_only=True) as connection:
        pages = (await fetch(connection, compose(_FILE, "pages", _parts(migration))))[0]["pages"]
    total = 0
    for first in range(0, pages, _WINDOW_PAGES):
        values = {"first": f"({first},0)", "beyond": f"({first + _WINDOW_PAGES},0)", "xid": canary.row_xid(horizon)}
        while True:
            taken = await _window(engine, migration, values)
            total += taken
            if not taken:
                break
    return total


async def _window(engine: AsyncEngine, migration: Migration, values: Mapping[str, str]) -> int:
    async with transaction(engine) as connection:
        await run(connection, compose("target/lanes.sql", "lock_table", _parts(migration)))
        now = await migrations.get_by_id(connection, migration.id)
        if now.live_side is Side.TO:
            raise SuspectsLive(now.name)
        await declare(connection, now, Side.TO)
        return await run(connection, compose(_FILE, "forget", _parts(now)), values)
