"""Which workers live: written by each worker every few seconds, read by `status`, `doctor` and `tick`.

Floor 1. A worker's row says nothing about its work (leases do); it answers "is anybody there?".
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.tables import workers

#: Seconds between two signs of life, and how long one is believed: three may be missed.
SIGN_OF_LIFE_SECONDS = 10
ALIVE_SECONDS = 35
#: A worker not seen for this long is forgotten.
FORGET_SECONDS = 86_400


async def sign(
    connection: AsyncConnection,
    *,
    name: str,
    host: str,
    pid: int,
    slots: int,
    queues: Sequence[str],
    version: str,
    keys_present: Sequence[str],
) -> None:
    """Write down that a worker lives, and what it is."""
    values = {
        "host": host,
        "pid": pid,
        "slots": slots,
        "queues": list(queues),
        "version": version,
        "keys_present": list(keys_present),
        "last_seen": func.clock_timestamp(),
    }
    statement = insert(workers).values(name=name, **values)
    await connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=values))


async def forget_old(connection: AsyncConnection) -> None:
    """Forget workers that were not seen for a day; whoever starts one does it."""
    old = func.clock_timestamp() - timedelta(seconds=FORGET_SECONDS)
    await connection.execute(delete(workers).where(workers.c.last_seen < old))


async def leave(connection: AsyncConnection, name: str) -> None:
    """Forget a worker that says goodbye."""
    await connection.execute(delete(workers).where(workers.c.name == name))


async def alive(connection: AsyncConnection) -> Sequence[Row[Any]]:
    """Return the workers seen lately."""
    since = func.clock_timestamp() - timedelta(seconds=ALIVE_SECONDS)
    query = select(workers).where(workers.c.last_seen > since).order_by(workers.c.name)
    return (await connection.execute(query)).all()
