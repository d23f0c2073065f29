"""What applications call: `migrator.query_vector`, `live_generation`, and what readers prepare themselves with.

Floor 1. Promise (P1, H9, H10): both answer for the column as the calling statement sees it. A REPEATABLE READ
transaction that began before a swap and first touches the table after it resolves the name `embedding` to the new
column; a row of a table would still tell it the old generation, a function replaced in the swap tells the new one.
So the generation of each target is a constant in a function of its own. What readers must be prepared for is told by
`generations`; a reader that heard it too long ago fails (MG010) and is never wrong.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import product

from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.errors import OperatorError
from migrator.generation import Generation, Side
from migrator.lifecycle import SWAPPABLE
from migrator.state.connection import fetch, run
from migrator.statements import compose

#: Any fixed number of our own: held by whoever replaces readers' or writers' functions.
_FUNCTIONS_KEY = 0x6D69677265616465


@dataclass(eq=False)
class ExtensionMissing(OperatorError):
    """pgvector is not installed in the database."""

    runbook = "first-migration"
    happened = "The extension `vector` (pgvector) is not installed in this database."
    state = "Nothing was changed."
    next = "Run `CREATE EXTENSION vector` as a superuser, then the same command again."


def functions_lock() -> sql.Composed:
    """Return what keeps everybody else from replacing functions of ours until commit (H9)."""
    return compose("target/readers.sql", "functions_lock", {"key": sql.Literal(_FUNCTIONS_KEY)})


def side_function(schema: str, table: str, column: str) -> sql.Identifier:
    """Return the name of the function that holds a target's constant (readers.sql, live_row, makes the same)."""
    digest = hashlib.md5(f"{schema}.{table}.{column}".encode(), usedforsecurity=False).hexdigest()
    return sql.Identifier("migrator", f"side_{digest[:24]}")


def constant(schema: str, table: str, column: str, side: Side, generation: Generation) -> sql.Composed:
    """Return the statement that makes a target's constant; the swap runs it in its own transaction."""
    body = sql.SQL("SELECT {}::text, {}::text").format(sql.Literal(side.value), sql.Literal(str(generation)))
    parts = {"function": side_function(schema, table, column), "body": sql.Literal(body.as_string())}
    return compose("target/readers.sql", "side_of_target", parts)


async def install(connection: AsyncConnection) -> None:
    """Install the functions, and the constants of every target known (after an upgrade or a restore).

    Locks: the functions', until commit: a swap under way would find its constant put back.
    Raises: ExtensionMissing.
    """
    await run(connection, functions_lock())
    types = await fetch(connection, compose("target/readers.sql", "vector_types"))
    if not types:
        raise ExtensionMissing
    await run(connection, compose("target/readers.sql", "live_row"))
    await run(connection, compose("target/readers.sql", "live_generation"))
    for old, new in product(types, repeat=2):
        wide = old if old["name"] == new["name"] else next(each for each in types if each["name"] == "vector")
        parts = {
            name: sql.Identifier(each["schema"], each["name"])
            for name, each in (("old", old), ("new", new), ("type", wide))
        }
        await run(connection, compose("target/readers.sql", "query_vector", parts))
    await run(connection, compose("target/readers.sql", "never_moved"))
    await run(connection, compose("target/readers.sql", "query_vector_of"))
    swappable = {"swappable": sql.Literal(sorted(SWAPPABLE))}
    await run(connection, compose("target/readers.sql", "generations", swappable))
    await run(connection, compose("target/readers.sql", "reader_ready", swappable))
    for row in await fetch(connection, compose("target/readers.sql", "live_targets")):
        names = (row["target_schema"], row["target_table"], row["target_column"])
        await run(connection, constant(*names, Side(row["side"]), Generation.parse(row["generation"])))
    await run(connection, compose("target/readers.sql", "pin"))
    await run(connection, compose("target/readers.sql", "grant_usage"))
