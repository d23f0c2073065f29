"""The one way into the database: SQLAlchemy for our tables, its psycopg connection for theirs.

Floor 1. Promise: every transaction of ours sees all rows or fails (row_security off, H22), resolves names from
pg_catalog only, and never waits on a lock longer than it was told to. The settings are transaction-local, so they
hold behind a transaction pooler as well. No transaction is ever open while the provider is called (P4): callers
open one, do one thing, and leave.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql
from psycopg.rows import dict_row, tuple_row
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from migrator.errors import Defect, OperatorError, TransientError

#: Our own row locks are held for milliseconds; a wait this long means that something is wrong.
LOCK_TIMEOUT_SECONDS = 5.0
#: Connecting takes milliseconds; behind a dead route it would take minutes.
CONNECT_TIMEOUT_SECONDS = 5
#: Seconds that a transaction of ours may stand between two statements, which are milliseconds apart. A process that
#: froze there, or whose route is gone, gives the application's rows back then, and not when the kernel gives up.
IDLE_TIMEOUT_SECONDS = 10.0
#: A silent connection is asked after 30 s, and given up when 3 looks, 10 s apart, or 60 s of sending went unanswered.
_KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}


@dataclass(eq=False)
class DatabaseUnreachable(TransientError):
    """No connection could be made."""

    where: str
    why: str

    runbook = "database-unreachable"
    happened = "The database at {where} can't be reached: {why}."
    state = "Nothing was changed; what workers have in hand stays leased and is taken up again."
    next = "Check the server and MIGRATOR_DATABASE_URL, then run `migrator doctor`."


@dataclass(eq=False)
class DatabaseRefused(OperatorError):
    """The server answered and did not let us in."""

    where: str
    why: str

    runbook = "database-unreachable"
    happened = "The database at {where} refused the connection: {why}."
    state = "Nothing was changed."
    next = "Check user, password and database name in MIGRATOR_DATABASE_URL, then run `migrator doctor`."


@dataclass(eq=False)
class DatabaseGone(TransientError):
    """A connection broke in the middle."""

    why: str

    runbook = "database-unreachable"
    happened = "The connection to the database was lost ({why})."
    state = "An open transaction was rolled back by the server; everything committed stays."
    next = "Run the same command again, or `migrator status`."


@dataclass(eq=False)
class LockBusy(TransientError):
    """A lock was not to be had in time."""

    what: str

    runbook = "lock-timeout"
    happened = "A lock could not be had in time ({what})."
    state = "The transaction was rolled back; nothing was changed by it."
    next = "Run the same command again; `migrator status` shows what stands now."


@dataclass(eq=False)
class PrivilegeMissing(OperatorError):
    """The database user may not do what is needed."""

    what: str

    runbook = "first-migration"
    happened = "The database user lacks a privilege: {what}."
    state = "The transaction was rolled back; nothing was changed by it."
    next = "Run `migrator grants SPEC` for what to grant, and have an administrator run what it prints."


def make_engine(url: str, application_name: str, *, pool_size: int = 4) -> AsyncEngine:
    """Make an engine. Nothing connects before it is used, so that a worker may make it after its fork.

    A pool of no size closes each connection after its use: the engine may be used before a fork, and in many loops.
    """
    scheme, rest = url.split("://", 1)
    del scheme
    pool: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 4, "pool_pre_ping": True}
    return create_async_engine(
        f"postgresql+psycopg://{rest}",
        **(pool if pool_size else {"poolclass": NullPool}),
        # Said in each BEGIN: whoever waited for a lock must see what it waited for, whatever the database's default is.
        isolation_level="READ COMMITTED",
        use_native_hstore=False,  # we have none, and looking for it costs each engine a round trip
        hide_parameters=True,  # parameters are row texts and keys (P11)
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "application_name": application_name,
            **_KEEPALIVE,
            "prepare_threshold": None,  # named statements do not survive a transaction pooler
        },
    )


#: What every transaction of ours begins with.
_OURS = text(
    "SELECT set_config('row_security', 'off', true), set_config('search_path', 'pg_catalog', true),"
    " set_config('lock_timeout', :lock, true), set_config('statement_timeout', :statement, true),"
    " set_config('idle_in_transaction_session_timeout', :idle, true),"
    " set_config('transaction_read_only', :read_only, true)"
)


@asynccontextmanager
async def transaction(
    engine: AsyncEngine,
    *,
    read_only: bool = False,
    lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
    statement_timeout_seconds: float = 0,
) -> AsyncIterator[AsyncConnection]:
    """Open one transaction with our settings; commits at the end, rolls back on any error.

    Raises: DatabaseUnreachable, DatabaseRefused, DatabaseGone, LockBusy, PrivilegeMissing; never a driver's error
    that might quote a row.
    """
    with translated(engine.url.render_as_string(hide_password=True)):
        async with engine.connect() as connection, connection.begin():
            await connection.execute(
                _OURS,
                {
                    "lock": f"{lock_timeout_seconds * 1000:.0f}ms",
                    "statement": f"{statement_timeout_seconds * 1000:.0f}ms",
                    "idle": f"{IDLE_TIMEOUT_SECONDS * 1000:.0f}ms",
                    "read_only": "on" if read_only else "off",
                },
            )
            yield connection


#: A statement and its values; with None a percent sign is one.
Statement = tuple[sql.SQL | sql.Composed, Mapping[str, Any] | None]


async def driver(connection: AsyncConnection) -> psycopg.AsyncConnection[Any]:
    """Return the psycopg connection under a SQLAlchemy one: the same transaction, for the operator's own table."""
    raw = (await connection.get_raw_connection()).driver_connection
    assert isinstance(raw, psycopg.AsyncConnection)  # noqa: S101 - the engine's URL says psycopg
    return raw


