"""P3: a ticket that comes late, when somebody else has done what it says, does nothing and pays nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import position, verbs
from migrator.orchestrator import tick as ticking
from migrator.orchestrator.perform import perform
from migrator.orchestrator.tick import tick
from migrator.spending.renewal import renewed
from migrator.spending.worker import Worker
from migrator.state import batches, leases, migrations
from migrator.state.batches import Trust
from migrator.state.connection import transaction
from migrator.state.leases import Duty, Kind, Lease
from migrator.state.migrations import Migration
from tests.deployment import Deployment, until
from tests.integration.several import begin_another
from tests.integration.steps import begin, first_tickets, ready, stored, to
from tests.receiving import Receiver

S = MigrationStatus


def duty_status(deployment: Deployment) -> str:
    return str(deployment.value("SELECT status FROM migrator.duties WHERE duty = 'validate'"))


async def test_p3_a_validation_that_comes_late_asks_nobody(deployment: Deployment, worker: Worker) -> None:
    """Its lease was lost to somebody who has measured everything: the canary is not asked for nothing's sake."""
    await ready(deployment, worker, 10)
    billed = deployment.simulator.ledger()["tokens"]
    async with transaction(worker.engine) as connection:
        migration = await stored(worker)
        await leases.offer_duty(connection, migration.id, Duty.VALIDATE)
        (ticket,) = await batches.offer_duty(connection, migration, Duty.VALIDATE, Trust())
    assert "0 of 0 gates" in await perform(worker, ticket)
    assert deployment.simulator.ledger()["tokens"] == billed
    assert (deployment.status, duty_status(deployment)) == ("ready", "done")


