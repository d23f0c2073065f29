"""Both spaces as they are now, for a picture: a few random pages of the table, or the words why there is none.

Floor 4, below the doors. Promise: it reads some pages, never the table, under a time limit and a short lock timeout;
whatever goes wrong is said in words, and the report goes on. No key and no text is read.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from psycopg import sql
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.errors import MigratorError
from migrator.generation import Side
from migrator.measures import projection
from migrator.measures.projection import ROWS, Projection
from migrator.state.connection import driver, transaction
from migrator.state.migrations import Migration
from migrator.statements import compose
from migrator.target import column_types, facts, vectors
from migrator.target.relation import Target

_FILE = "report/drawing.sql"
#: Seconds that the look may take; a few hundred vectors by page are read in milliseconds.
_SECONDS = 2.0
#: Sample more than is wanted: pages are not equally full, and not every row has both vectors.
_OVERSAMPLE = 3.0
#: One picture for one state of the table: fixed, as the plan's own sample is.
_SEED = 20
_NOT_BOTH = "the table does not hold both columns: before `start` and after `cleanup` there is only one space"


def parts(migration: Migration) -> Mapping[str, sql.Composable]:
    """Return what the statement is composed from."""
    target = Target.of(migration)
    return {
        "table": target.table_id,
        "old": sql.Identifier(migration.column_of(Side.FROM)),
        "new": sql.Identifier(migration.column_of(Side.TO)),
        "in_scope": target.in_scope("t", migration.column_of(Side.FROM)),
    }


async def draw(engine: AsyncEngine, migration: Migration) -> tuple[Projection | None, str]:
    """Return both spaces as planes, or None and why not."""
    try:
        found = await _pairs(engine, migration)
    except MigratorError as error:
        return None, f"the table could not be looked at: {error.sentences()[0]}"
    if isinstance(found, str):
        return None, found
    made = projection.make(*found)
    return made, "" if made is not None else "too few rows have both vectors yet"


async def _pairs(engine: AsyncEngine, migration: Migration) -> tuple[np.ndarray, np.ndarray] | str:
    limits = {"statement_timeout_seconds": _SECONDS, "lock_timeout_seconds": _SECONDS / 2}
    async with transaction(engine, read_only=True, **limits) as connection:
        relation = await facts.relation(connection, migration.target_schema, migration.target_table)
        if relation is None:
            return "the table is gone"
        columns = await facts.columns(connection, relation.oid)
        if not {migration.target_column, migration.shadow_column} <= columns.keys():
            return _NOT_BOTH
        if not relation.may_select:
            return "this role may not read the table"
        rows = max(relation.estimated_rows, 1)
        values = {"percent": min(100.0, 100.0 * _OVERSAMPLE * ROWS / rows), "seed": _SEED, "wanted": ROWS}
        raw = await driver(connection)
        async with raw.cursor(row_factory=dict_row, binary=True) as cursor:
            await cursor.execute(compose(_FILE, "pairs", parts(migration)), values)
            drawn = await cursor.fetchall()
    sides = {"old": Side.FROM, "new": Side.TO}
    shapes = {name: (column_types.of(migration, side), migration.generation(side).dims) for name, side in sides.items()}
    kept = [
        row for row in drawn if all(vectors.kind_of(row[name], dims) == kind for name, (kind, dims) in shapes.items())
    ]
    old, new = (vectors.decode_all([row[name] for row in kept], *shapes[name]) for name in shapes)
    return old, new
