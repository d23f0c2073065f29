"""One message, one transaction: how we take ACCESS EXCLUSIVE on a live table without ever keeping it.

Floor 1. Promise (P8, P9, H11, H12, H14, H15): the whole transaction, BEGIN to COMMIT, reaches the server in one piece;
all its locks together have one deadline; nobody waits for us longer than that, also when this process is frozen or
killed. It commits whole or not at all. A try that could not get its locks leaves nothing behind, and tries are spaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.errors import TransientError
from migrator.state.connection import LockBusy, driver, fetch, transaction, translated
from migrator.statements import compose

_FILE = "target/message.sql"
#: Seconds that all locks of one try may take together, and so the longest that a bystander waits behind us.
DEADLINE_SECONDS = 0.4
#: A bound on everything the server does under the lock. Its real time is a few milliseconds.
STATEMENT_SECONDS = 1.5
#: Seconds between tries: quick ones first, for a lock that was just missed, then longer ones that leave the
#: application alone. (The ladder of GitLab's lock retries, without its last, unbounded try.)
LADDER_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 3.0, 5.0, 5.0, 10.0, 10.0, 10.0)


@dataclass(frozen=True, slots=True)
class Blocker:
    """Somebody who holds what we need. `pid` 0 is a prepared transaction."""

    pid: int
    role: str
    application: str
    #: As in pg_stat_activity; empty where we may not see it.
    state: str
    kind: str
    age_seconds: float
    #: The fingerprint of what it runs, or ran last: never the text, which may quote a row (P11).
    query: str = ""
    #: When its transaction began.
    since: datetime | None = None

    def __str__(self) -> str:
        who = self.application or self.kind or "unseen"
        told = f"pid {self.pid} ({who}, role {self.role or '-'}, {self.state or 'unseen'}, {self.age_seconds:.1f} s"
        return told + (f", query {self.query})" if self.query else ")")


#: Told of each try that failed: its number, who held the table, and the pause until the next one in seconds.
OnWait = Callable[[int, list[Blocker], float], None]
#: Cancels what holds the table, behind a try that failed; returns how many statements it cancelled.
Cancel = Callable[[list[Blocker]], Awaitable[int]]


#: What stands when a verb's transaction was not done, where it is not what stood before: it had done something already.
STANDS = {
    "unblock": "The triggers are still on the table of {name} and do nothing",
    "resume": "Capture of {name} stays off, as it was",
    "cleanup": "What was dropped of {name} before stays dropped, and all else is as it was",
}


@dataclass(eq=False)
class LockNotObtained(TransientError):
    """Every try to lock the table met somebody who held it."""

    name: str
    verb: str
    tries: int
    blockers: list[Blocker]
    cancelled: int = 0

    runbook = "cutover-lock-timeout"
    state = "The columns are as they were: {name} stands where it stood, and {cancelled} was cancelled."
    next = "Wait for them or end them, then run `migrator {verb} {again}` again."

    def sentences(self) -> tuple[str, str, str]:
        """Return the three sentences, the first naming who holds the table."""
        who = "; ".join(map(str, self.blockers)) or "nobody any more"
        happened = f"`{self.verb}` could not lock the table of {self.name} in {self.tries} tries; holding it: {who}."
        again = "SPEC" if self.verb == "start" else self.name
        cancelled = f"what {self.cancelled} others ran" if self.cancelled else "nobody"
        state = f"{STANDS[self.verb]}; {{cancelled}} was cancelled." if self.verb in STANDS else self.state
        state = state.format(name=self.name, cancelled=cancelled)
        return happened, state, self.next.format(verb=self.verb, again=again)


def milliseconds(seconds: float) -> sql.Literal:
    """Return a time as PostgreSQL's settings take it."""
    return sql.Literal(f"{seconds * 1000:.0f}ms")


def frame(
    table: sql.Composable,
    body: Sequence[sql.Composable],
    *,
    lock_statements: Sequence[str],
    server_version: int,
    before: Sequence[sql.Composable] = (),
    deadline_seconds: float = DEADLINE_SECONDS,
    commit: bool = True,
) -> list[sql.Composable]:
    """Return the statements of one message, in order.

    BEGIN, `before`, the first lock, all locks under one deadline, the body, COMMIT (or ROLLBACK).
    """
    lock_timeout = milliseconds(deadline_seconds)
    parts = {
        "table": table,
        "table_name": sql.Literal(table.as_string()),
        "lock_timeout": lock_timeout,
        "statement_timeout": milliseconds(STATEMENT_SECONDS + 2),
        "transaction_timeout": milliseconds(STATEMENT_SECONDS + 4),
        "deadline": sql.Literal(f"{deadline_seconds * 1000:.0f} ms"),
        "statements": sql.Literal(list(lock_statements)),
    }
    first: list[sql.Composable] = [compose(_FILE, "begin", parts)]
    if server_version >= 170000:  # noqa: PLR2004 - where transaction_timeout began
        first.append(compose(_FILE, "transaction_timeout", parts))
    first += [
        *before,
        compose(_FILE, "first_lock", parts),
        compose(_FILE, "locks", parts),
        moment("locked"),
    ]
    end = sql.SQL("COMMIT") if commit else sql.SQL("ROLLBACK")
    return [*first, *body, moment("done"), end]


