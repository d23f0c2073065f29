"""What stops or slows a migration: the provider, its limits, the cap, a pause."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import verbs
from migrator.orchestrator.perform import perform
from migrator.orchestrator.work import CameToRest
from migrator.spending.worker import Worker
from tests.deployment import V4, Deployment, until
from tests.integration.steps import begin, first_tickets, to

S = MigrationStatus


async def test_p7_the_cap_is_hard_and_resume_goes_on(deployment: Deployment, worker: Worker) -> None:
    deployment.spec_data["limits"]["max_cost_usd"] = 0.003
    await begin(deployment, worker, 400)
    with pytest.raises(CameToRest, match="CapReached"):
        await to(worker, S.READY)
    usd = deployment.simulator.ledger()["tokens"] * 1.0 / 1e6
    assert 0 < usd <= 0.003
    assert deployment.status == "paused"
    (committed, cap) = deployment.query("SELECT committed_usd, max_usd FROM migrator.budgets")[0]
    assert committed <= cap
    await verbs.set_limits(worker.engine, "docs", verbs.NewLimits(max_cost_usd=1.0), actor="test")
    await verbs.resume(worker.engine, "docs", actor="test")
    await to(worker, S.READY)
    assert deployment.mismatches("embedding__migrator", V4) == []


async def test_pause_takes_effect_with_the_next_request(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 200)
    deployment.simulator.admin(latency_seconds=0.2)
    (ticket,) = await first_tickets(worker)
    running = asyncio.create_task(perform(worker, ticket))
    await until(lambda: asyncio.to_thread(lambda: deployment.simulator.ledger()["requests"] >= 4))
    await verbs.pause(worker.engine, "docs", actor="test")
    assert "WorkStopped" in await running
    written = deployment.value("SELECT count(embedding__migrator) FROM docs")
    ledger = deployment.simulator.ledger()
    assert written == sum(len(entry["digests"]) for entry in deployment.entries())
    assert ledger["requests"] <= 12
    batch = deployment.query("SELECT status, attempts FROM migrator.batches")
    assert batch == [("pending", 0)], "a pause is no attempt"
    deployment.simulator.admin(latency_seconds=0)
    await verbs.resume(worker.engine, "docs", actor="test")
    await to(worker, S.READY)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"status": 401, "body": {"error": {"code": "invalid_api_key", "message": "no"}}}, "key refused"),
        ({"status": 400, "body": {"code": "Arrearage", "message": "Access denied"}}, "account in arrears"),
        ({"status": 200, "body": {"code": "Arrearage", "message": "Access denied"}}, "account in arrears"),
        (
            {"status": 404, "body": {"error": {"code": "model_not_found", "message": "x"}}},
            "model or endpoint not found",
        ),
        ({"status": 302, "body": {}, "headers": {"location": "http://127.0.0.1:1/"}}, "moved elsewhere"),
    ],
)
async def test_a_provider_that_refuses_pauses_with_the_reason(
    deployment: Deployment, worker: Worker, fault: dict[str, Any], reason: str
) -> None:
    await begin(deployment, worker, 30)
    deployment.simulator.admin(faults=[{"count": 50, **fault}])
    with pytest.raises(CameToRest, match=reason):
        await to(worker, S.READY)
    assert deployment.query("SELECT * FROM migrator.dispositions") == [], "no row is blamed"
    asked = deployment.value("SELECT sum(spent_usd) FROM migrator.ledger WHERE purpose = 'canary'")
    assert deployment.value("SELECT committed_usd FROM migrator.budgets") == asked, "refused requests were refunded"
    deployment.simulator.admin(no_faults=True)
    await verbs.resume(worker.engine, "docs", actor="test")
    await to(worker, S.READY)


@pytest.mark.parametrize(
    ("fault", "possibly_billed"),
    [
        ({"status": 429, "body": {"error": {"code": "limit_requests"}}, "headers": {"retry-after-ms": "20"}}, False),
        ({"status": 429, "body": {"error": {"code": "insufficient_quota"}}, "headers": {"retry-after": "0.02"}}, False),
        ({"status": 503, "body": {}}, False),
        ({"status": 500, "body": {}}, True),
        ({"status": 200, "body": {"data": [], "usage": {"prompt_tokens": 7}}}, False),
    ],
)
async def test_a_provider_that_stumbles_is_asked_again(
    deployment: Deployment,
    worker: Worker,
    fault: dict[str, Any],
    possibly_billed: bool,  # noqa: FBT001
) -> None:
    await begin(deployment, worker, 30)
    deployment.simulator.admin(faults=[{"count": 1, **fault}])
    await to(worker, S.READY)
    assert deployment.mismatches("embedding__migrator", V4) == []
    assert deployment.value("SELECT count(*) FROM migrator.reservations WHERE possibly_billed") == int(possibly_billed)
    assert deployment.query("SELECT attempts FROM migrator.batches") == [(1,)]


async def test_the_batch_size_limit_is_learnt_from_the_refusal(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 60)
    deployment.simulator.admin(max_texts=4)
    await to(worker, S.READY)
    assert deployment.query("SELECT DISTINCT max_texts FROM migrator.paces WHERE max_texts IS NOT NULL") == [(4,)]
    entries = deployment.entries()
    assert max(len(entry["digests"]) for entry in entries) == 4
    assert deployment.simulator.ledger()["refused"] == {"InvalidParameter": pytest.approx(4, abs=4)}


async def test_the_requests_limit_paces_and_says_that_it_binds(deployment: Deployment, worker: Worker) -> None:
    deployment.spec_data["limits"]["requests_per_minute"] = 600
    await begin(deployment, worker, 300)
    loop = asyncio.get_running_loop()
    began, seen = loop.time(), set()
    working = asyncio.create_task(to(worker, S.INDEXING))
    while not working.done():
        seen |= {
            row[0] for row in deployment.query("SELECT binding FROM migrator.migrations WHERE binding IS NOT NULL")
        }
        await asyncio.sleep(0.1)
    await working
    assert loop.time() - began > 1.8, "30 requests at 10 a second, ten of them at once"
    assert deployment.simulator.ledger()["refused"] == {}
    assert "requests/min (slow start)" in seen
    assert seen <= {"requests/min", "requests/min (slow start)"}
