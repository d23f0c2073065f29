"""H27: a standby is promoted that had not heard of everything: fences, leases and the ledger went back in time."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from migrator.demo.servers import Postgres, _as_nobody
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import verbs
from migrator.orchestrator.perform import perform
from migrator.spending.worker import Worker
from migrator.state import leases
from migrator.state.connection import transaction
from migrator.state.leases import LeaseLost
from tests.deployment import V4, Deployment
from tests.integration.steps import begin, drain, first_tickets, to

Deploy = Callable[[Postgres], Awaitable[tuple[Deployment, Worker]]]


@pytest.fixture
def standby(scratch: Path) -> Iterator[Postgres]:
    made = Postgres(scratch / "standby", settings={"fsync": "off"})
    yield made
    made.remove()


def _copy(primary: Postgres, standby: Postgres) -> None:
    """Copy a running primary as it stands now; nothing that comes later reaches the copy."""
    standby.home.mkdir()
    account = _as_nobody()
    if account:
        standby.home.chmod(0o711)
        os.chown(standby.home, account["user"], account["group"])
    assert primary.programs is not None
    words = ["-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres", "-c", "fast", "-X", "stream", "--no-sync"]
    done = subprocess.run(
        [primary.programs / "pg_basebackup", *words, "-D", standby.home / "data"],
        capture_output=True, cwd="/", check=False, **account,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    signal_file = standby.home / "data" / "standby.signal"
    signal_file.touch()
    if account:
        os.chown(signal_file, account["user"], account["group"])


async def test_h27_after_a_failover_nothing_claimed_before_is_committed_and_it_pauses(
    scratch_server: Callable[..., Postgres], standby: Postgres, deployment_on: Deploy
) -> None:
    primary = scratch_server()
    deployment, worker = await deployment_on(primary)
    await begin(deployment, worker, 60)
    (ticket,) = await first_tickets(worker)
    async with transaction(worker.engine) as connection:
        slept = await leases.claim(connection, ticket, holder="slept", seconds=600)
    assert slept is not None
    _copy(primary, standby)
    # What the standby never hears of: the batch was rescued, done by somebody else, and paid.
    with deployment.connect() as connection:
        connection.execute("UPDATE migrator.batches SET lease_until = now() - interval '1 second'")
    for again in await first_tickets(worker):
        await perform(worker, again)
    paid = deployment.value("SELECT spent_tokens FROM migrator.ledger WHERE purpose = 'backfill'")
    assert paid == deployment.needed_tokens()
    await worker.close()
    primary.kill()
    standby.start()
    with psycopg.connect(standby.url, autocommit=True) as connection:
        connection.execute("SELECT pg_promote(wait => true)")

    after, other = await deployment_on(standby)
    assert after.value("SELECT count(embedding__migrator) FROM docs") == 0, "it was lost with the primary"
    with pytest.raises(LeaseLost):
        async with transaction(other.engine) as connection:
            await leases.hold(connection, slept)  # the same fence, still leased and not run out: on this side of time
    assert await first_tickets(other) == []
    reason = after.value("SELECT reason FROM migrator.migrations")
    assert "timeline changed from 1 to 2" in reason
    assert "provider's bill" in reason
    await verbs.resume(other.engine, "docs", actor="test")
    with after.connect() as connection:
        connection.execute("UPDATE migrator.batches SET lease_until = now() - interval '1 second'")
    await to(other, MigrationStatus.READY)
    await drain(other)
    assert after.mismatches("embedding__migrator", V4) == []
