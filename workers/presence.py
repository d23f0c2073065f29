"""A sign of life of each worker, in Postgres, so that `status` and `doctor` can say whether anybody is there.

Floor 4. Written by the worker's main process every few seconds, over a connection that is opened and closed each time:
nothing may be open when a child is forked. A database that is away costs a log line.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from celery import bootsteps
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import migrator
from migrator import settings
from migrator.errors import MigratorError
from migrator.state import schema, workers
from migrator.state.connection import make_engine, transaction
from migrator.state.workers import SIGN_OF_LIFE_SECONDS

logger = logging.getLogger(__name__)


class SignOfLife(bootsteps.StartStopStep):
    """Signs every few seconds. A step of the consumer: Celery clears its timer when the broker's connection is lost."""

    requires = {"celery.worker.consumer.connection:Connection"}  # noqa: RUF012 - celery's protocol

    def __init__(self, _consumer: Any, **_: Any) -> None:
        self._timer_entry: Any = None

    def start(self, consumer: Any) -> None:
        """Sign at each connection, and from then on by the timer."""
        worker = consumer.controller
        _quietly(_forget_old())
        _sign_quietly(worker)
        self._timer_entry = consumer.timer.call_repeatedly(SIGN_OF_LIFE_SECONDS, _sign_quietly, (worker,))

    def stop(self, consumer: Any) -> None:
        """Stop signing: the next connection begins again."""
        del consumer
        if self._timer_entry is not None:
            self._timer_entry.cancel()


class Goodbye(bootsteps.StartStopStep):
    """Takes the worker's sign down at its end, which a lost connection is not."""

    def __init__(self, worker: Any, **_: Any) -> None:
        self._worker = worker

    def start(self, worker: Any) -> None:
        """Nothing to do yet."""

    def stop(self, worker: Any) -> None:
        """Say goodbye."""
        _quietly(_leave(worker.hostname))

    def terminate(self, worker: Any) -> None:
        """Say goodbye at a cold shutdown too."""
        self.stop(worker)


def _sign_quietly(worker: Any) -> None:
    slots = int(worker.concurrency or 1)
    queues = sorted(worker.app.amqp.queues.consume_from)
    _quietly(_sign(worker.hostname, slots, queues))


def _quietly(step: Any) -> None:
    try:
        asyncio.run(step)
    except MigratorError as error:
        logger.warning("no sign of life could be written: %s", error.sentences()[0])


@functools.cache
def _engine(url: str) -> AsyncEngine:
    """Return the one engine of this process: a new one would ask the server what it is each time."""
    return make_engine(url, "migrator presence", pool_size=0)


@asynccontextmanager
async def _signing() -> AsyncIterator[AsyncConnection]:
    engine = _engine(settings.load().required_database_url())
    async with transaction(engine, lock_timeout_seconds=1, statement_timeout_seconds=2) as connection:
        yield connection


async def _sign(name: str, slots: int, queues: list[str]) -> None:
    async with _signing() as connection:
        if await schema.current(connection) != schema.head():
            return
        wanted = await connection.execute(
            text(
                "SELECT DISTINCT spec -> part ->> 'api_key_env' FROM migrator.migrations,"
                " unnest(ARRAY['from', 'to']) AS part WHERE spec -> part ->> 'api_key_env' IS NOT NULL"
            )
        )
        present = [variable for variable in wanted.scalars() if settings.has_secret(variable)]
        await workers.sign(
            connection,
            name=name,
            host=socket.gethostname(),
            pid=os.getpid(),
            slots=slots,
            queues=queues,
            version=migrator.__version__,
            keys_present=sorted(present),
        )


async def _forget_old() -> None:
    async with _signing() as connection:
        if await schema.current(connection) == schema.head():
            await workers.forget_old(connection)


async def _leave(name: str) -> None:
    async with _signing() as connection:
        await workers.leave(connection, name)