async def fetch(
    connection: AsyncConnection, statement: sql.SQL | sql.Composed, values: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Run a statement in SQLAlchemy's transaction, on its psycopg connection; returns its rows."""
    raw = await driver(connection)
    async with raw.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, values)
        return await cursor.fetchall() if cursor.description else []


async def run(
    connection: AsyncConnection, statement: sql.SQL | sql.Composed, values: Mapping[str, Any] | None = None
) -> int:
    """Run a statement; returns the number of rows it touched."""
    raw = await driver(connection)
    async with raw.cursor() as cursor:
        await cursor.execute(statement, values)
        return cursor.rowcount


async def run_together(connection: AsyncConnection, statements: Sequence[Statement]) -> list[tuple[Any, ...]]:
    """Run several statements, each with its own snapshot, in one round trip; returns the rows of the last.

    The simple protocol, which takes several, knows no parameters: the driver writes `values` into the text, so they are
    numbers and names of our own and never a row's.
    """
    raw = await driver(connection)
    async with psycopg.AsyncClientCursor(raw, row_factory=tuple_row) as cursor:
        text: Any = ";\n".join(cursor.mogrify(each, values) for each, values in statements)
        await cursor.execute(text)
        while cursor.nextset():
            pass
        return await cursor.fetchall() if cursor.description else []


#: Our own SQLSTATEs: a guarded move found another status (state/moving.sql); under the swap's lock the catalog was not
#: what it had been, too many rows lacked a vector, or something did not follow the column's name (target/swap.sql).
MOVED, CATALOG_CHANGED, TOO_DIRTY, LEFT_BEHIND = "MG001", "MG002", "MG003", "MG006"


@dataclass(eq=False)
class CatalogChanged(OperatorError):
    """Somebody changed the table between the last look and the lock."""

    runbook = "cutover"
    happened = "The table, or something that hangs on it, was changed by somebody else at the same moment."
    state = "The transaction was rolled back; nothing was changed by it."
    next = "Look at what changed, then run the same command again."


@dataclass(eq=False)
class TooDirty(TransientError):
    """Too many rows lacked a vector under the swap's lock."""

    runbook = "cutover"
    happened = "More rows than allowed lacked their vector when the lock was had."
    state = "The transaction was rolled back; nothing was changed by it."
    next = "Let catch-up go on, then run the same command again; or allow more with --max-dirty-rows."


@dataclass(eq=False)
class LeftBehind(OperatorError):
    """Something would have stayed on the old column."""

    what: str

    runbook = "cutover"
    happened = "After the swap of names something still hung on the old column: {what}."
    state = "The transaction was rolled back; nothing was changed by it."
    next = "Run the same command again, which takes along what came just now; drop what it names once more."


