"""Steps of a migration in this process, for tests that look at what happens between them."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import psycopg
from psycopg import sql as psql

from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import origin, verbs, work
from migrator.orchestrator.perform import perform
from migrator.orchestrator.tick import tick
from migrator.spending.worker import Worker
from migrator.state import dirty, migrations
from migrator.state.connection import transaction
from migrator.state.leases import Ticket
from migrator.state.migrations import Migration
from tests.deployment import Deployment, until

#: What a table was made from -> the URL of a database where it is `ready`; each process of the tests has its own.
_COPIES: dict[str, str] = {}
_LEAVE_TRIES = 25


async def begin(deployment: Deployment, worker: Worker, rows: int) -> None:
    """Plan and start a table of so many rows."""
    deployment.make_table(rows)
    await start(deployment, worker)


async def start(deployment: Deployment, worker: Worker) -> None:
    _, not_stored = await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    assert not_stored is None
    await origin.fingerprint(worker, await stored(worker))
    await verbs.start(worker.engine, deployment.spec, path="docs.toml", actor="test", on_wait=lambda *_: None)


async def to(worker: Worker, status: MigrationStatus) -> None:
    await work.work(worker, "docs", until=status, on_line=lambda _: None)


async def first_tickets(worker: Worker) -> list[Ticket]:
    # `only`: as somebody who works here, without a broker. A ticket that nobody took is given again then.
    return (await tick(worker.engine, actor="test", only="docs", ticket_seconds=worker.ticket_seconds)).tickets


async def drain(worker: Worker) -> None:
    """Let catch-up finish what is dirty."""

    async def clean() -> bool:
        for ticket in await first_tickets(worker):
            await perform(worker, ticket)
        async with transaction(worker.engine) as connection:
            found = await migrations.get(connection, "docs")
            counts = [await dirty.count(connection, found.id, side) for side in Side]
        return all(count == 0 for count, _ in counts)

    await until(clean)


async def settled(deployment: Deployment, worker: Worker) -> None:
    """Let catch-up give vectors to what is live."""

    async def clean() -> bool:
        for ticket in await first_tickets(worker):
            await perform(worker, ticket)
        live = "migrator.dirty AS d JOIN migrator.migrations AS m ON m.id = d.migration_id AND d.side = m.live_side"
        return bool(deployment.value(f"SELECT count(*) FROM {live}") == 0)

    await until(clean, 20)


async def ready(deployment: Deployment, worker: Worker, rows: int = 40, *, anew: bool = False) -> Migration:
    """Take a new table to `ready`: the first time by the engine, then as a copy of the database that it left.

    A copy lacks what a server keeps beside its databases (the statistics of writes), and the provider's bill. A test
    that reads them, or that has the provider behave otherwise, makes its table `anew`.
    """
    made = f"{rows} {json.dumps(deployment.spec_data, sort_keys=True)} {deployment.url.rpartition('/')[0]}"
    await worker.engine.dispose()
    if not anew and made in _COPIES and (await asyncio.to_thread(copied, _COPIES[made], deployment.url)):
        with deployment.connect() as connection:
            # The gates were measured just now, as far as this test is concerned.
            connection.execute("UPDATE migrator.verdicts SET at = clock_timestamp()")
        return await stored(worker)
    await begin(deployment, worker, rows)
    await to(worker, MigrationStatus.READY)
    await worker.engine.dispose()
    copy = f"{deployment.url.rpartition('/')[0]}/ready_{len(_COPIES) + 1}"
    if not anew and made not in _COPIES and await asyncio.to_thread(copied, deployment.url, copy):
        _COPIES[made] = copy
    return await stored(worker)


def copied(source: str, to: str) -> bool:
    """Make a database anew as the copy of another; False, and nothing done, where somebody is connected to one."""
    server, _, target = to.rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        names = [source.rpartition("/")[2], target]
        for _ in range(_LEAVE_TRIES):  # a connection that was just closed takes a moment to leave
            busy = connection.execute("SELECT 1 FROM pg_stat_activity WHERE datname = ANY(%s)", [names]).fetchone()
            if busy is None:
                break
            time.sleep(0.02)
        else:
            return False
        connection.execute(psql.SQL("DROP DATABASE IF EXISTS {}").format(psql.Identifier(target)))
        parts = {"target": psql.Identifier(target), "source": psql.Identifier(names[0])}
        connection.execute(psql.SQL("CREATE DATABASE {target} TEMPLATE {source}").format(**parts))
    return True


async def stored(worker: Worker) -> Migration:
    async with transaction(worker.engine) as connection:
        return await migrations.get(connection, "docs")


async def held_open(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    """Our transactions that have been open for longer than the milliseconds that a lease's renewal takes.

    One that is found is looked at again: on a machine that is busy a renewal may be slow, and ends all the same.
    """
    if found := _open(connection, 0.2):
        await asyncio.sleep(0.5)
        held = {each[:2] for each in _open(connection, 0.7)}
        found = [each for each in found if each[:2] in held]
    return found


def _open(connection: psycopg.Connection, seconds: float) -> list[tuple[Any, ...]]:
    return connection.execute(
        """SELECT pid, xact_start, state, backend_xmin, backend_xid FROM pg_stat_activity
            WHERE application_name LIKE 'migrator%%' AND datname = current_database()
              AND (state LIKE 'idle in transaction%%' OR backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
              AND xact_start < clock_timestamp() - make_interval(secs => %s)""",
        [seconds],
    ).fetchall()
