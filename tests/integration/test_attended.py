"""Attended steps on slow and frozen machines: a round that lost its lease is done again, a lost right is told."""

from __future__ import annotations

import asyncio

import pytest

from migrator.cutover.swapping import CUTOVER, ROLLBACK
from migrator.errors import StatusConflict
from migrator.orchestrator import attendance
from migrator.orchestrator.foresight import foresee
from migrator.spending.worker import Worker
from tests.deployment import V3, V4, Deployment, until
from tests.integration import catalog
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
    with pytest.raises(attendance.Overtaken, match="`rollback` of docs stood still"):
        await rolling
    assert deployment.status == "completed"
    deployment.simulator.admin(latency_seconds=0)
    with deployment.connect() as connection:
        # Whoever took it is gone, too.
        connection.execute("UPDATE migrator.duties SET lease_until = clock_timestamp() WHERE duty = 'attend'")
    await roll_back(worker)
    assert deployment.mismatches("embedding", V3) == []


async def test_what_a_swap_would_do_is_told_and_nothing_is_done(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, ROWS)
    before = catalog.picture(deployment.url)
    with pytest.raises(StatusConflict, match="`rollback` needs docs to be completed"):
        await foresee(worker, "docs", ROLLBACK)
    told = await foresee(worker, "docs", CUTOVER)
    assert told.generation == f"qwen/{V4}@64"
    assert told.objects == [
        ("column", "embedding", "becomes embedding__migrator"),
        ("column", "embedding__migrator", "becomes embedding"),
        ("index", "docs_embedding_idx", "changes names with docs_embedding_idx__migrator"),
        ("view", "public.docs_view", "re-point"),
    ]
    assert told.dirty_rows == 0
    assert catalog.picture(deployment.url) == before
    await cut_over(worker)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = body || ' edited' WHERE id <= 3")
    told = await foresee(worker, "docs", ROLLBACK)
    assert (told.generation, told.dirty_rows) == (f"{V3}@64", 3)
