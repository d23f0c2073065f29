"""Steps of a migration in this process, for tests that look at what happens between them."""

from __future__ import annotations

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


async def ready(deployment: Deployment, worker: Worker, rows: int = 40) -> Migration:
    """Take a new table to `ready`."""
    await begin(deployment, worker, rows)
    await to(worker, MigrationStatus.READY)
    return await stored(worker)


async def stored(worker: Worker) -> Migration:
    async with transaction(worker.engine) as connection:
        return await migrations.get(connection, "docs")
