"""What became of a message whose connection broke: only the database knows, and not before the server is done with it.

Floor 1. Promise (P9): nobody is told that nothing happened while the transaction can still commit, or that something
did which was rolled back. A server that has the whole message goes on with it after its client is gone, so it is waited
for, for as long as a message can take; one that does not answer is asked again, and then it is said that it is not
known.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.errors import MigratorError, TransientError
from migrator.state import migrations
from migrator.state.connection import DatabaseGone, DatabaseRefused, DatabaseUnreachable, fetch, transaction
from migrator.state.migrations import Migration
from migrator.statements import compose
from migrator.target import message
from migrator.target.message import Timing

#: Seconds until it is said that it is not known: a message ends within six (`message.frame`), a restart takes longer.
PATIENCE_SECONDS = 20.0
_PAUSE_SECONDS = 0.1


@dataclass(eq=False)
class Undone(TransientError):
    """The connection broke before COMMIT, and the server rolled everything back."""

    name: str
    verb: str
    why: str

    runbook = "database-unreachable"
    happened = "The connection was lost during `{verb}` of {name} ({why}), and all of it was rolled back."
    state = "{name} stands where it stood: it was looked up afterwards."
    next = "Run `migrator {verb} {again}` again."

    def sentences(self) -> tuple[str, str, str]:
        """Return the three sentences; `start` takes a file, not a name, and some verbs had done something before."""
        values = {"name": self.name, "verb": self.verb, "why": self.why}
        again = "SPEC" if self.verb == "start" else self.name
        happened, state = self.happened, self.state
        if self.verb in message.STANDS:
            happened = happened.replace("all of it was", "its last transaction was")
            state = message.STANDS[self.verb] + ": it was looked up afterwards."
        return happened.format(**values), state.format(**values), self.next.format(again=again, **values)


@dataclass(eq=False)
class OutcomeUnknown(TransientError):
    """The connection broke around COMMIT, and the database does not say what happened."""

    name: str
    verb: str
    why: str

    runbook = "database-unreachable"
    happened = (
        "The connection was lost during `{verb}` of {name}, and the database can't be asked what became of it: {why}."
    )
    state = "It is done as a whole, or nothing of it is."
    next = "Run `migrator status {name}` as soon as the database answers, which says where it stands."

    def sentences(self) -> tuple[str, str, str]:
        """Return the three sentences; of steps behind others of their verb, `status` says too little."""
        happened, state, following = MigratorError.sentences(self)
        if self.verb in message.STANDS:
            state = "What the verb did before stands; the transaction that was lost is done as a whole, or not at all."
            again = f"`migrator {self.verb} {self.name}`"
            following = f"Run {again} again as soon as the database answers: what is done already does it no harm."
        return happened, state, following


#: Says of a migration, read afterwards, whether the message was committed.
Done = Callable[[Migration], bool]
#: Makes an error of ours from the server's, where it knows more than `as_ours`.
Read = Callable[[psycopg.Error], Exception | None]


def _nothing(_: psycopg.Error) -> None:
    """Know nothing more."""


async def send(
    engine: AsyncEngine,
    framed: sql.Composed,
    migration: Migration,
    *,
    verb: str,
    done: Done,
    read: Read = _nothing,
) -> Timing:
    """Send a message that moves a migration; `read` makes errors of its own from the server's.

    Returns a timing without steps where only the database's word tells that it was committed.
    Raises: Undone, OutcomeUnknown, LockBusy and other errors of ours.
    """
    mark = f"/* migrator {secrets.token_hex(8)} */"
    pid, alive = None, False
    try:
        async with message.raw_connection(engine) as raw:
            pid = raw.info.backend_pid
            try:
                return await message.send(raw, sql.SQL("{} {}").format(_comment(mark), framed))
            except psycopg.Error as error:
                ours, alive = read(error), not raw.closed
                if ours is None:
                    raise
                raise ours from None
    except (DatabaseGone, DatabaseUnreachable) as lost:
        if pid is None or alive:  # nothing was sent; or the server itself said that it could not, and rolled back
            raise
        if done(await _settled(engine, migration, verb, pid, mark)):
            return Timing((), lost=True)
        raise Undone(migration.name, verb, lost.why) from None


def _comment(mark: str) -> sql.SQL:
    made: Any = mark  # ours alone: hexadecimal digits
    return sql.SQL(made)


async def _settled(engine: AsyncEngine, migration: Migration, verb: str, pid: int, mark: str) -> Migration:
    """Return the migration as it stands when the backend is gone."""
    loop = asyncio.get_running_loop()
    until, why = loop.time() + PATIENCE_SECONDS, "its session is still there"
    sent = {"pid": pid, "mark": mark}
    while loop.time() < until:
        try:
            async with transaction(engine) as connection:
                if not await fetch(connection, compose("target/message.sql", "backend"), sent):
                    return await migrations.get_by_id(connection, migration.id)
        except (DatabaseGone, DatabaseRefused, DatabaseUnreachable) as error:
            why = error.why
        await asyncio.sleep(_PAUSE_SECONDS)
    raise OutcomeUnknown(migration.name, verb, why)


async def insist(
    engine: AsyncEngine,
    oid: int,
    framed: sql.Composed,
    migration: Migration,
    *,
    verb: str,
    done: Done,
    on_wait: message.OnWait,
    cancel: message.Cancel | None = None,
) -> Timing:
    """Send until the locks on one table are had.

    Raises: LockNotObtained, and what `send` raises.
    """

    async def attempt() -> Timing:
        return await send(engine, framed, migration, verb=verb, done=done)

    return await message.until_locked(
        engine, oid, attempt, name=migration.name, verb=verb, on_wait=on_wait, cancel=cancel
    )
