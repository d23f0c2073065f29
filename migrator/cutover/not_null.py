"""NOT NULL of the vector column: off in the swap, since rows lack a vector for moments; back on when the window closes.

Floor 2. Promise (H23): it comes back under its own name, without a lock that lasts: added NOT VALID in the transaction
that takes the triggers away, so that no statement of the application meets both, and looked at over the table
afterwards. A column of which rows lack a vector is not cleaned up unless somebody says that it may stay nullable.
"""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.errors import OperatorError, TransientError
from migrator.state import migrations
from migrator.state.connection import transaction
from migrator.state.migrations import Migration
from migrator.statements import compose
from migrator.target import facts, message, outcome
from migrator.target.message import OnWait
from migrator.target.relation import Target

_FILE = "cutover/not_null.sql"
#: server_version_num of PostgreSQL 18, where NOT NULL may be NOT VALID.
_NAMED_SINCE = 180000


@dataclass(eq=False)
class RowsWithoutVector(OperatorError):
    """Rows have no vector, and the column was NOT NULL."""

    name: str
    column: str
    rows: int

    runbook = "cleanup"
    happened = "{rows} of the rows of {name} have no vector, and {column} was NOT NULL before the cutover."
    state = "Nothing was changed: the column may be NULL for the time being."
    next = (
        "Delete them or give them a text (`migrator rows {name}` says why they have none), then run `migrator cleanup "
        "{name}` again with the same options; or with `--leave-nullable` too."
    )


@dataclass(eq=False)
class NotNullUnproved(TransientError):
    """Rows lost their vector while everything else was cleaned up."""

    name: str
    column: str
    rows: int

    runbook = "cleanup"
    happened = "{name} is cleaned up, but {rows} of its rows have no vector, so NOT NULL of {column} is NOT VALID."
    state = "What is written from now on must have a vector; those rows can't be updated without one."
    next = "Delete them or give them a vector, then run `migrator cleanup {name}` again: it has the table looked at."


def _parts(migration: Migration) -> dict[str, sql.Composable]:
    target = Target.of(migration)
    return {
        "table": target.table_id,
        "column": sql.Identifier(target.column),
        "name": sql.Identifier(migration.not_null or ""),
        "migration_id": sql.Literal(migration.id),
        "side": sql.Literal(migration.live_side.value),
        "key": target.key_of("t"),
    }


async def refuse(engine: AsyncEngine, migration: Migration, *, debt_is_left: bool = False) -> None:
    """Make sure that NOT NULL can come back; rows that wait for their vector count where nobody will embed them.

    Cost: one pass over the table without its vectors, and only where the column was NOT NULL.
    Raises: RowsWithoutVector.
    """
    if migration.not_null is None:
        return
    missing, awaited = await _missing(engine, migration)
    rows = missing + awaited if debt_is_left else missing
    if rows:
        raise RowsWithoutVector(migration.name, migration.target_column, rows)


async def _missing(engine: AsyncEngine, migration: Migration) -> tuple[int, int]:
    """Return how many rows have no vector: those that none is on its way to, and those that wait for one."""
    async with message.unhurried(engine) as raw:
        row = await (await raw.execute(compose(_FILE, "missing", _parts(migration)))).fetchone()
    return (int(row[0]), int(row[1])) if row is not None else (0, 0)


def statements(migration: Migration, server_version: int, *, leave_nullable: bool) -> list[sql.Composable]:
    """Return what puts NOT NULL back for what is written from now on, under the lock."""
    if migration.not_null is None:
        return []
    parts = _parts(migration)
    if leave_nullable:
        return [compose(_FILE, "forget", parts)]
    if server_version >= _NAMED_SINCE:
        comment = migration.plan.get("not_null_comment")
        said = [] if comment is None else [compose(_FILE, "comment", {**parts, "comment": sql.Literal(comment)})]
        return [compose(_FILE, "add", parts), *said]
    return [compose(_FILE, "add_check", parts)]


async def finish(engine: AsyncEngine, migration: Migration, *, on_wait: OnWait) -> None:
    """Have the whole table looked at, and forget that the column was NOT NULL: it is again.

    Locks: SHARE UPDATE EXCLUSIVE on the table while it is read; before PostgreSQL 18 then ACCESS EXCLUSIVE for
    milliseconds, with one deadline per try.
    Raises: NotNullUnproved, LockNotObtained, Undone, OutcomeUnknown.
    """
    async with transaction(engine, read_only=True) as connection:
        migration = await migrations.get_by_id(connection, migration.id)
        relation = await facts.relation(connection, migration.target_schema, migration.target_table)
        version = (await facts.server(connection))["version"]
    if migration.not_null is None or relation is None:
        return
    rows, _ = await _missing(engine, migration)  # behind a cleanup nothing is on its way any more
    if rows:
        raise NotNullUnproved(migration.name, migration.target_column, rows)
    parts = _parts(migration)
    async with message.unhurried(engine) as raw:
        await raw.execute(compose(_FILE, "validate", parts))
    if version >= _NAMED_SINCE:
        async with message.raw_connection(engine) as raw:
            await raw.execute(compose(_FILE, "forget", parts))
        return
    await outcome.insist(
        engine,
        relation.oid,
        message.whole(put_back(migration, version)),
        migration,
        verb="cleanup",
        done=lambda found: found.not_null is None,
        on_wait=on_wait,
    )


def put_back(migration: Migration, server_version: int) -> list[sql.Composable]:
    """Return the last transaction before PostgreSQL 18, statement by statement: the valid CHECK becomes NOT NULL."""
    parts = _parts(migration)
    body = [compose(_FILE, "set", parts), compose(_FILE, "drop_check", parts), compose(_FILE, "forget", parts)]
    table = Target.of(migration).table_id
    return message.frame(table, body, lock_statements=[message.lock_table(table)], server_version=server_version)