def whole(statements: Sequence[sql.Composable]) -> sql.Composed:
    """Return statements as the one message that they are sent as."""
    return sql.SQL(";\n").join(statements)


def moment(step: str) -> sql.Composed:
    """Return a statement that tells the server's time at the end of a step."""
    return compose(_FILE, "moment", {"step": sql.Literal(step)})


def lock_table(table: sql.Composable) -> str:
    """Return the statement that takes the table itself, the last of the locks but its partitions'."""
    return sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(table).as_string()


@asynccontextmanager
async def raw_connection(engine: AsyncEngine) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Lend a psycopg connection in autocommit mode, so that a message's own BEGIN and COMMIT count."""
    with translated(engine.url.render_as_string(hide_password=True)):
        async with engine.connect() as connection:
            raw = await driver(connection)
            await raw.set_autocommit(True)
            try:
                yield raw
            finally:
                if not raw.closed:
                    if raw.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                        await raw.execute("ROLLBACK")
                    await raw.set_autocommit(False)


@asynccontextmanager
async def unhurried(engine: AsyncEngine) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Lend a connection as `raw_connection` does, without time limits."""
    async with raw_connection(engine) as raw:
        await raw.execute(compose(_FILE, "unhurried"))
        try:
            yield raw
        finally:
            if not raw.closed:
                await raw.execute(compose(_FILE, "reset"))


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds that each step took under the lock, in order, by the server's clock."""

    steps: tuple[tuple[str, float], ...]
    #: Rows that lacked a vector under the lock (swaps only).
    dirty_rows: int = 0
    #: The connection broke around COMMIT: that it was committed, the database told afterwards, and no more.
    lost: bool = False

    @property
    def held_ms(self) -> float:
        """Milliseconds from the last lock's grant to the end, just before COMMIT."""
        return sum(took for _, took in self.steps)


async def send(raw: psycopg.AsyncConnection[Any], message: sql.Composed) -> Timing:
    """Send one message; returns how long its steps held the locks.

    Raises: psycopg.Error, after which the transaction is rolled back.
    """
    moments: list[tuple[str, float]] = []
    dirty_rows = 0

    def listen(diagnostic: psycopg.errors.Diagnostic) -> None:
        nonlocal dirty_rows
        match (diagnostic.message_primary or "").split():
            case ["migrator:", step, at]:
                moments.append((step, float(at)))
            case ["migrator-dirty:", rows]:
                dirty_rows = int(rows)

    raw.add_notice_handler(listen)
    try:
        await raw.execute(message)
    except psycopg.Error:
        if not raw.closed and raw.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
            await raw.execute("ROLLBACK")
        raise
    finally:
        raw.remove_notice_handler(listen)
    steps = tuple((step, (at - before) * 1000) for (_, before), (step, at) in pairwise(moments))
    return Timing(steps, dirty_rows)


async def climb(
    attempt: Callable[[], Awaitable[Timing]],
    *,
    blockers: Callable[[], Awaitable[list[Blocker]]],
    name: str,
    verb: str,
    on_wait: OnWait,
    cancel: Cancel | None = None,
    ladder: Sequence[float] = LADDER_SECONDS,
) -> Timing:
    """Try until the locks are had; pauses between tries, and says who was in the way. Returns what `attempt` does.

    `cancel` is asked behind each try that failed, but the last.

    Raises: LockNotObtained, when the ladder ends.
    """
    held: list[Blocker] = []
    cancelled = 0
    for number, pause in enumerate([*ladder, None], start=1):
        try:
            return await attempt()
        except LockBusy:
            held = await blockers()
            if pause is None:
                raise LockNotObtained(name, verb, number, held, cancelled) from None
            on_wait(number, held, pause)
            if cancel is not None:
                cancelled += await cancel(held)
            await asyncio.sleep(pause)
    raise AssertionError  # the last try returned or raised


async def until_locked(
    engine: AsyncEngine,
    oid: int,
    attempt: Callable[[], Awaitable[Timing]],
    *,
    name: str,
    verb: str,
    on_wait: OnWait,
    cancel: Cancel | None = None,
) -> Timing:
    """Try until the locks on one table are had.

    Raises: LockNotObtained.
    """

    async def blockers() -> list[Blocker]:
        async with transaction(engine) as connection:
            return await find_blockers(connection, [oid])

    return await climb(attempt, blockers=blockers, name=name, verb=verb, on_wait=on_wait, cancel=cancel)


async def find_blockers(connection: AsyncConnection, oids: Sequence[int]) -> list[Blocker]:
    """Return who holds locks on these relations."""
    rows = await fetch(connection, compose(_FILE, "blockers"), {"oids": list(oids)})
    return [Blocker(**row) for row in rows]


async def old_snapshots(connection: AsyncConnection, moment: Any) -> list[Blocker]:
    """Return who holds a snapshot from before `moment`."""
    rows = await fetch(connection, compose(_FILE, "old_snapshots"), {"moment": moment})
    return [Blocker(**row) for row in rows]


async def view_locks(connection: AsyncConnection, oids: Sequence[int]) -> list[str]:
    """Return the statements that lock views alone, in the order of their oids here."""
    rows = await fetch(connection, compose(_FILE, "view_locks"), {"oids": list(oids)})
    return [row["statement"] for row in rows]
