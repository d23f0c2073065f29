"""Swaps as tests make them: in this process, without an operator, and killed at every statement."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import psycopg
from psycopg import sql as psql

from migrator.cutover import swapping
from migrator.cutover.swapping import CUTOVER
from migrator.orchestrator import attended
from migrator.spending.worker import Worker
from migrator.target import message
from migrator.target.swap import Bounds
from tests.deployment import Deployment
from tests.integration import catalog
from tests.integration.steps import stored

ANY = Bounds(1000, 1000.0)


def quiet(*_: object) -> None:
    """Nobody listens."""


async def cut_over(worker: Worker, rows: int = 100) -> attended.Swapped:
    return await attended.cut_over(worker, "docs", max_dirty_rows=rows, actor="test", tell=quiet)


async def roll_back(worker: Worker, rows: int = 100) -> attended.Swapped:
    return await attended.roll_back(worker, "docs", max_dirty_rows=rows, actor="test", tell=quiet)


async def swap(worker: Worker, direction: swapping.Direction = CUTOVER, ladder: Sequence[float] = ()) -> message.Timing:
    """The swap alone, without waiting for anything."""
    return await swapping.swap(
        worker.engine, await stored(worker), direction, bounds=ANY, actor="test", on_wait=quiet, ladder=ladder
    )


def sweep(deployment: Deployment, whole: Sequence[psql.Composable]) -> int:
    """Kill the connection before each statement in turn; everything must be as it was. Returns how many there were."""
    for stop in range(1, len(whole)):
        before = catalog.picture(deployment.url)
        with psycopg.connect(deployment.url, autocommit=True) as connection:
            for statement in whole[:stop]:
                connection.execute(psql.Composed([statement]))
            with deployment.connect() as killer:
                killer.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
                _gone(killer, connection.info.backend_pid)
            with contextlib.suppress(psycopg.OperationalError):
                connection.execute(psql.Composed([whole[stop]]))
        assert catalog.picture(deployment.url) == before, f"killed before statement {stop}"
    return len(whole)


def _gone(connection: psycopg.Connection, pid: int) -> None:
    while connection.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone():
        time.sleep(0.005)
