"""How a writer says which generation its vectors are of, so that each lands in the column of its own generation.

Floor 0. Promise: a declaration holds for the session or for the transaction that was named, and never stays behind on a
connection that somebody else is given next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from migrator.generation import Generation

if TYPE_CHECKING:
    import psycopg

#: What a declaration for one transaction is, as SQL: SET LOCAL takes no parameters.
DECLARE = "SELECT set_config('migrator.generation', %s, true)"


class NotInTransaction(RuntimeError):
    """A declaration for one transaction was made where there is none: it would end with its own statement."""


def options(generation: str, others: str = "") -> str:
    """Return the connection option that declares a generation for a session's whole life; `others` come before it.

    `psycopg.connect(dsn, options=options("qwen/text-embedding-v4@1024"))`. Not behind a transaction pooler.
    Raises: ValueError for what is no generation.
    """
    return f"{others} -c migrator.generation={Generation.parse(generation)}".strip()


def declare(connection: psycopg.Connection[Any], generation: str) -> None:
    """Declare the generation of what this transaction writes, whatever pool or pooler the connection comes from.

    Raises: ValueError for what is no generation, NotInTransaction.
    """
    refuse_lost(connection)
    connection.execute(DECLARE.encode(), [str(Generation.parse(generation))], prepare=False)


async def declare_async(connection: psycopg.AsyncConnection[Any], generation: str) -> None:
    """Declare as `declare` does, on an asynchronous connection."""
    refuse_lost(connection)
    await connection.execute(DECLARE.encode(), [str(Generation.parse(generation))], prepare=False)


def refuse_lost(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Make sure that a declaration for one transaction has one.

    Raises: NotInTransaction.
    """
    if connection.autocommit and connection.info.transaction_status.name == "IDLE":
        raise NotInTransaction("open a transaction first: with connection.transaction(): ...")
