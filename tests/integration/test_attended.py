"""Attended steps on slow and frozen machines: a round that lost its lease is done again, a lost right is told."""

from __future__ import annotations

import asyncio

import pytest

from migrator.orchestrator import attended
from migrator.spending.worker import Worker
from tests.deployment import V3, Deployment, until
from tests.integration.steps import ready
from tests.integration.swaps import cut_over, roll_back

ROWS = 40


async def in_debt(deployment: Deployment, worker: Worker) -> None:
    """A migration that was cut over, and whose rows all changed since."""
    await ready(deployment, worker, ROWS)
    await cut_over(worker)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = body || ' edited'")


async def a_request_is_out(deployment: Deployment) -> None:
    await until(lambda: asyncio.to_thread(lambda: deployment.simulator.ledger()["in_flight"] > 0))


async def test_a_rollback_outlives_a_round_that_lost_its_lease(deployment: Deployment, worker: Worker) -> None:
    await in_debt(deployment, worker)
    deployment.simulator.admin(latency_seconds=0.5)
    rolling = asyncio.create_task(roll_back(worker))
    await a_request_is_out(deployment)
    with deployment.connect() as connection:
        changed = connection.execute("UPDATE migrator.duties SET fence = fence + 1 WHERE duty = 'settle'")
        assert changed.rowcount == 1
    await rolling
    assert deployment.status == "rolled_back"
    assert deployment.mismatches("embedding", V3) == []


async def test_a_step_that_lost_its_right_says_so_and_can_be_run_again(deployment: Deployment, worker: Worker) -> None:
    await in_debt(deployment, worker)
    deployment.simulator.admin(latency_seconds=2.5)
    rolling = asyncio.create_task(roll_back(worker))
    await a_request_is_out(deployment)
    with deployment.connect() as connection:
        connection.execute("UPDATE migrator.duties SET fence = fence + 1 WHERE duty = 'attend'")
    with pytest.raises(attended.Overtaken, match="`rollback` of docs stood still"):
        await rolling
    assert deployment.status == "completed"
    deployment.simulator.admin(latency_seconds=0)
    with deployment.connect() as connection:
        # Whoever took it is gone, too.
        connection.execute("UPDATE migrator.duties SET lease_until = clock_timestamp() WHERE duty = 'attend'")
    await roll_back(worker)
    assert deployment.mismatches("embedding", V3) == []