@dataclass(eq=False)
class ConstraintRefuses(OperatorError):
    """A CHECK that the live column has is not content with what the new model gives."""

    constraint: str

    runbook = "column-breaks-writes"
    happened = "The CHECK constraint {constraint} refuses a vector of the new generation."
    state = "That transaction was rolled back; every vector written before is kept, and the live column is untouched."
    next = "Run `migrator cancel NAME` and `migrator cleanup NAME`, mend the constraint, plan under a new name."


@dataclass(eq=False)
class MovedMeanwhile(OperatorError):
    """The migration's status changed between looking at it and moving it."""

    runbook = "first-migration"
    happened = "The migration was moved by somebody else at the same moment."
    state = "The transaction was rolled back; nothing was changed by it."
    next = "Run `migrator status`."


class translated:  # noqa: N801 - reads as a word in `with translated(...)`
    """Turn a driver's errors into ours, which hold no values of rows."""

    def __init__(self, where: str) -> None:
        self._where = _place(where)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, psycopg.Error):
            raise as_ours(cause, self._where) from None
        if isinstance(cause, OSError):
            raise DatabaseUnreachable(self._where, type(cause).__name__) from None


def as_ours(error: psycopg.Error, where: str) -> Exception:
    """Map a psycopg error by its SQLSTATE; messages are ours, since the server's may quote a row (P11)."""
    state = error.sqlstate
    if state is None or state.startswith("08"):
        return _without_state(error, where)
    made: dict[str, Callable[[], Exception]] = {
        "3D000": lambda: DatabaseRefused(where, _first_line(error)),  # no such database
        "42501": lambda: PrivilegeMissing(_first_line(error)),
        MOVED: MovedMeanwhile,
        CATALOG_CHANGED: CatalogChanged,
        TOO_DIRTY: TooDirty,
        LEFT_BEHIND: lambda: LeftBehind(_first_line(error).removeprefix("migrator: ")),
        **dict.fromkeys(_GONE, lambda: DatabaseGone(state)),
        **dict.fromkeys(_BUSY, lambda: LockBusy(f"SQLSTATE {state}")),
        **dict.fromkeys(_FULL, lambda: DatabaseUnreachable(where, _first_line(error))),
    }
    if state.startswith("28"):  # authorisation
        return DatabaseRefused(where, _first_line(error))
    if state in made:
        return made[state]()
    if state == _CHECK_VIOLATION and error.diag.schema_name != _OWN_SCHEMA:
        return ConstraintRefuses(error.diag.constraint_name or "of the table")
    return Defect(f"PostgreSQL answered SQLSTATE {state} ({type(error).__name__}) to a statement of ours")


#: What a CHECK says, which of our own tables is a defect of ours.
_CHECK_VIOLATION, _OWN_SCHEMA = "23514", "migrator"
#: SQLSTATEs: terminated by an administrator, crash shutdown, starting up.
_GONE = ("57P01", "57P02", "57P03")
#: Lock not available, deadlock, idle in transaction, cancelled, transaction timeout, serialization.
_BUSY = ("55P03", "40P01", "25P03", "57014", "25P04", "40001")
#: Disk full, out of memory, too many connections.
_FULL = ("53100", "53200", "53300")


def _without_state(error: psycopg.Error, where: str) -> Exception:
    """Tell a failure to connect by its words: it carries no SQLSTATE."""
    line = _first_line(error)
    if isinstance(error, psycopg.OperationalError):
        refused = ("authentication failed", "no password supplied", "does not exist", "no pg_hba.conf entry")
        for words in refused:
            if words in str(error):
                return DatabaseRefused(where, words)
        unreachable = ("connection failed", "connection timeout", "failed to resolve host", "could not translate host")
        if any(words in str(error) for words in unreachable):
            return DatabaseUnreachable(where, _connect_reason(error))
        return DatabaseGone(line)
    return Defect(f"{type(error).__name__} from the database driver")


def _connect_reason(error: psycopg.Error) -> str:
    for words in (
        "Connection refused",
        "timeout",
        "could not translate host name",
        "Name or service not known",
    ):
        if words in str(error):
            return words.lower()
    return _first_line(error)


def _first_line(error: psycopg.Error) -> str:
    """Return the primary message only: DETAIL and CONTEXT may quote a row."""
    primary = error.diag.message_primary
    return (primary or str(error)).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname or 'the local socket'}:{parts.port or 5432}{parts.path}"
