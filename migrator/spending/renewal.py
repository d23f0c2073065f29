"""Keeping a lease while work goes on.

Floor 1, its top. Promise: a holder whose renewal was refused stops within a third of the lease's time: its requests in
flight are cancelled and stay counted as possibly billed, and nothing of it can be committed any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from migrator.errors import MigratorError
from migrator.spending.worker import Worker
from migrator.state import leases
from migrator.state.connection import transaction
from migrator.state.leases import Lease, LeaseLost


@contextlib.asynccontextmanager
async def renewed(worker: Worker, lease: Lease) -> AsyncIterator[None]:
    """Renew a lease every third of its time; the body is cancelled, and LeaseLost raised, when that fails."""
    body = asyncio.current_task()
    assert body is not None  # noqa: S101 - we are in a coroutine
    lost: list[LeaseLost] = []

    async def renew() -> None:
        while True:
            await asyncio.sleep(lease.seconds / 3)
            try:
                async with transaction(worker.engine) as connection:
                    await leases.hold(connection, lease)
            except LeaseLost as error:
                lost.append(error)
                body.cancel()
                return
            except MigratorError:
                continue  # the database is away: the lease may outlast that, and the next write will tell

    renewal = asyncio.create_task(renew())
    try:
        yield
    except asyncio.CancelledError:
        if lost and not body.uncancel():
            raise lost[0] from None
        raise
    finally:
        renewal.cancel()
        # Not awaited itself: its cancellation would be taken for ours, and ours for its.
        await asyncio.wait([renewal])