async def test_p3_no_ticket_for_what_was_done_while_the_tick_looked(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(deployment, worker, 10)
    await to(worker, S.VALIDATING)
    original = ticking._catch_up  # the moment between the tick's first look and its offer

    async def somebody_concludes(
        connection: AsyncConnection, migration: Migration, *args: Any, **options: Any
    ) -> list[Any]:
        async with transaction(worker.engine) as another:
            await leases.offer_duty(another, migration.id, Duty.VALIDATE)
            lease = await leases.take(another, migration.id, Duty.VALIDATE, holder="another", seconds=60)
            assert lease is not None
            await leases.finish(another, lease)
            await migrations.move(another, migration, S.READY, actor="another")
        return await original(connection, migration, *args, **options)

    monkeypatch.setattr(ticking, "_catch_up", somebody_concludes)
    tickets = (await tick(worker.engine, actor="test")).tickets
    assert [each.label for each in tickets if ".validate." in each.label] == []
    assert duty_status(deployment) == "done"


async def test_r25_whoever_is_shut_down_just_after_claiming_gives_it_back(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease that nobody knows of would hold the migration up until it ran out."""
    await begin(deployment, worker, 10)
    await to(worker, S.VALIDATING)
    (ticket,) = [each for each in await first_tickets(worker) if ".validate." in each.label]
    original = leases.duty_of
    shut_down: list[asyncio.Task[str]] = []

    async def duty_of(connection: AsyncConnection, lease: Lease) -> Duty:
        shut_down[0].cancel()
        return await original(connection, lease)

    monkeypatch.setattr(leases, "duty_of", duty_of)
    shut_down.append(asyncio.create_task(perform(worker, ticket)))
    with pytest.raises(asyncio.CancelledError):
        await shut_down[0]
    (row,) = deployment.query("SELECT status, attempts, failure FROM migrator.duties WHERE duty = 'validate'")
    assert row == ("pending", 0, "shut down")


async def test_r25_a_shutdown_while_a_renewal_ends_is_heard(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is over, its last renewal is not: whoever is told to stop then must not go on to the next piece."""

    async def hold(*_: Any) -> int:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.5)  # a statement that is on its way is waited for
            raise
        return 0

    async def work() -> str:
        async with renewed(worker, Lease(Kind.BATCH, 1, 1, "test", 0.03)):
            await asyncio.sleep(0.2)
        return "went on"

    monkeypatch.setattr(leases, "hold", hold)
    assert await work() == "went on", "the renewal's own end is none of the work's"
    shut_down = asyncio.create_task(work())
    await asyncio.sleep(0.4)
    shut_down.cancel()
    with pytest.raises(asyncio.CancelledError):
        await shut_down
    await asyncio.sleep(0.6)  # the renewal ends by itself


async def test_p2_a_lease_that_a_landing_finds_lost_is_no_defect(deployment: Deployment, worker: Worker) -> None:
    """Before any renewal noticed: the ticket's line says so, and what was answered is counted."""
    worker.lease_seconds = 60
    await begin(deployment, worker, 10)
    ticket, *_ = await first_tickets(worker)
    deployment.simulator.admin(latency_seconds=0.5)
    working = asyncio.create_task(perform(worker, ticket))
    await until(lambda: asyncio.to_thread(lambda: deployment.simulator.ledger()["in_flight"] > 0))
    deployment.query("UPDATE migrator.batches SET fence = fence + 1 RETURNING 1")
    assert "was lost" in await working
    unwritten = deployment.value("SELECT sum(unwritten_tokens) FROM migrator.ledger WHERE purpose = 'backfill'")
    assert unwritten == deployment.needed_tokens()


async def test_r4_after_a_resume_even_a_late_validation_asks_the_canary(deployment: Deployment, worker: Worker) -> None:
    """Every gate is settled, and somebody paused and resumed: nothing goes on before the model was asked again."""
    await ready(deployment, worker, 10)
    await verbs.pause(worker.engine, "docs", actor="test")
    await verbs.resume(worker.engine, "docs", actor="test")
    billed = deployment.simulator.ledger()["tokens"]
    async with transaction(worker.engine) as connection:
        migration = await stored(worker)
        await leases.offer_duty(connection, migration.id, Duty.VALIDATE)
        (ticket,) = await batches.offer_duty(connection, migration, Duty.VALIDATE, Trust())
    await perform(worker, ticket)
    assert deployment.simulator.ledger()["tokens"] > billed


@pytest.mark.parametrize("table", ["hook_watches", "hook_events", "flows", "strays"])
async def test_p3_what_can_not_be_told_takes_no_ticket_back(
    deployment: Deployment, worker: Worker, receiver: Receiver, caplog: pytest.LogCaptureFixture, table: str
) -> None:
    """A tick that fails after its commits would lose every ticket for two minutes, each time."""
    del receiver
    await begin(deployment, worker, 10)
    with deployment.connect() as connection:
        connection.execute("UPDATE migrator.migrations SET binding = 'replica lag 9.0 s > 2.0 s', binding_at = now()")
        connection.execute(f"ALTER TABLE migrator.{table} RENAME TO gone".encode())
    made = await tick(worker.engine, actor="test", only="docs")
    assert [each.label for each in made.tickets if ".b0" in each.label] == ["docs.b000001.a1"]
    assert "Defect: A defect of this tool: PostgreSQL answered SQLSTATE 42P01" in caplog.text
    assert ("docs 0.0 %" in str(made)) is (table not in {"flows", "strays"})


async def test_p3_a_migration_that_fails_keeps_no_ticket_from_another(
    deployment: Deployment, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    await begin(deployment, worker, 10)
    await begin_another(deployment, worker, "notes", 10)
    with deployment.connect() as connection:
        connection.execute("UPDATE migrator.migrations SET windows = '{by night}' WHERE name = 'docs'")
    made = await tick(worker.engine, actor="test")
    assert [each.label for each in made.tickets if ".b0" in each.label] == ["notes.b000001.a1"]
    assert "docs was not looked after" in caplog.text
    assert "docs: ValueError" in str(made)
    with pytest.raises(ValueError, match="write it as"):
        await tick(worker.engine, actor="test", only="docs")


async def test_p12_a_tick_that_looks_how_far_it_is_holds_no_transaction_id(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it adds up and samples is committed before the long look: an id in use holds back what HOT updates need."""
    await begin(deployment, worker, 60)
    (ticket, *_) = await first_tickets(worker)
    await perform(worker, ticket)
    samples = "SELECT count(*) FROM migrator.flows"
    deployment.query("DELETE FROM migrator.flows RETURNING 1")
    assert deployment.value("SELECT count(*) FROM migrator.batches WHERE status = 'done' AND NOT folded") == 1
    held: list[Any] = []
    read = position.read

    async def looked(connection: AsyncConnection, *args: Any, **options: Any) -> position.Position:
        found = await read(connection, *args, **options)
        held.append((await connection.execute(text("SELECT pg_current_xact_id_if_assigned()::text"))).scalar_one())
        return found

    monkeypatch.setattr(position, "read", looked)
    await tick(worker.engine, actor="test")
    assert held == [None]
    assert deployment.value(samples) == 1
    assert deployment.value("SELECT count(*) FROM migrator.batches WHERE folded") == 1
